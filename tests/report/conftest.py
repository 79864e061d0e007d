"""A small folder as `nelbo demo` writes one, with a real bound of a model whose bound is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nelbo import evaluate
from nelbo.model.exact import CategoricalData
from nelbo.process import grid, schedule


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "demo"
    (folder / "model").mkdir(parents=True)
    data = CategoricalData(torch.rand(16, 17, generator=torch.Generator().manual_seed(1)) ** 4 + 0.01)
    model = data.model(schedule.logsnr_linear(5.0, -6.0), grid.even(12), exact_ends=False)
    bound = evaluate(model, data.sample(20), estimator="exhaustive").to_dict()
    bound["domain"]["shape"] = [4, 4]
    bound["data"]["name"] = "digits:test"
    (folder / "bound.json").write_text(json.dumps(bound))
    records = [{"step": s, "loss": 2 + 2 / s, "lr": 1e-3, "seconds": s / 10} for s in range(1, 60)]
    (folder / "model" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    description = {"schema": "nelbo.model/1", "domain": bound["domain"], "provenance": {"trained_by": "nelbo 0.0"}}
    (folder / "model" / "model.json").write_text(json.dumps(description))
    rng = np.random.default_rng(0)
    np.savez(
        folder / "pictures.npz",
        samples=rng.integers(0, 17, (9, 4, 4)),
        data=rng.integers(0, 17, (9, 4, 4)),
        trajectory=rng.standard_normal((20, 2, 4, 4)),
        denoised=rng.uniform(-1, 1, (20, 2, 4, 4)),
        trajectory_logsnr=np.linspace(-6, 5, 20),
    )
    rows = [{"name": "JPEG XL", "bits_per_dim": 2.40, "note": "one sheet"}, {"name": "PNG", "bits_per_dim": 3.31}]
    (folder / "comparison.json").write_text(json.dumps({"rows": rows}))
    return folder


@pytest.fixture
def demo(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be altered."""
    return Path(shutil.copytree(written, tmp_path / "demo"))


@pytest.fixture
def alter(demo: Path) -> Callable[..., dict]:
    """alter(**fields) changes top-level fields of bound.json (None: removes them) and returns the result."""

    def change(**fields: object) -> dict:
        bound = json.loads((demo / "bound.json").read_text()) | fields
        bound = {k: v for k, v in bound.items() if v is not None}
        (demo / "bound.json").write_text(json.dumps(bound))
        return bound

    return change

"""Small data and settings that the tests of training share: a run takes a fraction of a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nelbo.errors import Interrupted
from nelbo.model.examples import Examples
from nelbo.training import train
from nelbo.typing import Json

SMALL: Json = {
    "steps": 12,
    "batch_size": 16,
    "levels": 8,
    "checkpoint_every": 4,
    "log_every": 5,
    "warmup": 2,
    "lr": 0.01,
    "net": {"name": "mlp", "width": 16, "embedding": 8, "blocks": 1},
}
BINS = 5


def small(**changes) -> Json:
    """SMALL with other values; those of `net` go on top of the small network's."""
    net = changes.pop("net", {})
    return {**SMALL, **changes, "net": {**SMALL["net"], **net}}


def codes(n: int = 40, shape: tuple[int, ...] = (3, 3), seed: int = 1) -> Examples:
    """Codes with something to learn: a common level an example, plus a little noise; no two examples alike."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(1, BINS - 1, (2 * n,) + (1,) * len(shape), generator=generator)
    data = level + torch.randint(-1, 2, (2 * n, *shape), generator=generator)
    different = torch.unique(data, dim=0)
    assert len(different) >= n
    return Examples(different[torch.randperm(len(different), generator=generator)[:n]], f"codes {seed}", bins=BINS)


def log_of(out: Path) -> list[Json]:
    """The records of log.jsonl, without the time that they took."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "seconds" not in key} for record in records]


def stop(step: int) -> Callable[[Json], None]:
    """A progress callback that interrupts a run after `step`, before a bound of that step."""

    def progress(record: Json) -> None:
        if record["step"] == step and "bound" not in record:
            raise KeyboardInterrupt

    return progress


def interrupt(out: Path, settings: Json, *steps: int, data: Examples | None = None) -> None:
    """A run that is interrupted after each of the steps, and continued in between."""
    for step in steps:
        with pytest.raises(Interrupted, match=f"after step {step} of {settings['steps']}") as caught:
            train(codes() if data is None else data, out, settings, progress=stop(step), resume=True)
        assert "resume=True" in caught.value.hint
    assert not (out / "model.json").exists()

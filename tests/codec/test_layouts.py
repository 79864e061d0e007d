"""Somebody's folder in, the same folder out: names, order and every pixel, on ten layouts."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.data import read

pytest.importorskip("numba")
pytest.importorskip("PIL.Image")
from tests.data.layouts import LAYOUTS


def model(shape):
    return nelbo.from_callable(
        lambda z, t: torch.zeros_like(z), schedule=nelbo.schedules.logsnr_linear(6.0, -6.0), predicts="x0",
        domain=nelbo.DataDomain(shape, bins=256), time="logsnr", decoder="categorical", grid=nelbo.grids.even(2),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_folder_comes_back(tmp_path):
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        spec, back = layout.write(tmp_path / f"{number}"), tmp_path / f"{number}-back"
        coder, file = model((3, 4, 6) if layout.colour else (4, 6)), tmp_path / f"{number}.nelbo"
        written = nelbo.codec.compress(coder, spec, file, few=True)
        nelbo.codec.decompress(coder, file, back)
        given, restored = read(spec), read(f"{back}")
        assert torch.equal(restored.data, given.data), name
        for before, after in zip(given.names, restored.names, strict=True):
            assert after in (before, f"{before}.png"), name  # of a format that loses pixels another is written
            assert after == before or not before.endswith(".png"), name
        assert written.facts.get("passed_over", {"count": 0})["count"] == len(layout.passed), name


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    """The pictures are in the folder that it leads to, also where that is not there yet."""
    coder, file = model((2, 2)), tmp_path / "x.nelbo"
    nelbo.codec.compress(coder, torch.arange(8).reshape(2, 2, 2).byte(), file, few=True)
    (tmp_path / "there").mkdir()
    for name in ("there", "not yet"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / name)
        nelbo.codec.decompress(coder, file, link)
        assert link.is_symlink() and sorted(p.name for p in (tmp_path / name).iterdir()) == ["0.png", "1.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "link to not yet",
        "link to there",
        "not yet",
        "there",
        "x.nelbo",
    ]

"""`nelbo demo`: everything in one folder, done again at will, and careful with what is not its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nelbo as library
from nelbo.cli import demo

FILES = {"bound.json", "comparison.json", "demo.json", "model", "pictures.npz", "report.html"}


@pytest.fixture
def quick(monkeypatch):
    """The demo with a model that is trained in a second."""
    train = demo.run_training

    def small(data, out, settings, output, **options):
        net = {"width": 16}
        return train(data, out, {**settings, "steps": 4, "levels": 12, "net": net}, output, **options)

    monkeypatch.setattr(demo, "run_training", small)


def test_the_folder(nelbo, quick, tmp_path):
    out = tmp_path / "new" / "demo"
    result = nelbo("demo", "--out", out, "--seed", "1")
    assert result.status == 0 and result.out.splitlines()[-1] == str(out)
    assert {p.name for p in out.iterdir()} == FILES
    bound = json.loads((out / "bound.json").read_text())
    assert bound["examples"] == 360 and bound["domain"]["bins"] == 17 and bound["estimator"]["name"] == "exhaustive"
    assert bound["model"]["fingerprint"] == library.load(str(out / "model")).fingerprint()
    assert f"{bound['bits_per_dim']:.5f}" in result.out and "JPEG XL" in result.out
    pictures = dict(np.load(out / "pictures.npz"))
    assert {k: v.shape for k, v in pictures.items()} == {
        "samples": (36, 8, 8),
        "data": (36, 8, 8),
        "trajectory": (10, 8, 8, 8),
        "denoised": (10, 8, 8, 8),
        "trajectory_logsnr": (10,),
    }
    assert (np.diff(pictures["trajectory_logsnr"]) > 0).all()
    assert "<html" in (out / "report.html").read_text()

    again = nelbo("demo", "--out", out, "--seed", "1", "--json")
    assert again.json["folder"] == str(out)
    same = {**again.json["bound"], "seconds": 0} == {**bound, "seconds": 0}
    assert same


def test_a_model_of_somebody_is_left_alone(nelbo, model):
    before = (model / "model.json").read_bytes()
    assert "model" in nelbo("demo", "--out", model.parent).refused()
    assert (model / "model.json").read_bytes() == before


def test_a_result_of_somebody_is_left_alone(nelbo, tmp_path):
    (tmp_path / "bound.json").write_text("mine")
    assert "bound.json" in nelbo("demo", "--out", tmp_path).refused()
    assert [p.name for p in tmp_path.iterdir()] == ["bound.json"]


def test_an_interrupted_demo_is_continued(tmp_path):
    checkpoints = tmp_path / "model" / "checkpoints"
    assert demo.prepare(tmp_path, 0) is False
    checkpoints.mkdir(parents=True)
    assert demo.prepare(tmp_path, 0) is True
    assert demo.prepare(tmp_path, 1) is False and not checkpoints.exists()

"""Files of examples of different size at the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.mark.slow
def test_sets_from_files(nelbo, tmp_path):
    """train, evaluate, compare, ode and sample; JSON has the sizes, files the D of every example and the mask."""
    lengths = 1 + np.arange(60) % 4
    points = np.random.default_rng(0).normal(size=(lengths.sum(), 2)).astype(np.float32)
    file, rows, drawn = (tmp_path / name for name in ("x.npz", "rows.npz", "drawn.npz"))
    np.savez(file, x=points, offsets=np.concatenate([[0], lengths.cumsum()]), n=lengths)
    for name in "ab":
        settings = ("--set", "steps=3", "--set", "net.width=8", "--set", f"seed={ord(name)}")
        assert nelbo("train", "--data", f"{file}#x#offsets=offsets", "--out", tmp_path / name, *settings).status == 0
    data = ("--data", f"{file}#x#lengths=n", "--json")
    bound = nelbo("evaluate", tmp_path / "a", *data, "--per-example", rows, "--tolerance", "0.5").json
    assert bound["data"]["sizes"] == {"smallest": 2, "largest": 8, "total": int(2 * lengths.sum())}
    assert np.load(rows)["dimensions"].tolist() == (2 * lengths).tolist() == bound["dimensions_per_example"]
    models = tmp_path / "a", tmp_path / "b"
    compared = nelbo(
        "compare", *models, *data, "--tolerance", "0.5", "--per-example", rows, "--out", tmp_path / "c"
    ).json
    assert compared["dimensions_per_example"] == bound["dimensions_per_example"]
    assert np.load(rows)["difference_nats"].tolist() == compared["nats_per_example"] and len(
        compared["standard_errors"]
    )
    assert json.loads((tmp_path / "c").read_text()) == compared
    ode = nelbo("ode", tmp_path / "a", *data, "--limit", "3", "--steps", "4", "--probes", "1").json
    assert ode["data"]["sizes"]["total"] == 12
    given = ("sample", tmp_path / "a", "--mask", f"{file}#n", "--out", drawn, "--json", "--steps", "3", "-n")
    assert nelbo(*given, "60").json["positions"] == lengths.tolist()
    saved = np.load(drawn)
    assert saved["samples"].shape == (60, 4, 2) and saved["mask"].sum(1).tolist() == lengths.tolist()
    assert "holds an array of shape (60,) for 2 samples" in nelbo(*given, "2").refused()
    assert "errors of whole examples" in nelbo("tighten", tmp_path / "a", *data[:2], "--out", tmp_path / "t").refused()

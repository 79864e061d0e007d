"""What commands say of the data: before training, in tables, in JSON, and on bad input."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.cli.conftest import SMALL

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pets(tmp_path):
    """A root with two parts; the second lacks a class and holds a text."""
    for part, names in (("train", "abc"), ("test", "bc")):
        for k, name in enumerate(names):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(8):
                codes = np.full((2, 3), 40 * k + i, np.uint8)
                Image.fromarray(codes).save(tmp_path / "pets" / part / name / f"{i}.png")
    (tmp_path / "pets" / "test" / "README.txt").write_text("text")
    return tmp_path / "pets"


def test_from_training_to_compression(nelbo, pets, tmp_path):
    settings = (*SMALL, "--set", "net.name=mlp", "--set", "condition=y")
    trained = nelbo("train", "--data", f"{pets}:train", "--out", tmp_path / "run", *settings)
    assert trained.status == 0
    lines = dict(line.split(maxsplit=1) for line in trained.err.splitlines()[:4])
    assert lines["examples"] == f"24 of {pets}:train" and lines["shape"] == "2 × 3, 256 bins"
    assert lines["classes"] == "3 by the keyword y: a is 0, b is 1, c is 2"
    assert lines["network"].startswith("mlp, categorical head, ")
    asked = ("--condition", "y", "--limit", "10", "--max-nfe", "100")
    result = nelbo("evaluate", tmp_path / "run", "--data", f"{pets}:test", *asked, "--json").json
    assert result["data"]["classes"] == {"b": 1, "c": 2}
    assert result["data"]["passed_over"] == {"count": 1, "entries": [{"name": "README.txt", "reason": "no picture"}]}
    table = nelbo("evaluate", tmp_path / "run", "--data", f"{pets}:test", *asked).out
    assert "passed over   README.txt (no picture)" in table and "classes       b is 1, c is 2" in table
    pytest.importorskip("numba")
    packed = ("--condition", "y", "--limit", "10", "--few", "--json")
    result = nelbo("compress", tmp_path / "run", f"{pets}:test", "--out", tmp_path / "x.nelbo", *packed).json
    assert result["passed_over"]["count"] == 1 and result["classes"] == {"b": 1, "c": 2}
    nelbo("decompress", tmp_path / "run", tmp_path / "x.nelbo", "--out", tmp_path / "back")
    back = sorted(path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*.png"))
    assert back == [f"b/{i}.png" for i in range(8)] + ["c/0.png", "c/1.png"]
    for name in back:
        assert np.array_equal(Image.open(tmp_path / "back" / name), Image.open(pets / "test" / name))


def test_refusals(nelbo, trained, pets, tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    (tmp_path / "x.csv").write_text("0,1\n2.5,3\n")
    for data, word in ((pets, "parts of a data set"), (tmp_path / "x.npy", "FIFO"), (tmp_path / "x.csv", "names")):
        assert word in nelbo("evaluate", trained, "--data", data).refused()

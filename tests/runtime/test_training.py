"""Training on two processes is training on one: the same losses, every example once, and resumed as it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nelbo
from nelbo.training import checkpoint
from tests.expected import seen
from tests.runtime import training
from tests.runtime.cases import environment, start, until

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PROGRAM = Path(training.__file__).resolve()


def log_of(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


@pytest.fixture(scope="module", params=["images", "symbols"])
def runs(request, tmp_path_factory) -> Path:
    """The same run on one process (`one`), on two (`two`), and on two that are stopped and go on (`stopped`)."""
    folder = tmp_path_factory.mktemp(request.param)
    process = subprocess.run(
        [sys.executable, *TWO, PROGRAM, request.param, folder],
        env=environment(), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    training.run(request.param, folder / "one")
    return folder


@seen
@pytest.mark.slow
def test_the_same_losses_and_bounds(runs):
    one, two = log_of(runs / "one"), log_of(runs / "two")
    assert [r["step"] for r in one] == [r["step"] for r in two] and len(one) == 8 + 2
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == pytest.approx(value, rel=2e-5), (a["step"], key)
    assert one[0]["loss"] != pytest.approx(one[-1]["loss"], rel=0.01)  # there was something to agree on
    kind = "symbols" if isinstance(nelbo.load(runs / "one"), nelbo.TokenModel) else "images"
    rows = training.of_kind(kind)[0][:9]
    bounds = [nelbo.evaluate(runs / name, rows, estimator="exhaustive") for name in ("one", "two")]
    assert bounds[1].bits_per_dim == pytest.approx(bounds[0].bits_per_dim, rel=1e-4)


@pytest.mark.slow
def test_every_example_by_one_process(runs):
    """The rows of a step, over processes and micro-batches, are the rows of one process: none twice, none left out."""
    whole = json.loads((runs / "one.rows-0.json").read_text())
    shares = [json.loads((runs / f"two.rows-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 8
    for step, rows in enumerate(whole):
        assert sorted(rows) == sorted(shares[0][step] + shares[1][step]) and len(set(rows)) == len(rows)
        assert abs(len(shares[0][step]) - len(shares[1][step])) <= 1
    assert not set(shares[0][0]) & set(shares[1][0])


@pytest.mark.slow
def test_stopped_and_resumed_on_two(runs):
    """Bit for bit: average, bounds and log."""
    two, stopped = runs / "two", runs / "stopped"
    assert nelbo.load(two).fingerprint() == nelbo.load(stopped).fingerprint()
    assert log_of(two) == log_of(stopped)
    assert nelbo.load(two).provenance["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(tmp_path, victim):
    """One error and no hang, and what was saved is whole."""
    settings = [f"--set={s}" for s in ("steps=100000", "net.width=16", "checkpoint_every=20", "log_every=1")]
    process = start(tmp_path, "--data", "digits:train", "--out", "run", *settings, launcher=TWO, command="train")
    places = tmp_path / "run" / "checkpoints"
    until(lambda: len(list(places.glob("step-*.pt"))) >= 2, process)
    ranks = {}
    for child in map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(v.removeprefix(b"RANK=")): child for v in variables if v.startswith(b"RANK=")}
    os.kill(ranks[victim], signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode != 0 and out == ""
    errors = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(errors) == 2 and "2 processes" in errors[0], err
    assert "nelbo/training" not in err
    state, passed = checkpoint.newest(places)
    assert state is not None and not passed

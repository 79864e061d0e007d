"""Stop and go on: a resumed run ends in the same model, bit for bit, whatever became of its newest checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
from nelbo.errors import Interrupted, UsageError
from nelbo.model import folder
from nelbo.training import checkpoint, train
from tests.training.cases import codes, small

SETTINGS = small(ema=0.9, net={"dropout": 0.3}, log_every=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(codes(), out, SETTINGS)
    return out


def stop_at(out: Path, *steps: int) -> None:
    """Interrupt the run at each of the steps, going on in between."""

    def stop(record) -> None:
        if record["step"] in steps:
            raise KeyboardInterrupt

    for step in steps:
        with pytest.raises(Interrupted, match=rf"after step {step} of 12") as caught:
            train(codes(), out, SETTINGS, progress=lambda r, s=step: stop(r) if r["step"] == s else None, resume=True)
        assert "--resume" in caught.value.hint
    assert not (out / "model.json").exists()


def log_of(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def assert_same_run(out: Path, whole: Path) -> None:
    assert folder.load(out).fingerprint() == folder.load(whole).fingerprint()
    assert log_of(out) == log_of(whole)
    a, b = (torch.load(p / "checkpoints" / "step-00000012.pt", weights_only=True) for p in (out, whole))
    assert all(torch.equal(a["net"][k], b["net"][k]) for k in b["net"])
    assert all(torch.equal(a["ema"][k], b["ema"][k]) for k in b["ema"])


@pytest.mark.parametrize("steps", [(1,), (4,), (7,), (11,), (12,), (2, 3, 9)])
def test_resumed_is_uninterrupted(tmp_path, whole, steps):
    stop_at(tmp_path, *steps)
    said: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=said.append)
    assert said == [f"continuing after step {steps[-1]} of 12"]
    assert_same_run(tmp_path, whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path, whole):
    train(codes(), tmp_path, SETTINGS)
    train(codes(), tmp_path, SETTINGS, resume=True)
    assert_same_run(tmp_path, whole)


def test_no_checkpoint_says_so(tmp_path, whole):
    said: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=said.append)
    assert len(said) == 1 and "no checkpoint" in said[0] and "beginning" in said[0]
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("damage", ["half", "all but the last byte", "empty", "foreign", "weights of another kind"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole, damage):
    stop_at(tmp_path, 7)
    newest = tmp_path / "checkpoints" / "step-00000007.pt"
    content = newest.read_bytes()
    if damage == "weights of another kind":
        torch.save(["not", "a", "state"], newest)
    else:
        kept = {"half": content[: len(content) // 2], "all but the last byte": content[:-1], "empty": b""}
        newest.write_bytes(kept.get(damage, b"PK\x03\x04 something else"))
    said: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=said.append)
    assert "step-00000007.pt" in said[0] and "trying the one before" in said[0]
    assert said[1] == "continuing after step 4 of 12"
    assert_same_run(tmp_path, whole)


def test_a_flipped_bit_is_noticed(tmp_path):
    """Anywhere in the file: it is passed over, or what is read is what was written; never other weights."""
    stop_at(tmp_path, 7)
    places = tmp_path / "checkpoints"
    newest = places / "step-00000007.pt"
    content = newest.read_bytes()
    written, _ = checkpoint.newest(places)
    assert written is not None and written["step"] == 7
    passed_over = 0
    for position in range(11, len(content), max(1, len(content) // 100)):
        newest.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        state, passed = checkpoint.newest(places)
        assert state is not None
        passed_over += len(passed)
        if not passed:
            assert state["step"] == 7 and state["identity"] == written["identity"], position
            for part in ("net", "ema"):
                assert set(state[part]) == set(written[part])
                assert all(torch.equal(state[part][k], v) for k, v in written[part].items()), (position, part)
            for i, slots in written["optimizer"]["state"].items():
                assert all(torch.equal(state["optimizer"]["state"][i][k], v) for k, v in slots.items()), position
        else:
            assert state["step"] == 4
    assert passed_over > 90


def test_every_checkpoint_damaged(tmp_path, whole):
    stop_at(tmp_path, 7)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    said: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=said.append)
    assert len(said) == 3 and "starting from the beginning" in said[-1]
    assert_same_run(tmp_path, whole)


def test_a_log_cut_off_by_a_crash(tmp_path, whole):
    stop_at(tmp_path, 7)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train(codes(), tmp_path, SETTINGS, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    ("data", "settings", "match"),
    [
        (codes(seed=2), SETTINGS, "data"),
        (codes(), {**SETTINGS, "lr": 0.5}, r"lr = 0\.01, not 0\.5"),
        (codes(), {**SETTINGS, "steps": 24}, "steps = 12, not 24"),
        (codes(), small(ema=0.9, net={"dropout": 0.2}, log_every=2), "net = "),
    ],
)
def test_another_run_is_not_continued(tmp_path, data, settings, match):
    stop_at(tmp_path, 4)
    with pytest.raises(UsageError, match=match) as caught:
        train(data, tmp_path, settings, resume=True)
    assert "another --out" in caught.value.hint


def test_a_checkpoint_runs_no_code(tmp_path):
    """A checkpoint that would run something when unpickled is passed over, and runs nothing."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": 3, "x": Bomb()}, tmp_path / "checkpoints" / "step-00000003.pt")
    state, passed = checkpoint.newest(tmp_path / "checkpoints")
    assert state is None and len(passed) == 1 and not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_same_after_ten_kills(tmp_path):
    """kill −9 at ten random moments: weights, averages, bounds, best weights, optimiser and log, bit for bit."""
    program = [sys.executable, "-m", "tests.training.killed", str(tmp_path), "10"]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(Path(nelbo.__file__).parents[1]), str(root)])
    told = subprocess.run(
        program,
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout.split()[-1]) >= 8, told.stdout  # so many of them found the run alive
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert folder.load(killed).fingerprint() == folder.load(whole).fingerprint()
    assert folder.load(killed).provenance["validation"] == folder.load(whole).provenance["validation"]
    assert log_of(killed) == log_of(whole) and len(log_of(whole)) == 150 + 15
    last = "step-00000150.pt"
    states = [checkpoint.read(out / "checkpoints" / last) for out in (whole, killed)]
    assert same(*({k: v for k, v in state.items() if k != "seconds"} for state in states))
    best = [checkpoint.read(out / "checkpoints" / "best.pt") for out in (whole, killed)]
    assert same(*best)
    assert sorted(p.name for p in killed.rglob("*")) == sorted(p.name for p in whole.rglob("*"))  # nothing left over


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

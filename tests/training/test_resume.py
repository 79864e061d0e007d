"""Stop and go on: a resumed run ends in the same model, bit for bit, whatever became of its newest checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.model import folder
from nelbo.model.examples import Examples
from nelbo.training import checkpoint, train
from tests.training.cases import codes, interrupt, log_of, small

SETTINGS = small(ema=0.9, net={"dropout": 0.3}, log_every=2)
UNET = {"name": "unet", "width": 8, "multipliers": [1, 2], "patch": 1}
VALIDATION = {"every": 4, "examples": 10, "max_nfe": 600}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that is never stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(codes(), out, SETTINGS)
    return out


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(out: Path, whole: Path, last: str = "step-00000012.pt") -> None:
    """Model, log, and the state of the last checkpoint."""
    assert folder.load(out).fingerprint() == folder.load(whole).fingerprint()
    assert log_of(out) == log_of(whole)
    assert same(*(checkpoint.read(run / "checkpoints" / last) for run in (out, whole)))


@pytest.mark.parametrize("steps", [(1,), (4,), (7,), (12,), (2, 3, 9)])
def test_resumed_is_uninterrupted(tmp_path, whole, steps):
    interrupt(tmp_path, SETTINGS, *steps)
    messages: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=messages.append)
    assert messages == [f"continuing after step {steps[-1]} of 12"]
    assert_same_run(tmp_path, whole)
    train(codes(), tmp_path, SETTINGS, resume=True)  # it has ended, and stays as it is
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "settings",
    [
        small(objective={"name": "bound", "t": "importance"}),
        small(schedule={"name": "learned", "segments": 4}, net={"head": "plain"}),
        {**small(optimizer="muon", channels_last=True), "net": UNET},
        small(validation=VALIDATION),
    ],
    ids=["importance", "learned schedule", "muon, channels_last", "validation"],
)
def test_every_state_is_resumed(tmp_path, settings):
    """The density of times, the parameters of the schedule, momenta, and a bound that is due when the run is stopped;
    none of them is that of the plain run."""
    data = codes(20, (8, 8)) if settings["net"]["name"] == "unet" else codes()
    train(data, tmp_path / "whole", settings)
    interrupt(tmp_path / "parts", settings, 4, 7, data=data)
    train(data, tmp_path / "parts", settings, resume=True)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    plain = {**settings, "net": {**settings["net"]}}
    for key in ("objective", "schedule", "optimizer", "validation"):
        plain.pop(key, None)
    assert train(data, tmp_path / "plain", plain).fingerprint() != folder.load(tmp_path / "whole").fingerprint()


@pytest.mark.parametrize("damaged", [0, 2])
def test_without_a_good_checkpoint_it_begins_anew(tmp_path, whole, damaged):
    if damaged:
        interrupt(tmp_path, SETTINGS, 7)
        for path in (tmp_path / "checkpoints").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    messages: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=messages.append)
    assert len(messages) == damaged + 1 and "no checkpoint" in messages[-1] and "beginning" in messages[-1]
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("damage", ["half", "all but the last byte", "empty", "foreign", "weights of another kind"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, whole, damage):
    interrupt(tmp_path, SETTINGS, 7)
    newest = tmp_path / "checkpoints" / "step-00000007.pt"
    content = newest.read_bytes()
    if damage == "weights of another kind":
        torch.save(["not", "a", "state"], newest)
    else:
        kept = {"half": content[: len(content) // 2], "all but the last byte": content[:-1], "empty": b""}
        newest.write_bytes(kept.get(damage, b"PK\x03\x04 something else"))
    messages: list[str] = []
    train(codes(), tmp_path, SETTINGS, resume=True, message=messages.append)
    assert "step-00000007.pt" in messages[0] and "trying the one before" in messages[0]
    assert messages[1] == "continuing after step 4 of 12"
    assert_same_run(tmp_path, whole)


def test_a_flipped_bit_is_noticed(tmp_path):
    """Anywhere in the file: the checkpoint is passed over, so that never other weights are read."""
    interrupt(tmp_path, SETTINGS, 7)
    places = tmp_path / "checkpoints"
    newest = places / "step-00000007.pt"
    content = newest.read_bytes()
    assert checkpoint.newest(places)[0]["step"] == 7
    for position in range(11, len(content), max(1, len(content) // 50)):
        newest.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        state, unreadable = checkpoint.newest(places)
        assert state is not None and state["step"] == 4 and len(unreadable) == 1, position


def test_a_log_cut_off_by_a_crash(tmp_path, whole):
    interrupt(tmp_path, SETTINGS, 7)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    train(codes(), tmp_path, SETTINGS, resume=True)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    ("data", "settings", "validation", "match"),
    [
        (codes(seed=2), SETTINGS, None, "data"),
        (codes(), {**SETTINGS, "lr": 0.5}, None, r"lr = 0\.01, not 0\.5"),
        (codes(), {**SETTINGS, "steps": 24}, None, "steps = 12, not 24"),
        (codes(), small(ema=0.9, net={"dropout": 0.2}, log_every=2), None, "net = "),
        (codes(), {**SETTINGS, "validation": VALIDATION}, Examples(codes(20, seed=4).data), "other validation data"),
    ],
)
def test_another_run_is_not_continued(tmp_path, data, settings, validation, match):
    interrupt(tmp_path, SETTINGS, 4)
    with pytest.raises(UsageError, match=match) as caught:
        train(data, tmp_path, settings, validation=validation, resume=True)
    assert "another out=FOLDER" in caught.value.hint


def test_another_rhythm_of_checkpoints_is_the_same_run(tmp_path, whole):
    interrupt(tmp_path, SETTINGS, 5)
    train(codes(), tmp_path, {**SETTINGS, "checkpoint_every": 2}, resume=True)
    assert folder.load(tmp_path).fingerprint() == folder.load(whole).fingerprint()


def test_a_checkpoint_runs_no_code(tmp_path):
    """A checkpoint that would run something when unpickled is passed over, and runs nothing."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "checkpoints").mkdir()
    torch.save({"step": 3, "x": Bomb()}, tmp_path / "checkpoints" / "step-00000003.pt")
    state, unreadable = checkpoint.newest(tmp_path / "checkpoints")
    assert state is None and len(unreadable) == 1 and not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kind", ["images", "symbols"])
def test_the_same_after_ten_kills(tmp_path, kind):
    """kill −9 at ten random moments: weights, averages, bounds, best weights, optimiser and log, bit for bit."""
    program = [sys.executable, "-m", "tests.training.killed", kind, str(tmp_path), "10"]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(Path(nelbo.__file__).parents[1]), str(root)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(program, cwd=root, env=env, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[-1]) >= 8, process.stdout  # so many of them hit the run alive
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert_same_run(killed, whole, "step-00000150.pt")
    assert len(log_of(whole)) == 150 + 15
    assert folder.load(killed).provenance["validation"] == folder.load(whole).provenance["validation"]
    assert same(*(checkpoint.read(out / "checkpoints" / "best.pt", {"net"}) for out in (whole, killed)))
    assert sorted(p.name for p in killed.rglob("*")) == sorted(p.name for p in whole.rglob("*"))  # nothing left over


@pytest.mark.parametrize("change", ["lacks", "other shapes", "other kinds"])
def test_a_checkpoint_with_a_right_checksum_that_is_not_of_a_run(tmp_path, change):
    """It is passed over where it is no state at all, and refused by name where it does not fit."""
    interrupt(tmp_path, SETTINGS, 4)
    (path,) = (tmp_path / "checkpoints").glob("step-*.pt")
    state = checkpoint.read(path)
    if change == "lacks":
        state = {"step": 4, "identity": state["identity"]}
    elif change == "other shapes":
        state["net"] = {name: torch.zeros(1) for name in state["net"]}
    else:
        state["identity"], state["ema"] = {"config": 3}, 5
    checkpoint.write(path, state)
    if change == "lacks":
        with pytest.raises(ValueError, match="not the state of a run"):
            checkpoint.read(path)
        return
    with pytest.raises(UsageError, match=r"the checkpoint of step 4 in .* does not fit the run"):
        train(codes(), tmp_path, SETTINGS, resume=True)

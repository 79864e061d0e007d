"""Ctrl-C: exit status 130, a checkpoint of a whole step, and --resume that ends where an unstopped run ends."""

from __future__ import annotations

import os
import signal

import pytest

import nelbo as library
from nelbo import progress

TRAIN = ("train", "--data", "digits:train", "--set", "net.width=16", "--set", "log_every=1")
RUN = (*TRAIN, "--set", "steps=8")


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """The ordinary handler of SIGINT, also where the tests themselves run in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ctrl_c_at_step_three(monkeypatch):
    """SIGINT in the middle of the report of step 3, where training goes on to the end of the step."""

    def training(self, record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Progress, "training", training)


def test_interrupted_and_resumed_is_as_never_stopped(nelbo, tmp_path, ctrl_c_at_step_three, monkeypatch):
    stopped = nelbo(*RUN, "--out", tmp_path / "a")
    assert stopped.status == 130
    error, hint = stopped.err.splitlines()[-2:]
    assert error.startswith("error: ") and "3 of 8" in error and hint.startswith("hint: ") and "--resume" in hint
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-00000003.pt"]
    assert not (tmp_path / "a" / "model.json").exists()
    monkeypatch.undo()
    resumed = nelbo(*RUN, "--out", tmp_path / "a", "--resume")
    assert resumed.status == 0 and "continuing after step 3 of 8" in resumed.err
    assert nelbo(*RUN, "--out", tmp_path / "b", "--resume").err.startswith("no checkpoint in ")
    one, other = (library.load(str(tmp_path / name)).fingerprint() for name in "ab")
    assert one == other


def test_plain_lines_are_few(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown("working") as shown:
        for step in range(1, 101):
            now[0] += 0.5
            shown.training({"step": step, "steps": 100, **({"loss": 2.5} if step % 7 == 0 else {})})
        now[0] += 10
        shown.estimate(2.05, 0.0123)
        shown(7, 0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "working: 7, 2.0500 ± 0.0123 bits/dim, 60 s"
    assert lines[0] == "working: 20 of 100 (20 %), 2.500 bits/dim, 10 s, 40 s left"

"""Pipes and devices in the place of files that others made: none is opened, which would wait or never end."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

import nelbo as library
from nelbo.errors import ModelFolderError, NelboError
from nelbo.training import checkpoint


@pytest.fixture(autouse=True)
def awake():
    """An attempt that waits ends as a failure."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def special(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_archives_and_reports(nelbo, model, tmp_path, kind):
    special(tmp_path / "x.nelbo", kind)
    refused = nelbo("decompress", model, tmp_path / "x.nelbo", "--out", tmp_path / "out.npz").refused()
    assert "x.nelbo" in refused
    for name in ("bound.json", "log.jsonl", "certificate.json", "comparison.json", "pictures.npz"):
        folder = tmp_path / name.partition(".")[0]
        shutil.copytree(model, folder)
        special(folder / name, kind)
        assert name in nelbo("report", folder, "--out", tmp_path / "r.html").refused()
    special(tmp_path / "b.json", kind)
    with pytest.raises(NelboError, match=r"b\.json"):
        library.Bound.load(tmp_path / "b.json")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_checkpoints_and_pipelines(tmp_path, kind):
    special(tmp_path / "step-00000001.pt", kind)
    state, messages = checkpoint.newest(tmp_path)
    assert state is None and "cannot be read" in messages[0]
    pytest.importorskip("diffusers")
    (tmp_path / "pipe").mkdir()
    special(tmp_path / "pipe" / "model_index.json", kind)
    with pytest.raises(ModelFolderError):
        library.load(tmp_path / "pipe")


def test_a_configuration_without_end(nelbo, tmp_path):
    (tmp_path / "deep.toml").write_text("a = " + "[" * 50_000)
    for config in ("/dev/zero", tmp_path / "deep.toml"):
        refused = nelbo("train", "--data", "digits", "--out", tmp_path / "run", "--config", config).refused()
        assert "config file" in refused

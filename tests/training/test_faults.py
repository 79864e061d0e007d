"""What goes wrong from outside: a full disk, files that vanish. One clear error, and the last checkpoint stays good."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from nelbo.cli.failures import describe
from nelbo.model import folder
from nelbo.training import checkpoint, train
from tests.training.cases import codes, interrupt, small


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """The fingerprint that the run ends with when nothing goes wrong."""
    return train(codes(), tmp_path_factory.mktemp("whole"), small()).fingerprint()


def assert_goes_on(out: Path, step: int, whole: str) -> None:
    """The newest checkpoint is whole and of `step`, nothing lies about, and the run ends as if nothing had happened."""
    state, unreadable = checkpoint.newest(out / "checkpoints")
    assert state is not None and not unreadable and state["step"] == step
    assert not list(out.rglob("*.tmp")) and not (out / "model.json").exists()
    assert train(codes(), out, small(), resume=True).fingerprint() == whole == folder.load(out).fingerprint()


def test_the_disk_is_full_when_a_checkpoint_is_written(tmp_path, monkeypatch, whole):
    """Checkpoints of steps 4 and 8 fit, the third does not: an error that names it, with the way out. What becomes of
    the file itself: `tests/test_files.py`."""

    def fails(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(record) -> None:
        if record["step"] == 11:
            monkeypatch.setattr(os, "fsync", fails)

    with pytest.raises(OSError) as caught:
        train(codes(), tmp_path / "run", small(), progress=fill)
    monkeypatch.undo()
    failure = describe(caught.value)
    assert failure.message.endswith("step-00000012.pt: no space left on device") and "--out" in failure.hint
    assert_goes_on(tmp_path / "run", 8, whole)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_no_room_at_all(tmp_path, whole):
    """The system itself refuses to let a checkpoint grow; Ctrl-C before that has left one."""
    import resource

    out = tmp_path / "run"
    interrupt(out, small(), 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError) as caught:
            train(codes(), out, small(), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    failure = describe(caught.value)
    assert "step-00000004.pt: file too large" in failure.message and "ulimit" in failure.hint
    assert_goes_on(out, 2, whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
def test_the_disk_is_full_when_the_log_is_written(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        train(codes(), out, small())
    assert describe(caught.value).message == f"{out / 'log.jsonl'}: no space left on device"


def test_half_written_files_of_a_killed_process_are_removed(tmp_path, whole):
    out = tmp_path / "run"
    interrupt(out, small(), 5)
    for place in (out, out / "checkpoints"):
        (place / ".nelbo-abc.tmp").write_bytes(b"half")
        (place / "mine.tmp").write_bytes(b"kept")
    train(codes(), out, small(), resume=True)
    assert sorted(p.parent.name for p in out.rglob("*.tmp")) == ["checkpoints", "run"]
    assert folder.load(out).fingerprint() == whole

"""`write_atomic`: the old file or the whole new one, at every moment and after every failure."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nelbo import files
from nelbo.files import write_atomic


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_content(tmp_path):
    assert write_atomic(tmp_path / "a", b"\x00\xff") == tmp_path / "a"
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    write_atomic(str(tmp_path / "a"), "α ≤ β\n")
    assert (tmp_path / "a").read_bytes() == "α ≤ β\n".encode()
    write_atomic(tmp_path / "new" / "er" / "b", "")
    assert (tmp_path / "new" / "er" / "b").read_bytes() == b""
    assert names(tmp_path) == {"a", "new"} and names(tmp_path / "new" / "er") == {"b"}


@pytest.mark.parametrize("where", ["mkstemp", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, where, error):
    """At any of its steps, by any error: the old content stays and no temporary file does."""
    target = tmp_path / "file"
    target.write_text("old")

    def fail(*args, **kwargs):
        raise error

    owner = {"mkstemp": files.tempfile, "fsync": files.os, "replace": Path}[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, fail)
        with pytest.raises(type(error)) as caught:
            write_atomic(target, "new" * 1000)
    if isinstance(error, OSError):
        assert caught.value.filename == str(target) and caught.value.errno == 28
    assert target.read_text() == "old" and names(tmp_path) == {"file"}


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(OSError) as caught:
            write_atomic(bad, "y")
        assert str(bad) in str(caught.value)
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "x"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text() == "new"
    assert names(tmp_path) == {"link", "real"} and names(tmp_path / "real") == {"file"}


def test_rights_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
        assert os.umask(0o027) == 0o027  # and the umask is left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_is_no_file_is_not_replaced(tmp_path):
    """A pipe gets the content; /dev/null stays a device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, "through the pipe")
    reader.join(10)
    assert got == [b"through the pipe"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_atomic("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_killed_writer(tmp_path):
    """A process that is killed while it rewrites a file again and again leaves one whole version of it."""
    code = (
        "import sys; from nelbo.files import write_atomic\n"
        "for k in range(10**9): write_atomic(sys.argv[1], bytes([k % 251]) * 200_000)\n"
    )
    target = tmp_path / "file"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)])
        try:
            deadline = time.monotonic() + 60
            while not target.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(20):  # a reader at any moment sees a whole version
                content = target.read_bytes()
                assert len(content) == 200_000 and len(set(content)) == 1
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        content = target.read_bytes()
        assert len(content) == 200_000 and len(set(content)) == 1

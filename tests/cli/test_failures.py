"""How failures are reported: interrupted, out of memory, a bug; and never as a traceback that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nelbo.cli import failures
from nelbo.errors import Interrupted, UsageError


@pytest.mark.parametrize(
    "error, status, words",
    [
        (UsageError("bad", "do good"), 2, "error: bad\nhint: do good\n"),
        (UsageError("two\nlines", "a\n b"), 2, "error: two lines\nhint: a b\n"),
        (Interrupted("stopped", "go on"), 130, "error: stopped\nhint: go on\n"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (FileNotFoundError(2, "No such file or directory", "/x/[bold]y"), 2, "error: /x/[bold]y: no such file"),
        (OSError(28, "No space left on device"), 2, "free some space"),
        (MemoryError(), 2, "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "--batch-size"),
        (ZeroDivisionError("oh"), 1, "error: internal: ZeroDivisionError: oh\nhint: set NELBO_TRACEBACK=1"),
    ],
)
def test_two_lines_and_a_status(capsys, error, status, words):
    assert failures.report(error) == status
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 2


def test_a_long_path_is_not_wrapped(nelbo):
    path = "/nowhere/" + "/".join(["a long name [red]with words[/red]"] * 12) + ".npz"
    assert path in nelbo("report", path, "--out", "/dev/null").refused()


def test_a_bug_is_told_without_traceback_unless_asked(nelbo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exploding.py").write_text("def make():\n    raise ZeroDivisionError('inside')\n")
    result = nelbo("info", "exploding:make")
    assert result.status != 0 and "inside" in result.err and "Traceback" not in result.err
    monkeypatch.setenv("NELBO_TRACEBACK", "1")
    assert "exploding.py" in nelbo("info", "exploding:make").err


def test_full_disk_behind_stdout():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nelbo", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 2


def test_python_dash_m_hands_on_the_status(run_nelbo):
    done = run_nelbo("evaluate", "nowhere")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("error: ")

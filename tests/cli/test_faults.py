"""Every command that writes, while the disk fills up, somebody kills it, or it may not write: the old result or the
new one stands there whole, and nothing beside it.

A command runs in a fork of this process, which has its imports already; the fault is set up in the fork alone.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nelbo import files
from nelbo.cli import main
from tests.fuzz.limits import tree

VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "evaluate": (("evaluate", "model", "--data", "codes.npy", "--estimator", "stratified", "--out", "new/b.json",
                  "--per-example", "new/rows.npz", "--state", "new/state"), "new/b.json"),
    "sample": (("sample", "model", "-n", "2", "--out", "new/s.npz"), "new/s.npz"),
    "picture": (("sample", "model", "-n", "2", "--out", "new/s.png"), "new/s.png"),
    "compress": (("compress", "model", "codes.npy", "--few", "--out", "new/x.nelbo"), "new/x.nelbo"),
    "decompress": (("decompress", "model", "x.nelbo", "--out", "new/codes.npz"), "new/codes.npz"),
    "pictures": (("decompress", "model", "x.nelbo", "--out", "new/pictures"), "new/pictures"),
    "train": (("train", "--data", "codes.npy", "--out", "new/run", "--set", "steps=2", "--set", "net.width=8",
               "--set", "bins=17", "--set", "levels=3", "--set", "batch_size=8"), "new/run/model.json"),
}  # fmt: skip
"""Commands, and what each of them writes."""
SOME = [verb if verb in ("compress", "pictures") else pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS]


def in_fork(arguments: tuple[str, ...], fault: Callable[[], object]) -> int:
    """The exit status of `nelbo ARGUMENTS` after `fault()` in a fork; minus a signal that ended it; stderr to `err`."""
    child = os.fork()
    if child == 0:
        status = 99
        with contextlib.suppress(BaseException):
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            files._swept.clear()
            main.end_as_ctrl_c()
            fault()
            status = main.execute(list(arguments))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory) -> Path:
    """A folder with a model, data and an archive."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(trained, folder / "model")
    before = Path.cwd()
    os.chdir(folder)
    try:
        np.save("codes.npy", (np.arange(8 * 64).reshape(8, 8, 8) % 17).astype(np.uint8))
        assert main.execute(["compress", "model", "codes.npy", "--few", "--out", "x.nelbo"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch) -> Path:
    """An empty folder beside copies (links) of the inputs."""
    for name in ("model", "codes.npy", "x.nelbo"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    return tmp_path


def leftovers() -> list[str]:
    return [path for path in tree(Path("new")) if ".nelbo-" in path]


def said() -> str:
    return Path("err").read_text()


@pytest.mark.parametrize("verb", SOME)
def test_a_full_disk(here, verb):
    """No file may grow beyond 300 bytes: two lines, status 2, and no result."""
    arguments, result = VERBS[verb]

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))

    status = in_fork(arguments, full)
    if verb == "pictures":  # eight small pictures fit
        assert status in (0, 2)
    else:
        assert status == 2 and not Path(result).exists(), said()
    assert "Traceback" not in said() and leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("verb", SOME)
def test_killed_as_it_writes(here, verb, number):
    """Before the first file has its name: no result. SIGTERM leaves nothing beside it; what SIGKILL leaves, the next
    run deletes, while the file of a living process stays."""
    arguments, result = VERBS[verb]

    def killed() -> None:
        def kill(*_: object) -> None:
            os.kill(os.getpid(), number)

        for owner, name in ((files.os, "fsync"), (Path, "rename")):
            setattr(owner, name, kill)

    status = in_fork(arguments, killed)
    assert status == (-9 if number == signal.SIGKILL else 130), said()
    assert not Path(result).exists() and "Traceback" not in said()
    if verb != "evaluate":  # its state, which is written first, grows in its own file
        assert bool(leftovers()) == (number == signal.SIGKILL)
    handle, living = files.temporary_file(Path("new").resolve())
    try:
        assert in_fork(arguments, lambda: None) == 0, said()
        assert Path(result).exists() and leftovers() == [living.name]
    finally:
        os.close(handle)
        living.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("verb", SOME)
def test_a_folder_that_an_ordinary_user_may_not_write_to(here, place, verb):
    arguments, result = VERBS[verb]
    Path("new").chmod(0o555)
    for name in ("out", "err"):
        Path(name).touch()
        Path(name).chmod(0o666)
    opened(here)
    opened(place / "model")
    status = in_fork(arguments, lambda: os.seteuid(65534))
    assert status == 2 and "Traceback" not in said(), said()
    assert "permission denied" in said().lower() or "cannot be written" in said()
    assert not Path(result).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("name", ["model/model.json", "model/model.safetensors", "codes.npy", "x.nelbo"])
def test_files_that_an_ordinary_user_may_not_read(here, place, name):
    verb = "decompress" if name == "x.nelbo" else "compress"
    Path("new").chmod(0o777)
    opened(here)
    opened(place / "model")
    (place / name).chmod(0o000)
    try:
        status = in_fork(VERBS[verb][0], lambda: os.seteuid(65534))
    finally:
        (place / name).chmod(0o644)
    assert status == 2 and Path(name).name in said() and "permission denied" in said().lower(), said()
    assert tree(Path("new")) == {}


def opened(folder: Path) -> None:
    """Let everybody pass the folders of pytest above."""
    for path in (*folder.parents, folder):
        if path != Path("/") and path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o055)


def test_two_writers_of_one_file(here):
    """Both end well, and one of the two results stands there."""
    children = []
    for seed in ("1", "2"):
        child = os.fork()
        if child == 0:
            os._exit(main.execute(["sample", "model", "-n", "2", "--out", "new/s.npz", "--seed", seed, "--json"]))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    with np.load("new/s.npz") as back:
        assert back["samples"].shape == (2, 8, 8)
    assert tree(Path("new")).keys() == {"s.npz"}


def test_a_clock_that_goes_back(here):
    """Seconds may then be negative; results are written all the same."""

    def backwards() -> None:
        now = [10.0**6]

        def earlier() -> float:
            now[0] -= 5
            return now[0]

        for name in ("time", "monotonic", "perf_counter"):
            setattr(time, name, earlier)

    for verb in ("compress", "sample"):
        assert in_fork(VERBS[verb][0], backwards) == 0, said()
        assert Path(VERBS[verb][1]).exists()


def test_closed_streams():
    """`>&-`, `2>&-` and `<&-` are /dev/null, and no file that is opened later gets their numbers."""
    code = (
        "import os; [os.close(n) for n in (0, 1, 2)]\n"
        "import sys; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from nelbo.cli import main; main.open_streams()\n"
        "print('lost'); print('lost', file=sys.stderr)\n"
        "sys.exit(0 if os.open('/dev/null', os.O_RDONLY) > 2 and main.execute(['--version']) == 0 else 3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

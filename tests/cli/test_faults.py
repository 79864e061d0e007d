"""Every command that writes, while the disk fills up, somebody kills it, or it may not write: the old result or the
new one stands there whole, and nothing beside it.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from nelbo import files
from nelbo.cli import demo, demo_text, main
from nelbo.equations.pages import folder as site
from tests.cli.forks import READ, VERBS, full, in_fork, killed_at, leftovers, ordinary_user, said
from tests.fuzz.limits import tree

SOME = [verb if verb in ("compress", "pictures") else pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS]


@pytest.fixture(scope="module")
def imported(place) -> None:
    """What commands import late: an ordinary user may not be allowed to read it."""
    for name in ("api", "codec.decompress", "diagnosis.diagnose", "likelihood.likelihood"):
        importlib.import_module(f"nelbo.{name}")
    main.execute(["report", str(place / "model"), "--out", "/dev/null"])


@pytest.mark.parametrize("verb", SOME)
def test_a_full_disk(here, verb):
    """No file may grow beyond 300 bytes: two lines, status 2, and no result."""
    arguments, result = VERBS[verb]
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
    if verb not in ("evaluate", "ode"):  # their state, which is written first, grows in its own file
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
@pytest.mark.usefixtures("imported")
def test_a_folder_that_an_ordinary_user_may_not_write_to(here, verb):
    arguments, result = VERBS[verb]
    Path("new").chmod(0o555)
    status = in_fork(arguments, ordinary_user)
    assert status == 2 and "Traceback" not in said(), said()
    assert "permission denied" in said().lower() or "cannot be written" in said()
    assert not Path(result).exists()


UNREADABLE = {
    "model/model.json": ("compress", "info", *VERBS, "compare"),
    "model/model.safetensors": ("compress", "info", *VERBS, "compare"),
    "codes.npy": ("compress", *VERBS, "compare"),
    "x.nelbo": ("decompress", "pictures", "info of an archive"),
}
"""Files, and commands that read them; the first of them is tried always, the others with the slow tests."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.usefixtures("imported")
def test_files_that_an_ordinary_user_may_not_read(here, place, name, every):
    (place / name).chmod(0o000)
    commands = {verb: arguments for verb, (arguments, _) in VERBS.items()} | READ
    verbs = dict.fromkeys(UNREADABLE[name]) if every else UNREADABLE[name][:1]
    try:
        for verb in verbs:
            if not any(Path(name).parts[0] in argument for argument in commands[verb]):
                continue
            status = in_fork(commands[verb], ordinary_user)
            if verb == "report" and name.endswith("safetensors"):  # it reads no weights
                assert status == 0, said()
                Path(VERBS[verb][1]).unlink()
                continue
            assert status == 2 and Path(name).name in said(), (verb, said())
            assert "permission denied" in said().lower() or "is not readable" in said(), (verb, said())
            assert "Traceback" not in said() and tree(Path("new")) == {}, verb
    finally:
        (place / name).chmod(0o644)


@pytest.mark.slow
def test_no_verb_needs_room_for_temporary_files(here):
    """TMPDIR is full, or not there: everything is written beside its place."""

    def gone() -> None:
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = "/nowhere"
        tempfile.tempdir = "/nowhere"

    for verb, (arguments, result) in VERBS.items():
        assert in_fork(arguments, gone) == 0 and Path(result).exists(), (verb, said())
    for verb, arguments in READ.items():
        assert in_fork(arguments, gone) == 0, (verb, said())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_file_system(here):
    """A real one of 32 KiB without a free byte. A folder may be made in it, and an empty file; nothing more is left."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", "new"], check=False).returncode:
        pytest.skip("may not mount")
    try:
        Path("new/filler").write_bytes(bytes(32 << 10))
        for verb, (arguments, _) in VERBS.items():
            status = in_fork(arguments)
            assert status == 2 and "no space left on device" in said() and "Traceback" not in said(), (verb, said())
            left = {path for path, size in tree(Path("new")).items() if size > 0}
            assert left == {"filler"} and leftovers() == [], verb
    finally:
        subprocess.run(["umount", "new"], check=True)


@pytest.mark.slow
def test_messages_that_cannot_be_written(here):
    """stderr on a full disk or a pipe that nobody reads: the work is done, and refusals keep their status."""

    def full_stderr() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)

    def nobody_reads() -> None:
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(reader)

    for fault in (full_stderr, nobody_reads):
        for verb in ("train", "tighten"):
            assert in_fork(VERBS[verb][0], fault) == 0 and Path(VERBS[verb][1]).exists()
        assert in_fork(("info", "nowhere"), fault) == 2
        shutil.rmtree("new/run")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [full, killed_at(4, signal.SIGTERM), killed_at(9, signal.SIGKILL)])
def test_demo(here, monkeypatch, fault):
    """The demo with a small model: no result, or none but whole ones, and the next run ends well."""
    settings = {"steps": 2, "levels": 3, "batch_size": 8, "net": {"width": 8, "blocks": 1}}
    plain = demo.run_training

    def small(data, out, _, *rest, **more):
        return plain(data, out, settings, *rest, **more)

    monkeypatch.setattr(demo, "run_training", small)
    arguments = ("demo", "--out", "new/demo")
    assert in_fork(arguments, fault) in (2, 130, -9) and "Traceback" not in said(), said()
    assert not Path("new/demo/report.html").exists()
    assert in_fork(arguments) == 0, said()
    whole = {*demo.WRITTEN, demo.MARK, "model"} - {*demo_text.WRITTEN}
    assert {path.name for path in Path("new/demo").iterdir()} == whole


@pytest.mark.slow
def test_equations_build(here):
    """An earlier site stands until the new one is whole."""
    arguments = ("equations", "build", "--out", "new/site")
    site.replace(Path("new/site"), {"index.html": "old"})
    assert in_fork(arguments, full) == 2 and "Traceback" not in said(), said()
    assert Path("new/site/index.html").read_text() == "old" and [p.name for p in Path("new").iterdir()] == ["site"]


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


@pytest.mark.parametrize("verb", SOME)
def test_a_clock_that_goes_back(here, verb):
    """Seconds may then be negative; results are written all the same."""

    def backwards() -> None:
        now = [10.0**6]

        def earlier() -> float:
            now[0] -= 5
            return now[0]

        for name in ("time", "monotonic", "perf_counter"):
            setattr(time, name, earlier)

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

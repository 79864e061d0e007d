"""Commands in forks of the test's process, which have their imports already: a fault is set up in the fork alone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from nelbo import files
from nelbo.cli import failures, main
from tests.fuzz.limits import tree

DATA = ("--data", "codes.npy")
VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "evaluate": (("evaluate", "model", *DATA, "--estimator", "stratified", "--out", "new/b.json",
                  "--per-example", "new/rows.npz", "--state", "new/state"), "new/b.json"),
    "sample": (("sample", "model", "-n", "2", "--out", "new/s.npz"), "new/s.npz"),
    "picture": (("sample", "model", "-n", "2", "--out", "new/s.png"), "new/s.png"),
    "compress": (("compress", "model", "codes.npy", "--few", "--out", "new/x.nelbo"), "new/x.nelbo"),
    "decompress": (("decompress", "model", "x.nelbo", "--out", "new/codes.npz"), "new/codes.npz"),
    "pictures": (("decompress", "model", "x.nelbo", "--out", "new/pictures"), "new/pictures"),
    "train": (("train", *DATA, "--out", "new/run", "--set", "steps=2", "--set", "net.width=8",
               "--set", "bins=17", "--set", "levels=3", "--set", "batch_size=8"), "new/run/model.json"),
    "ode": (("ode", "model", *DATA, "--steps", "2", "--limit", "2", "--out", "new/o.json", "--per-example",
             "new/o.npz", "--state", "new/ode"), "new/o.json"),
    "tighten": (("tighten", "model", "--data", "digits:test", "--limit", "64", "--steps", "2", "--first-level", "own",
                 "--out", "new/tight"), "new/tight/model.json"),
    "diagnose": (("diagnose", "model", *DATA, "--max-nfe", "200", "--out", "new/d.json"), "new/d.json"),
    "report": (("report", "model", "--out", "new/r.html"), "new/r.html"),
}  # fmt: skip
"""Commands, and what each of them writes."""
READ = {
    "compare": ("compare", "model", "model", *DATA, "--max-nfe", "2000"),
    "info": ("info", "model"),
    "info of an archive": ("info", "x.nelbo"),
}
"""Commands that write nothing."""


def in_fork(run: tuple[str, ...] | Callable[[], object], fault: Callable[[], object] = lambda: None) -> int:
    """The exit status of `nelbo ARGUMENTS`, or of a function, after `fault()` in a fork; minus a signal that ended it.
    What it prints goes to the files out and err."""
    child = os.fork()
    if child == 0:
        status = 99
        with contextlib.suppress(BaseException):
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            files._swept.clear()
            warnings.simplefilter("default")  # as a command has it, whatever the tests make of warnings
            main.end_as_ctrl_c()
            fault()
            status = _called(run) if callable(run) else main.execute(list(run))
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    _, code = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(code)


def _called(run: Callable[[], object]) -> int:
    try:
        run()
    except (Exception, KeyboardInterrupt) as error:
        return failures.report(error)
    return 0


def ordinary_user() -> None:
    """Become nobody, for good."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def full() -> None:
    """No file may grow beyond 300 bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))


def killed_at(moment: int, number: int) -> Callable[[], None]:
    """A fault: the signal comes before the call `moment` (0, 1, …) of those that change names or end the writing of a
    file."""

    def fault() -> None:
        left = [moment]

        def counted(call: Callable) -> Callable:
            def instead(*arguments, **keywords):
                left[0] -= 1
                if left[0] == -1:
                    os.kill(os.getpid(), number)
                return call(*arguments, **keywords)

            return instead

        for name in ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link"):
            setattr(os, name, counted(getattr(os, name)))

    return fault


def leftovers() -> list[str]:
    return [path for path in tree(Path("new")) if ".nelbo-" in path]


def said() -> str:
    return Path("err").read_text()

"""A plug-in model slow enough to be killed, and the ways to start it: alone, or several processes of a launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLUGIN = """
import os, pathlib, time, torch, nelbo

def net(z, t):
    pid = pathlib.Path("pid-" + os.environ.get("RANK", "0"))
    pathlib.Path(f"new-{pid}").write_text(str(os.getpid()))
    os.replace(f"new-{pid}", pid)  # whole at once: another process reads it
    time.sleep(float(os.environ.get("SLEEP", 0)))
    return torch.tanh(0.9 * z) * (0.5 + t.to(z.dtype).reshape(-1, 1, 1, 1) / 100)

def make(scale=1.0):
    return nelbo.from_callable(net, schedule=nelbo.schedules.linear(T=20, beta_1=1e-2, beta_T=0.4),
                               domain=nelbo.DataDomain((1, 4, 4), bins=17))

def other():
    return nelbo.from_callable(lambda z, t: 0.5 * z, schedule=nelbo.schedules.linear(T=20, beta_1=1e-2, beta_T=0.3),
                               domain=nelbo.DataDomain((1, 4, 4), bins=17))

def smooth():
    return nelbo.from_callable(lambda z, t: torch.tanh(0.9 * z) * (0.5 + t.to(z.dtype).reshape(-1, 1, 1, 1) / 100),
                               schedule=nelbo.schedules.linear(T=20, beta_1=1e-2, beta_T=0.4),
                               domain=nelbo.DataDomain((1, 4, 4), bins=17))

def broken():
    def nan_of_the_second(z, t):
        return z * float("nan" if os.environ.get("RANK") == "1" else 1)
    return nelbo.from_callable(nan_of_the_second, schedule=nelbo.schedules.linear(T=20, beta_1=1e-2, beta_T=0.4),
                               domain=nelbo.DataDomain((1, 4, 4), bins=17))
"""
LATE = """
import nelbo.cli.main as cli
from nelbo import runtime
from nelbo.runtime.processes import _lost
whole = runtime.Processes.__init__

def late(self, *signals):
    whole(self, *signals)
    if self.rank == 0:  # still connecting when another has reported its failure and ended
        self._store.wait(["nelbo/failed/0"])
        raise _lost("the processes did not find each other")

runtime.Processes.__init__ = late
cli.run()
"""
TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def workplace(folder: Path) -> Path:
    """`folder` with the plug-in, 9 examples and 200 examples."""
    (folder / "plug.py").write_text(PLUGIN)
    (folder / "late.py").write_text(LATE)
    codes = np.random.default_rng(0).integers(0, 17, (200, 4, 4)).astype("uint8")
    np.save(folder / "nine.npy", codes[:9])
    np.save(folder / "many.npy", codes)
    return folder


def environment(sleep: float = 0.0) -> dict[str, str]:
    """Of a child: no launcher's variables, one thread, a plain terminal."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {k: v for k, v in os.environ.items() if k not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "TERM": "dumb", "SLEEP": str(sleep), "ACCELERATE_USE_CPU": "true"}


def start(
    cwd: Path,
    *arguments: str,
    launcher: tuple[str, ...] = (),
    sleep: float = 0.0,
    command: str = "evaluate",
    program: tuple[str, ...] = ("-m", "nelbo"),
) -> subprocess.Popen[str]:
    """`nelbo COMMAND ARGUMENTS` under way, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *launcher, *program, command, *arguments],
        cwd=cwd,
        env=environment(sleep),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def done(cwd: Path, *arguments: str, status: int = 0, **options: Any) -> tuple[Any, str]:
    """The JSON document (None where there is none) and stderr of a whole run, started with `options` of `start`."""
    process = start(cwd, *arguments, "--json", **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return (json.loads(out) if out else None), err


def until(holds: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until it holds, with the process still there."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""A data file that is cut off while it is read: two lines and status 2, and no bus error."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CUT = """
import os
import torch, nelbo

calls = [0]

def network(z, t):
    calls[0] += 1
    if calls[0] == 3:
        os.truncate("big.npy", 4096)
    return torch.zeros_like(z)

def make():
    domain = nelbo.DataDomain((64, 64), bins=256)
    return nelbo.from_callable(network, schedule=nelbo.schedules.linear(T=20), domain=domain)
"""
BARE = "from nelbo.api import evaluate; import cut; evaluate(cut.make(), 'big.npy', max_nfe=3000)"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads behind the end of a mapping differently")
def test_a_mapped_file_that_is_truncated(run_nelbo, tmp_path):
    """The command says so; in Python the process ends as with a map of numpy, which SECURITY.md says."""
    (tmp_path / "cut.py").write_text(CUT)
    codes = np.random.default_rng(0).integers(0, 256, (4200, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "big.npy", codes)
    command = ("evaluate", "cut:make", "--data", "big.npy", "--max-nfe", "3000", "--out", "new.json", "--json")
    done = run_nelbo(*command, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error == f"error: {tmp_path / 'big.npy'} was truncated while it was used" and hint.startswith("hint: ")
    assert "Traceback" not in done.stderr and not (tmp_path / "new.json").exists()
    np.save(tmp_path / "big.npy", codes)
    bare = subprocess.run([sys.executable, "-c", BARE], cwd=tmp_path, stderr=subprocess.DEVNULL, check=False)
    assert bare.returncode == -signal.SIGBUS
    assert Path(tmp_path / "big.npy").stat().st_size == 4096

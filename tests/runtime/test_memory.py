"""Memory does not grow with the number of examples."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nelbo.data import arrays
from nelbo.model.examples import Examples
from tests.runtime.cases import environment

CHEAP = """
import nelbo
def make():
    return nelbo.from_callable(lambda z, t: 0.5 * z, schedule=nelbo.schedules.linear(T=100),
                               domain=nelbo.DataDomain((1, 28, 28), bins=256))
"""
MEASURED = """
import resource, sys
from nelbo.cli.main import execute
status = execute(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_ten_times_the_examples_in_the_same_memory(tmp_path):
    (tmp_path / "cheap.py").write_text(CHEAP)
    codes = np.random.default_rng(0).integers(0, 256, (60000, 28, 28), dtype=np.uint8)
    peak = {}
    for n in (6000, 60000):
        np.save(tmp_path / f"{n}.npy", codes[:n])
        command = ["evaluate", "cheap:make", "--data", f"{n}.npy", "--max-nfe", "2000", "--json"]
        told = subprocess.run(
            [sys.executable, "-c", MEASURED, *command],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        peak[n] = int(told.stderr.splitlines()[-1])
    print({n: f"{kib / 1024:.0f} MiB" for n, kib in peak.items()})
    assert peak[60000] <= 1.1 * peak[6000], peak


def test_a_mapped_file_is_as_one_that_was_read(tmp_path, monkeypatch):
    codes = np.random.default_rng(0).integers(0, 256, (3000, 5, 7)).astype("uint8")
    np.save(tmp_path / "x.npy", codes)
    read = arrays.read_npy(tmp_path / "x.npy")
    monkeypatch.setattr(arrays, "MAPPED", 0)
    mapped = arrays.read_npy(tmp_path / "x.npy")
    assert isinstance(arrays.load(tmp_path / "x.npy"), np.memmap)
    assert mapped.fingerprint == read.fingerprint == Examples(read.data).fingerprint
    mapped.release()
    assert bool((mapped.data == read.data).all()) and mapped.first(7).release is mapped.release
    mapped.data[0, 0, 0] = 255 - int(codes[0, 0, 0])
    mapped.release()  # what was written stays
    assert int(mapped.data[0, 0, 0]) == 255 - int(codes[0, 0, 0]) and bool((np.load(tmp_path / "x.npy") == codes).all())

"""The oldest torch that nelbo asks for, and the newest there is, under the quick tests of rooms that lean on it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tests/model/test_closure.py", "tests/process", "tests/monitoring/test_monitor.py", "tests/test_folder.py")
TORCH = re.compile(r"(torch|torchgen|functorch|torch-[\d.+a-z]+\.dist-info|_editable_impl_nelbo\.pth)$")


def floor() -> str:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (version,) = (need.removeprefix("torch>=") for need in needs if need.startswith("torch>="))
    return f"{version}.0"


def environment(folder: Path, torch: str) -> Path:
    """The Python of an environment of links: to `torch` and what it needs, put into a folder of their own, and to every
    other package of this one. Skips the test where the index has none in time."""
    fresh, numpy = folder / "torch", f"numpy=={importlib.metadata.version('numpy')}"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", fresh, torch, numpy]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=420)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{torch} does not come from the index within seven minutes")
    if ran.returncode:
        pytest.skip(f"{torch} cannot be installed here: {ran.stderr.strip().splitlines()[-1]}")
    venv.create(folder / "environment", with_pip=False)
    there = folder / "environment" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for packages in (fresh, Path(sysconfig.get_paths()["purelib"])):
        for entry in packages.iterdir():
            if not (there / entry.name).exists() and (packages == fresh or not TORCH.match(entry.name)):
                (there / entry.name).symlink_to(entry)
    return folder / "environment" / "bin" / "python"


NEWEST = pytest.mark.skipif(
    "NELBO_NEWEST_TORCH" not in os.environ, reason="another one every month: NELBO_NEWEST_TORCH=1 tries it"
)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["floor", pytest.param("newest", marks=NEWEST)])
def test_the_rooms_that_lean_on_torch(which):
    with tempfile.TemporaryDirectory() as folder:  # 6 GB, of which nothing stays
        check(which, environment(Path(folder), f"torch=={floor()}" if which == "floor" else "torch"))


def check(which: str, python: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    clean = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True)
    assert version.stdout.startswith(floor()) == (which == "floor")
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *ROOMS],
        cwd=ROOT, env=clean, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]

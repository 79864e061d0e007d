"""What every test stands on: one torch thread, fixed seeds, derandomised hypothesis, and the shared fixtures."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "nelbo",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("nelbo")


def pytest_sessionstart() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A warning that a slow test does not expect is shown, and lets it pass; the quick tests fail on theirs."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.filterwarnings("default"), append=False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material: $NELBO_SHARED, or `shared` beside the repository."""
    path = Path(os.environ.get("NELBO_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not path.is_dir():
        pytest.skip(f"no reference material at {path}: put `shared` beside the repository or set NELBO_SHARED")
    return path


@pytest.fixture(scope="session")
def run_nelbo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m nelbo ARGS` in a process of its own; the exit status is the caller's to check.

    Without `cwd`, each call runs in a new empty folder. The terminal is dumb and 120 columns wide.
    """

    def run(
        *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        fixed = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}
        return subprocess.run(
            [sys.executable, "-m", "nelbo", *map(str, args)],
            cwd=cwd or tmp_path_factory.mktemp("nelbo"),
            env={**os.environ, **fixed, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run

"""What the tests of the command line share: commands run in this process, and one small model trained by them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from nelbo.bound.checks import NelboWarning
from nelbo.cli.main import execute

SMALL = ("--set", "steps=3", "--set", "net.width=16", "--set", "levels=4", "--set", "batch_size=16")
"""Settings of a model that is trained in well under a second."""


class Result(NamedTuple):
    """What one command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as the one JSON document that it must be; NaN and infinity are no JSON."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} in JSON")

        return json.loads(self.out, parse_constant=refuse)

    def refused(self) -> str:
        """The error line, after checking that this is a refusal by the contract."""
        assert self.status == 2, self
        assert "Traceback" not in self.err and self.out == "", self
        error, hint = self.err.splitlines()[-2:]
        assert error.startswith("error: ") and len(error) > len("error: "), self
        assert hint.startswith("hint: ") and len(hint) > len("hint: "), self
        return error


@pytest.fixture
def nelbo(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `nelbo ARGS` in this process."""

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("always", NelboWarning)  # a line on stderr, as outside of tests
            status = execute([str(a) for a in arguments])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder, written by `nelbo train`; not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    assert execute(["train", "--data", "digits:train", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the small model folder that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture(scope="session")
def place(trained) -> Iterator[Path]:
    """A folder with a model, data and an archive, which every user reaches: pytest's own are closed again and again."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(trained, folder / "model")
    before = Path.cwd()
    os.chdir(folder)
    try:
        np.save("codes.npy", (np.arange(8 * 64).reshape(8, 8, 8) % 17).astype(np.uint8))
        assert execute(["compress", "model", "codes.npy", "--few", "--out", "x.nelbo"]) == 0
    finally:
        os.chdir(before)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def here(place, monkeypatch) -> Iterator[Path]:
    """A folder beside copies (links) of the inputs, with an empty one called new, that every user may write to."""
    folder = Path(tempfile.mkdtemp())
    for name in ("model", "codes.npy", "x.nelbo"):
        (folder / name).symlink_to(place / name)
    monkeypatch.chdir(folder)
    Path("new").mkdir()
    for name in (".", "new"):
        Path(name).chmod(0o777)
    yield folder
    shutil.rmtree(folder)

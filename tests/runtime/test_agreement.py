"""Processes that were given different things stop before the work, with one error that names it on every rank."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nelbo
from nelbo import runtime
from nelbo.errors import UsageError
from nelbo.workers import Alone, agree
from tests.bound.workers import on_two
from tests.runtime import agreement
from tests.runtime.cases import TWO, done, environment, workplace


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict]:
    """What each of two real processes was told, by case."""
    folder = tmp_path_factory.mktemp("agreement")
    program = Path(agreement.__file__).resolve()
    process = subprocess.run(
        [sys.executable, *TWO, program, folder],
        env=environment(), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", agreement.CASES)
@pytest.mark.slow
def test_what_differs_is_named_on_every_rank(told, case):
    """Two processes with different data of one shape gave two different numbers, each with exit status 0."""
    names = agreement.CASES[case][-1]
    first, second = (rank[case] for rank in told)
    assert first == second and first["hint"]
    assert re.match(
        f"the 2 processes of this run were not given the same {names}: .* is .* on rank 0, .* on rank 1",
        first["error"],
    )


@pytest.mark.slow
def test_the_remedy_of_data(told):
    """The likely cause: each process was given its share."""
    assert "give every process all of the examples" in told[0]["fewer examples"]["hint"]


@pytest.mark.slow
def test_two_verbs(told):
    assert told[0]["verb"] == told[1]["verb"]
    assert "not given the same command" in told[0]["verb"]["error"]
    assert "evaluate on rank 0, sample on rank 1" in told[0]["verb"]["error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_equal_things_are_shared(told):
    """After all these errors the processes still work together, and give the numbers of one process."""
    assert told[0]["equal"] == told[1]["equal"]
    for name, (verb, given) in agreement.SHARED.items():
        np.testing.assert_allclose(told[0]["equal"][name], verb(Alone(), **given), rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_one_voice_on_the_command_line(tmp_path):
    """Each process reads its own file of one name: one error, status 1 of the launcher, and no number."""
    here = workplace(tmp_path)
    codes = np.load(here / "nine.npy")
    np.save(here / "data-0.npy", codes)
    np.save(here / "data-1.npy", codes[::-1])
    (here / "own.py").write_text(
        "import os, sys, nelbo.cli.main as cli\n"
        "sys.argv = [a.replace('RANK', os.environ['RANK']) for a in sys.argv]\ncli.run()\n"
    )
    _, err = done(here, "plug:make", "--data", "data-RANK.npy", launcher=TWO, status=1, program=("own.py",))
    errors = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(errors) == 2 and "were not given the same data" in errors[0], err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("tighten", ("plug:make", "--data", "many.npy", "--steps", "2", "--out", "out")),
        ("compress", ("plug:make", "many.npy", "--out", "out.nelbo")),
    ],
)
def test_work_that_is_not_shared_is_refused(tmp_path, command, arguments):
    """On the command line by one voice, before anything is done; a file was written twice before."""
    here = workplace(tmp_path)
    _, err = done(here, *arguments, launcher=TWO, status=1, command=command)
    errors = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(errors) == 2 and "2 processes were launched" in errors[0] and "without a launcher" in errors[1], err
    assert not list(here.glob("out*")) and not list(here.glob("pid-*"))  # nothing written, no network asked


@pytest.mark.parametrize("verb", ["tighten", "codec.compress", "codec.decompress"])
def test_work_that_is_not_shared_is_the_first_process_s(verb, monkeypatch):
    """In Python the process of rank 0 may do it, and any other is told so."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    runtime.check_first(verb)
    monkeypatch.setenv("RANK", "1")
    call = {
        "tighten": lambda: nelbo.tighten(agreement.model(), agreement.CODES, 2),
        "codec.compress": lambda: nelbo.codec.compress(agreement.model(), agreement.CODES, "x.nelbo"),
        "codec.decompress": lambda: nelbo.codec.decompress(agreement.model(), "x.nelbo", "x.npz"),
    }
    with pytest.raises(UsageError, match=rf"nelbo\.{verb} was called in process 1 of 2.*\n.*rank 0 alone"):
        call[verb]()


def test_one_hash_is_exchanged():
    """Where all agree it costs one row; a table inside another is compared by its entries."""

    def work(worker):
        agree(worker, {"data": "a" * 64, "config": {"lr": 1e-3, "net": {"width": 8}}}, "train")
        try:
            agree(worker, {"data": "a" * 64, "config": {"net": {"width": 8 + worker.rank}}}, "train")
        except UsageError as error:
            return error.message
        return None

    (first, second), _ = on_two(work)
    assert (
        first
        == second
        == (
            "the 2 processes of this run were not given the same config.net.width: config.net.width is 8 on rank 0, "
            "9 on rank 1"
        )
    )
    _, workers = on_two(lambda worker: agree(worker, {"data": "x" * 1000}, "evaluate"))
    assert [worker.rows for worker in workers] == [0, 0]  # one row each, of which none is counted
    agree(Alone(), {"data": object()}, "evaluate")  # alone, nothing is made of it

"""Two processes are one: the same numbers, one voice, one error, and no hang when one of them dies."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import pytest
import torch

from nelbo import runtime
from nelbo.errors import UsageError
from nelbo.workers import Alone
from tests.runtime.cases import TWO, done, start, until, workplace

NINE = ("plug:make", "--data", "nine.npy", "--precision", "float64", "--batch-size", "4", "--tolerance", "0.05")


@pytest.fixture
def here(tmp_path):
    return workplace(tmp_path)


def same(one, two):
    """Whether two results agree to 1e-9 relative in every number, and in everything else but the time they took."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one.keys() - {"seconds"}:
            same(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            same(a, b)
    elif isinstance(one, float):
        assert two == pytest.approx(one, rel=1e-9, abs=1e-300)
    else:
        assert one == two


def on_one_and_on_two(here, *arguments, rows=True, **options):
    """The document of a run on one process, after comparing it and its file of examples (`rows`) with those of two."""
    documents = []
    for launcher, name in (((), "one.npz"), (TWO, "two.npz")):
        file = ("--per-example", name) if rows else ()
        documents.append(done(here, *arguments, *file, launcher=launcher, **options)[0])
    same(*documents)
    if rows:
        one, two = (np.load(here / name) for name in ("one.npz", "two.npz"))
        assert list(one["index"]) == list(range(9))
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-9, atol=1e-12, err_msg=name)
    return documents[0]


@pytest.mark.slow
def test_five_samples_on_two_processes(here):
    """The same samples as one process draws, written once, by one voice."""
    for launcher, name in (((), "one.npz"), (TWO, "two.npz")):
        document = done(here, "plug:make", "-n", "5", "--out", name, launcher=launcher, command="sample")[0]
        assert document["n"] == 5 and document["file"] == name
    one, two = (np.load(here / name)["samples"] for name in ("one.npz", "two.npz"))
    assert one.dtype == two.dtype and (one == two).all()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["per_example", "pooled"])
def test_nine_examples_on_two_processes(here, estimator):
    document = on_one_and_on_two(here, *NINE, "--estimator", estimator, rows=estimator != "pooled")
    assert document["examples"] == 9 and document["nfe_total"] > 0


@pytest.mark.slow
def test_the_ode_likelihood_on_two_processes(here):
    """Nine examples' solves, shared."""
    options = ("plug:smooth", "--data", "nine.npy", "--precision", "float64", "--batch-size", "4")
    document = on_one_and_on_two(here, *options, "--steps", "4", "--dequantisation", "flow", command="ode")
    assert document["quantity"] == "ode" and document["examples"] == 9 and not document["interrupted"]


@pytest.mark.slow
def test_accelerate_launch(here):
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0")
    one, _ = done(here, *NINE, "--estimator", "pooled")
    same(one, done(here, *NINE, "--estimator", "pooled", launcher=launcher)[0])


@pytest.mark.slow
def test_one_process_speaks_for_both(here):
    process = start(here, *NINE, "--max-nfe", "400", "--tolerance", "0.0001", launcher=TWO)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.count("─ ") + out.count("bound ") == 1, out
    warnings = [line for line in err.splitlines() if line.startswith("warning:")]
    assert len(warnings) == len(set(warnings)), err  # each once, and not once a process
    assert err.count("--max-nfe 400 was reached") == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("plug:make", "--data", "none.npy"), ("plug:broken", "--data", "many.npy")])
def test_an_error_is_told_once(here, arguments):
    """Where both fail alike, and where only the second process fails: its NaN is the error, not that it is gone."""
    _, err = done(here, *arguments, launcher=TWO, status=1)
    errors = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(errors) == 2 and ("none.npy" in errors[0] or "is not finite" in errors[0]), err
    assert "nelbo/cli" not in err and "nelbo/bound" not in err


@pytest.mark.slow
def test_an_error_is_told_once_to_one_that_comes_late(here):
    """Process 1 fails and leaves while process 0 is still joining: one error, and it is that of process 1."""
    _, err = done(here, "plug:make", "--data", "none.npy", launcher=TWO, status=1, program=("late.py",))
    assert [line[:6] for line in err.splitlines() if line.startswith(("error:", "hint:"))] == ["error:", "hint: "], err
    assert "none.npy" in err and "did not find" not in err


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(here, victim):
    slow = ("plug:make", "--data", "many.npy", "--estimator", "exhaustive", "--batch-size", "20")
    process = start(here, *slow, launcher=TWO, sleep=0.2)
    pids = [here / f"pid-{rank}" for rank in (0, 1)]
    until(lambda: all(p.exists() and p.read_text() for p in pids), process)
    time.sleep(1.0)
    os.kill(int(pids[victim].read_text()), signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60 and process.returncode != 0 and out == ""
    errors = [line for line in err.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(errors) == 2 and "2 processes" in errors[0], err
    assert "nelbo/cli" not in err and "nelbo/bound" not in err and "nelbo/runtime" not in err


@pytest.mark.slow
def test_ctrl_c_ends_both_with_the_estimate(here):
    """The launcher passes Ctrl-C on; both stop after the same round, and one prints the estimate so far."""
    code = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "sys.argv[0] = 'torchrun'; runpy.run_module('torch.distributed.run', run_name='__main__')"
    launcher = ("-c", code, *TWO[2:])
    many = ("plug:make", "--data", "many.npy", "--tolerance", "0.001", "--batch-size", "20", "--json")
    process = start(here, *many, "--out", "so-far.json", launcher=launcher, sleep=0.05)
    until((here / "pid-1").exists, process)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert '"interrupted": true' in out and (here / "so-far.json").read_text().strip() == out.strip(), err
    assert err.count("error: interrupted after ") == 1 and "nelbo/bound" not in err


def test_without_a_launcher_it_is_alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(runtime.workers(), Alone) and runtime.leads() and runtime.reports_failure()
    assert [runtime.device(name) for name in (None, "cpu", "cuda", "cuda:1")] == [None, "cpu", "cuda", "cuda:1"]
    runtime.finish()


def test_a_gpu_for_every_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (
        runtime.device("cuda") == "cuda:1" and runtime.device("cuda:0") == "cuda:0" and runtime.device("cpu") == "cpu"
    )
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="no GPU of its own"):
        runtime.device("cuda")


def test_accelerate_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match=r"2 processes were launched[\s\S]*pip install"):
        runtime.workers()


def test_other_ranks_are_silent(monkeypatch, capsys):
    # accelerate writes all of these, and none is to be left behind
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate.PartialState, "_shared_state", {})  # of processes that do not find each other
    from nelbo.cli.main import execute

    assert execute(["evaluate", "plug:make", "--data", "x.npy", "--tolerance", "-1"]) == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_comparison_is_shared(here):
    """`compare` of two models on two processes: the numbers of one process, and both computed."""
    arguments = ("plug:make", "plug:other", "--data", "many.npy", "--tolerance", "0.02")
    one, _ = done(here, *arguments, command="compare")
    two, _ = done(here, *arguments, command="compare", launcher=TWO)
    for key in ("difference", "nfe_total", "examples"):
        assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-7)
    assert all((here / f"pid-{rank}").exists() for rank in (0, 1))

"""`nelbo evaluate` as an engine: --estimator, --state after any kill, Ctrl-C with the estimate so far, bf16's shift."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import signal
import time
import warnings

import pytest
import torch

from nelbo import evaluate
from nelbo.bound.checks import NelboWarning
from nelbo.errors import Interrupted
from tests.expected import early_end, untrained
from tests.runtime.cases import start, until, workplace

pytestmark = [untrained, early_end]
MANY = ("plug:make", "--data", "many.npy", "--batch-size", "4", "--tolerance", "0.03")
FEW = (*MANY[:-1], "0.3")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "plug", raising=False)
    return tmp_path


@pytest.fixture
def model(here):
    import plug

    return plug.make()


def number(document):
    """All of a result but how long it took."""
    return {k: v for k, v in document.items() if k != "seconds"}


def test_estimator_by_name(nelbo, here):
    nine = ("plug:make", "--data", "nine.npy")
    result = nelbo("evaluate", *nine, "--estimator", "stratified", "--json")
    assert result.status == 0 and result.json["estimator"]["name"] == "stratified"
    assert "stratifed" in nelbo("evaluate", *nine, "--estimator", "stratifed").refused()


def test_state_of_a_finished_run_and_a_damaged_one(nelbo, here):
    whole = nelbo("evaluate", *FEW, "--json").json
    state = here / "run.state"
    assert number(nelbo("evaluate", *FEW, "--json", "--state", state).json) == number(whole)
    content = state.read_bytes()
    assert number(nelbo("evaluate", *FEW, "--json", "--state", state).json) == number(whole)
    assert state.read_bytes() == content  # nothing was computed again
    head = content.index(b"\n", content.index(b"\n") + 1) + 1
    cases = [content[:n] for n in (0, 5, head - 1, head, head + 7, len(content) // 2, len(content) - 1)]
    flipped = bytearray(content)
    flipped[len(content) * 2 // 3] ^= 1
    for damaged in [*cases, bytes(flipped), content + b"rubbish"]:
        state.write_bytes(damaged)
        assert number(nelbo("evaluate", *FEW, "--json", "--state", state).json) == number(whole), len(damaged)
        mended = state.read_bytes()  # rounds follow the clock, so that records may be cut elsewhere than before
        assert number(nelbo("evaluate", *FEW, "--json", "--state", state).json) == number(whole)
        assert state.read_bytes() == mended


@pytest.mark.parametrize(
    "changed",
    [
        ("plug:other", *FEW[1:]),
        ("plug:make", "--data", "nine.npy", *FEW[3:]),
        (*FEW, "--seed", "1"),
        (*FEW, "--precision", "float64"),
        (*FEW, "--estimator", "per_example"),
        (*FEW, "--steps", "10"),
    ],
)
def test_the_state_of_something_else_is_refused(nelbo, here, changed):
    assert nelbo("evaluate", *FEW, "--state", "run.state").status == 0
    assert "run.state" in nelbo("evaluate", *changed, "--state", "run.state").refused()


def test_a_file_that_is_no_state_stays_as_it_is(nelbo, here):
    (here / "notes.txt").write_text("mine")
    assert "notes.txt" in nelbo("evaluate", *FEW, "--state", "notes.txt").refused()
    assert (here / "notes.txt").read_text() == "mine"
    assert "--state" in nelbo("evaluate", *FEW, "--state", "x", "--out", "x").refused()


@pytest.mark.slow
def test_killed_at_three_moments(nelbo, here):
    whole = number(nelbo("evaluate", *MANY, "--json").json)
    random.seed(7)
    state, size, pid = here / "run.state", 0, here / "pid-0"
    for _ in range(3):
        pid.unlink(missing_ok=True)
        process = start(here, *MANY, "--state", "run.state", sleep=0.015)
        until(lambda: pid.exists(), process)
        time.sleep(random.uniform(0.1, 1.2))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert state.stat().st_size >= size
        size = state.stat().st_size
    resumed = nelbo("evaluate", *MANY, "--json", "--state", state)
    assert resumed.status == 0, resumed.err
    assert number(resumed.json) == whole and state.stat().st_size > size


class Ctrl:
    """A network that is interrupted, as by Ctrl-C, at its n-th call."""

    def __init__(self, net, after):
        self.net, self.left = net, after

    def __deepcopy__(self, _):
        return self

    def __call__(self, z, t):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.net(z, t)


def interrupted(model, after):
    """The model with such a network."""
    denoiser = type(model.denoiser)(Ctrl(model.denoiser.net, after), model.denoiser.output, model.denoiser.time)
    return dataclasses.replace(model, denoiser=denoiser)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["pooled", "per_example"])
def test_interrupted_estimates_are_of_what_was_drawn(model, design, monkeypatch):
    """Stopped at 50 to 80 % of the way, over 24 seeds, on sorted examples: mean and variance of the z-scores within 3.5
    standard deviations of what right error bars give, against a whole run with a far shorter error bar."""
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)
    codes = torch.arange(17).repeat_interleave(283)[:4800].reshape(300, 1, 4, 4)
    options = {"tolerance": 0.01, "estimator": design, "batch_size": 40}
    counted = interrupted(model, 0)
    evaluate(counted, codes, **options)
    calls = -counted.denoiser.net.function.left
    exact = evaluate(model, codes, tolerance=0.0015, seed=99, batch_size=1000)
    z = []
    for seed in range(24):
        after = round(calls * (0.5 + 0.3 * seed / 24))
        bound = evaluate(interrupted(model, after), codes, **options, seed=seed)
        if not bound.interrupted:  # this seed needed fewer draws
            continue
        assert bound.to_dict()["interrupted"] and "interrupted" in bound.warnings[-1]
        parts = [getattr(bound.terms, name).bits_per_dim for name in ("prior", "diffusion", "reconstruction")]
        assert bound.bits_per_dim == pytest.approx(sum(parts))
        assert sum(level.bits_per_dim for level in bound.levels) == pytest.approx(parts[1], rel=0.02)
        error = math.hypot(bound.standard_error.estimator, exact.standard_error.estimator)
        assert error < 0.2
        z.append((bound.bits_per_dim - exact.bits_per_dim) / error)
    n, z = len(z), torch.tensor(z)
    assert n >= 18
    common = exact.standard_error.estimator / 0.01
    assert abs(float(z.mean())) < 3.5 * math.sqrt(1 / n + common**2), z
    assert float(z.var()) < 1 + 3.5 * math.sqrt(2 / n), z


@pytest.mark.parametrize("seed", [3, 9])
def test_examples_unlike_those_of_the_pilot_cost_no_more(model, seed):
    """Nearly all images are of one code; the few of two are not in the pilot, which must not foretell theirs wildly."""
    codes = torch.arange(17).repeat_interleave(283)[:4800].reshape(300, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NelboWarning)
        bound = evaluate(model, codes, tolerance=0.02, estimator="pooled", seed=seed)
    assert bound.standard_error.estimator <= 0.02 and bound.nfe_total < 5000


def test_interrupted_before_there_is_an_estimate(model):
    codes = torch.randint(17, (300, 1, 4, 4))
    with pytest.raises(KeyboardInterrupt):  # in the pilot
        evaluate(interrupted(model, 2), codes, batch_size=20)
    with pytest.raises(Interrupted, match="before there was an estimate"):
        evaluate(interrupted(model, 19), codes, batch_size=20, estimator="pooled")


@pytest.mark.slow
def test_ctrl_c_prints_and_writes_and_the_state_goes_on(nelbo, here):
    many = (*MANY[:-1], "0.02")  # more than one stage, so that there is an estimate
    arguments = (*many, "--json", "--state", "run.state")
    whole = nelbo("evaluate", *many, "--json", "--state", "whole.state").json
    size = (here / "whole.state").stat().st_size
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[1:3] = [];"
    launcher = ("-c", code + "from nelbo.cli.main import run; run()")
    process = start(here, *arguments, "--out", "so-far.json", launcher=launcher, sleep=0.02)
    state = here / "run.state"
    until(lambda: state.exists() and state.stat().st_size > 0.9 * size, process)  # into the draws of both terms
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["interrupted"] and json.loads((here / "so-far.json").read_text()) == document
    assert re.search(r"^error: interrupted after \d+ network evaluations", err, re.M) and "Traceback" not in err
    assert "run.state" in err.splitlines()[-1]
    assert document["nfe_total"] < whole["nfe_total"]
    assert number(nelbo("evaluate", *arguments).json) == number(whole)


def test_bf16_says_how_far_it_shifts_the_value(model):
    codes = torch.randint(17, (60, 1, 4, 4))
    with pytest.warns(NelboWarning, match="bf16 shifts the value by"):
        coarse = evaluate(model, codes, estimator="exhaustive", precision="bf16")
    fine = evaluate(model, codes, estimator="exhaustive")
    match = re.search(r"by (\S+) bits/dim against float32 \((\d+) paired draws, SE (\S+)\)", coarse.warnings[-1])
    assert match is not None
    shift, error = float(match[1]), float(match[3])
    assert abs((coarse.bits_per_dim - fine.bits_per_dim) - shift) < 4 * error + 1e-4
    assert coarse.nfe_total == fine.nfe_total + 4 * int(match[2])


def test_the_watch_and_the_plan(model):
    seen, planned = [], []
    evaluate(
        model,
        torch.randint(17, (200, 1, 4, 4)),
        tolerance=0.03,
        watch=lambda value, error: seen.append((value, error)),
        progress=lambda done, whole: planned.append((done, whole)),
    )
    assert seen and all(value > 0 and error > 0 for value, error in seen)
    assert planned[0][1] == 0 and planned[-1][1] >= planned[-1][0] > 0

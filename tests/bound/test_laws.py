"""Estimators × chains × laws: unbiased, honest about their error, blind to batches, to workers and to a kill.

The chains have an exact value: `shrunk.py` is Gaussian, with a table of betas or continuous; `flips.py` is in closed
form, has no network and is not Gaussian; `tokens/symbols.py` hides the symbols of a Markov chain. z-tests at fixed
seeds reject beyond 4 standard errors, and `test_power` shows what they see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from benchmarks.one_time import OneTime

from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Runner
from nelbo.workers import Run
from tests.bound import flips, shrunk
from tests.bound.tokens import symbols
from tests.bound.workers import on_two


class Chain(NamedTuple):
    """A problem with noise of a seed, its exact mean terms in nats, and the relative error of one that is seen."""

    problem: Callable[[int], Problem]
    diffusion: float
    reconstruction: float
    seen: float


def planned(tolerance: float) -> dict[str, Estimator]:
    return {
        "pooled": Adaptive(tolerance, design="pooled"),
        "per_example": Adaptive(tolerance, design="per_example"),
        "no controls": Adaptive(3 * tolerance, design="pooled", controls=False, regression=False),
        "no regression": Adaptive(tolerance, design="pooled", regression=False),
        "importance allocation": Adaptive(tolerance, design="pooled", allocation="importance"),
    }


def gaussian(continuous: bool) -> Chain:
    model = shrunk.model(continuous)
    exact = float(shrunk.exact_diffusion(continuous).mean()), float(shrunk.exact_reconstruction(continuous))
    return Chain(lambda seed: GaussianChain(model, shrunk.X, seed=seed, dtype=torch.float64), *exact, 0.1)


FLIPS = flips.problem()
DIFFUSION, RECONSTRUCTION = FLIPS.exact()
CHAINS = {
    "finite": gaussian(False),
    "continuous": gaussian(True),
    "flips": Chain(lambda seed: flips.problem(seed=seed), float(DIFFUSION.mean()), float(RECONSTRUCTION.mean()), 0.03),
}
CHAINS["symbols"] = Chain(symbols.markov, symbols.diffusion(), 0.0, 0.03)
FIXED: dict[str, Estimator] = {
    "exhaustive": Exhaustive(2),
    "exhaustive, paired": Exhaustive(1, 40),
    "stratified": Stratified(8, 4),
    "per_example, importance": Adaptive(0.006, design="per_example", allocation="importance"),
}
ONE_TIME: dict[str, Estimator] = {
    "uniform t": OneTime("uniform", 32),
    "low discrepancy": OneTime("low_discrepancy", 32, batch=16),
    "importance": OneTime("importance", 8),
}
ESTIMATORS = {
    "finite": planned(0.1) | ONE_TIME,
    "continuous": planned(0.1) | ONE_TIME,
    "flips": planned(0.006) | FIXED,
    "symbols": {
        "pooled": Adaptive(0.02, design="pooled"),
        "per_example": Adaptive(0.01, design="per_example"),
        "stratified": Stratified(4, 2),
    },
}
CASES = [(chain, name) for chain, estimators in ESTIMATORS.items() for name in estimators]


def estimated(chain: str, name: str, seed: int = 0, run: Run | None = None) -> tuple[Estimate, int]:
    """The estimate with noise of `seed`, and its evaluations."""
    problem = CHAINS[chain].problem(seed)
    runner = Runner(run or Run(), problem.dimensions)
    runner.open_state({"estimator": name, "seed": seed})
    estimate = ESTIMATORS[chain][name].estimate(problem, runner)
    runner.close()
    return estimate, runner.nfe


@functools.cache
def run_of(chain: str, name: str, seed: int) -> Estimate:
    """One of the runs that several laws look at."""
    return estimated(chain, name, seed)[0]


def check_unbiased(chain: str, name: str, scale: float = 1.0, seeds: int = 10) -> None:
    """Both random terms within 4 standard errors; the prior is exact."""
    runs = [run_of(chain, name, seed) for seed in range(seeds)]
    exact = scale * CHAINS[chain].diffusion, CHAINS[chain].reconstruction
    for term, truth in zip(("diffusion", "reconstruction"), exact, strict=True):
        values, variances = zip(*((getattr(r, term).mean, getattr(r, term).variance) for r in runs), strict=True)
        assert abs(np.mean(values) - truth) <= 4 * math.sqrt(np.mean(variances) / seeds), term
    assert runs[0].prior.mean == pytest.approx(float(CHAINS[chain].problem(0).priors().mean()))


@pytest.mark.parametrize(("chain", "name"), CASES)
def test_unbiased(chain, name):
    check_unbiased(chain, name)


@pytest.mark.parametrize("name", ["stratified", "pooled", "per_example"])
@pytest.mark.parametrize("chain", ["finite", "flips"])
def test_power(chain, name):
    """The same test sees a tenth, or 3 %, more or less of the diffusion term."""
    if name not in ESTIMATORS[chain]:
        pytest.skip("not on this chain")
    for scale in (1 - CHAINS[chain].seen, 1 + CHAINS[chain].seen):
        with pytest.raises(AssertionError, match="diffusion"):
            check_unbiased(chain, name, scale)


HONEST = [("finite", name) for name in ("pooled", "per_example", *ONE_TIME)]
HONEST += [("flips", name) for name in ("exhaustive", "stratified", "pooled", "per_example")]


@pytest.mark.parametrize(("chain", "name"), HONEST)
def test_the_predicted_error_is_the_observed_one(chain, name):
    """40 seeds: the root mean square of z is within what a chi-square of 40 degrees leaves with probability 0.9996; a
    pooled error may be a little long, since drawing without replacement is credited in part."""
    of = CHAINS[chain]
    exact = float(of.problem(0).priors().mean()) + of.diffusion + of.reconstruction
    runs = [run_of(chain, name, seed).total for seed in range(40)]
    z = np.array([(r.mean - exact) / math.sqrt(r.variance) for r in runs])
    pooled = "pooled" in str(ESTIMATORS[chain][name])
    assert (0.45 if pooled else 0.64) < math.sqrt((z**2).mean()) < 1.41


@pytest.mark.parametrize("name", ["pooled", "per_example", "low discrepancy"])
def test_the_batch_size_changes_nothing(name):
    """On a chain whose network sees the batches: to rounding."""
    whole, *others = (estimated("finite", name, 5, Run(batch_size=size))[0].total for size in (4096, 7, 64))
    for one in others:
        assert one.mean == pytest.approx(whole.mean, rel=1e-11)
        assert one.variance == pytest.approx(whole.variance, rel=1e-8)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the run that is killed
@pytest.mark.parametrize("name", ["exhaustive", "stratified", "pooled", "per_example"])
def test_batches_workers_and_a_kill_change_nothing(name, tmp_path):
    whole, nfe = estimated("flips", name)
    for result, evaluations in on_two(lambda w: estimated("flips", name, run=Run(workers=w, batch_size=37)))[0]:
        assert (result.total, evaluations) == (whole.total, nfe)

    class Killed(Exception):
        """Nothing that the engine knows."""

    def kill(done: int, planned: int) -> None:
        if done > nfe // 2:
            raise Killed

    state = tmp_path / "state"
    with pytest.raises(Killed):
        estimated("flips", name, run=Run(state=state, batch_size=50, progress=kill))
    again: list[int] = []
    run = Run(state=state, progress=lambda done, planned: again.append(done))
    resumed, evaluations = estimated("flips", name, run=run)
    assert (resumed.total, evaluations) == (whole.total, nfe)
    torch.testing.assert_close(resumed.diffusion.mean, whole.diffusion.mean, rtol=0, atol=0)
    assert again[0] > 1  # what the state held is not computed again


def test_per_example_values_and_the_tolerance():
    estimate, nfe = estimated("flips", "per_example")
    rows = estimate.per_example
    assert rows is not None and 0 < nfe < Exhaustive(2).cost(FLIPS)
    error = rows.nats - (FLIPS.priors() + DIFFUSION + RECONSTRUCTION)
    # from 160 examples: known to 12 %, and a little more for the skew of a term
    assert 0.6 < float(error.square().mean() / rows.standard_error.square().mean()) < 1.5
    assert math.sqrt(estimate.total.variance) <= 0.006 * FLIPS.dimensions * math.log(2)
    for one in (estimate, estimated("flips", "pooled")[0]):
        assert sum(s.mean for s in one.strata) == pytest.approx(one.diffusion.mean, rel=0.02)
    assert [s.t for s in estimate.strata] == sorted(s.t for s in estimate.strata) and estimate.strata[-1].t == 1
    assert math.isnan(estimate.strata[0].logsnr_t)


def test_the_pilot_uses_the_controls_and_features_of_the_chain():
    """One control and one feature: both explain a part, and neither is Gaussian."""
    whole, bare = (pilot.run(FLIPS, Runner(Run(), 1), 40, regressed=used, controlled=used) for used in (True, False))
    assert (whole.features.own, whole.features.places) == (1, 1) and whole.diffusion.controls.shape == (
        len(FLIPS.cells),
        1,
    )
    assert bool((whole.diffusion.controls != 0).any()) and bool((whole.diffusion.weights != 0).any())
    assert float(whole.diffusion.residual.mean()) < 0.9 * float(bare.diffusion.residual.mean())

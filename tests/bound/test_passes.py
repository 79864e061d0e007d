"""`Passes`: all levels of a short chain, to a tolerance, within a budget, or handed on; see also test_coverage.py."""

from __future__ import annotations

import functools
import math

import pytest
from benchmarks import coverage

from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Exhaustive
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.passes import MOST, Passes
from nelbo.bound.runner import Runner
from nelbo.workers import Run

STEPS, N, D = 8, 2, 12
_case = functools.cache(coverage.short)


def estimated(tolerance: float, seed: int = 0, N: int = N, **how) -> tuple[Estimate, int]:
    """The estimate, and the evaluations that it took."""
    model, x, _ = _case(N, STEPS)
    runner = Runner(Run(), D)
    return Passes(Adaptive(tolerance, **how)).estimate(GaussianChain(model, x, seed=seed), runner), runner.nfe


def error(estimate: Estimate) -> float:
    """The standard error in bits/dim."""
    return math.sqrt(estimate.total.variance) / D / math.log(2)


def test_draws_until_the_tolerance_holds():
    coarse, fine = estimated(2.0), estimated(0.5)
    for (estimate, nfe), tolerance in ((coarse, 2.0), (fine, 0.5)):
        assert error(estimate) <= tolerance and estimate.note is None
        assert nfe == estimate.estimator["draws"] * N * STEPS
        assert abs(estimate.total.mean - _case(N, STEPS)[2]) <= 4 * math.sqrt(estimate.total.variance)
    assert coarse[1] < fine[1]


def check_variance() -> None:
    """The same draws by the exhaustive estimator: the same value, and a variance that is widened twice, for its freedom
    and for the draws' end by it."""
    model, x, _ = _case(N, STEPS)
    estimate, _ = estimated(0.01, max_nfe=6 * N * STEPS)
    other = Exhaustive(6).estimate(GaussianChain(model, x), Runner(Run(), D))
    assert estimate.total.mean == pytest.approx(other.total.mean)
    assert other.per_example is not None
    plain = float(other.per_example.standard_error.square().mean()) / N
    assert plain < other.total.variance < 1.4 * plain
    assert plain < estimate.total.variance < 1.6 * plain


def test_the_variance_is_that_of_all_draws():
    check_variance()


def test_parts_add_up():
    """Terms, rows and strata are those of the same draws, whatever was taken off for stopping them."""
    estimate, _ = estimated(0.5)
    rows = estimate.per_example
    assert rows is not None and len(estimate.strata) == STEPS - 1  # the decoder takes the last evaluation
    assert float(rows.nats.mean()) == pytest.approx(estimate.total.mean)
    assert sum(s.mean for s in estimate.strata) == pytest.approx(estimate.diffusion.mean)
    total = estimate.prior.mean + estimate.diffusion.mean + estimate.reconstruction.mean
    assert total == pytest.approx(estimate.total.mean)
    assert sum(s.variance for s in estimate.strata) == pytest.approx(estimate.diffusion.variance)


def test_an_error_bar_of_few_draws_is_longer_than_their_spread():
    """Of one example twice at every level, by Student's t and more; and it says of how little it is made."""
    estimate, nfe = estimated(0.01, N=1, max_nfe=2 * STEPS)
    assert nfe == 2 * STEPS and estimate.estimator["draws"] == 2
    assert estimate.per_example is not None
    assert estimate.total.variance > 1.4 * float(estimate.per_example.standard_error) ** 2
    assert estimate.note is not None and f"{STEPS} differences of draws" in estimate.note


def test_levels_that_have_shown_no_error_beside_large_ones():
    """Their errors may be rare: draws go on although the tolerance holds, and the result says what may be missing."""
    model, x, exact = coverage.few(2)
    runner = Runner(Run(), 4)
    estimate = Passes(Adaptive(1.0)).estimate(GaussianChain(model, x, seed=0), runner)
    assert runner.nfe > MOST / 2
    assert estimate.note is not None and estimate.note.startswith("a level next to the one of the largest errors")
    assert abs(estimate.total.mean - exact) <= 3 * math.sqrt(estimate.total.variance) < 3 * 4 * math.log(2)


def test_a_tolerance_out_of_reach():
    """Nobody agreed to more than passes cost: said. A budget, or a consent: the estimator with a plan goes on."""
    estimate, nfe = estimated(0.05)
    assert MOST / 2 < nfe <= MOST and estimate.note is not None
    assert estimate.note.startswith(f"the tolerance 0.05 was not reached with {estimate.estimator['draws']} draws")
    planned, more = estimated(0.2, any_cost=True)
    assert planned.estimator["name"] == "adaptive" and error(planned) <= 0.2 and more > nfe
    within, spent = estimated(0.01, max_nfe=3000)
    assert within.estimator["name"] == "adaptive" and spent <= 3000
    assert within.note == "max_nfe=3000 was reached before the tolerance 0.01"
    little, spent = estimated(0.01, max_nfe=500)
    assert little.estimator["name"] == "exhaustive" and spent <= 500
    assert little.note == "max_nfe=500 was reached before the tolerance 0.01"

"""The adaptive estimator and the baselines × laws: unbiased, honest about their error, blind to batches, resumable.

The models are those of `shrunk.py`, whose exact bound is a few lines of numpy. z-tests run at fixed seeds and reject
beyond 4 standard errors; `test_power` shows that a weight off by a tenth is seen.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from benchmarks.one_time import OneTime

from nelbo import evaluate
from nelbo.bound.planned import allocation, pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import prepare
from nelbo.errors import UnknownNameError, UsageError
from tests.bound.shrunk import D, X, exact_diffusion, model
from tests.expected import untrained

pytestmark = untrained


BITS = 1 / D / math.log(2)
EXACT = {c: exact_diffusion(c) for c in (False, True)}
CASES = {
    "pooled": Adaptive(0.1, design="pooled"),
    "per_example": Adaptive(0.1, design="per_example"),
    "neyman": Adaptive(0.3, design="pooled", controls=False, regression=False),
    "controls": Adaptive(0.1, design="pooled", regression=False),
    "importance allocation": Adaptive(0.1, design="pooled", allocation="importance"),
    "uniform t": OneTime("uniform", 32),
    "low discrepancy": OneTime("low_discrepancy", 32, batch=16),
    "importance": OneTime("importance", 8),
}


def runs(name: str, continuous: bool, seeds: int = 12, first: int = 0):
    return [evaluate(model(continuous), X, estimator=CASES[name], seed=first + s) for s in range(seeds)]


def check_unbiased(name: str, continuous: bool, scale: float = 1.0) -> None:
    exact = scale * EXACT[continuous].mean() * BITS
    found = [b.terms.diffusion for b in runs(name, continuous)]
    error = math.sqrt(sum(t.standard_error**2 for t in found)) / len(found)
    assert abs(np.mean([t.bits_per_dim for t in found]) - exact) <= 4 * error


@pytest.mark.parametrize("continuous", [False, True], ids=["finite", "continuous"])
@pytest.mark.parametrize("name", CASES)
def test_unbiased(name, continuous):
    check_unbiased(name, continuous)


@pytest.mark.parametrize("name", ["pooled", "per_example"])
def test_power(name):
    """The same test sees an error of a tenth of the term: the error bar of the mean is below a fortieth of it."""
    for scale in (0.9, 1.1):
        with pytest.raises(AssertionError):
            check_unbiased(name, False, scale)


@pytest.mark.parametrize("name", CASES)
def test_predicted_error_is_the_observed_one(name):
    found = [b.terms.diffusion for b in runs(name, False, 40, 100)]
    z = np.array([(t.bits_per_dim - EXACT[False].mean() * BITS) / t.standard_error for t in found])
    # sqrt of a chi-square of 40 degrees of freedom over 40 lies in (0.64, 1.41) with probability 0.9996; drawing
    # examples without replacement is credited in part, so that pooled errors may be a little long
    assert (0.45 if "pooled" in str(CASES[name]) else 0.64) < math.sqrt((z**2).mean()) < 1.41


@pytest.mark.parametrize("name", ["pooled", "per_example", "uniform t", "low discrepancy"])
def test_error_halves_when_the_budget_is_quadrupled(name):
    small, large = CASES[name], CASES[name]
    if isinstance(small, Adaptive):
        large = dataclasses.replace(small, tolerance=small.tolerance / 2)
        few, many = (evaluate(model(False), X, estimator=e, seed=3) for e in (small, large))
        gained = few.standard_error.estimator / many.standard_error.estimator
        spent = math.sqrt(
            (many.nfe_total - 264) / (few.nfe_total - 264)
        )  # 24 examples at 9 nodes and twice at the first
        assert many.standard_error.estimator <= large.tolerance
        assert gained > 0.6 * spent  # per-example strata gain more than the square root
    else:
        large = dataclasses.replace(small, passes=4 * small.passes)
        few, many = (evaluate(model(False), X, estimator=e, seed=3).terms.diffusion for e in (small, large))
        assert 1.5 < few.standard_error / many.standard_error < 2.7


@pytest.mark.parametrize("name", ["pooled", "per_example", "low discrepancy"])
def test_batch_size_changes_nothing(name):
    found = [
        evaluate(model(False), X, estimator=CASES[name], batch_size=b, seed=5, precision="float64")
        for b in (7, 64, 4096)
    ]
    for b in found[1:]:
        assert b.bits_per_dim == pytest.approx(found[0].bits_per_dim, rel=1e-11)
        assert b.standard_error.estimator == pytest.approx(found[0].standard_error.estimator, rel=1e-8)


def test_tolerance_is_reached_and_the_pilot_is_counted():
    bound = evaluate(model(False), X, tolerance=0.05)
    assert bound.standard_error.estimator <= 0.05
    assert [w[:23] for w in bound.warnings] == ["the network is worse th"]  # shrinking x̂ is, where there is no noise
    assert bound.nfe_total > bound.estimator["pilot"]["evaluations"] > 0


def test_max_nfe_stops_and_says_so():
    with pytest.warns(UserWarning, match="max_nfe=900"):
        bound = evaluate(model(False), X, tolerance=1e-4, max_nfe=900)
    assert bound.nfe_total <= 900 and bound.standard_error.estimator > 1e-4
    with pytest.raises(UsageError, match="leaves nothing after the pilot"):
        evaluate(model(False), X, tolerance=1e-4, max_nfe=270)


def test_data_error_of_per_example_design_is_the_spread_between_examples():
    bound = evaluate(model(False), X, estimator=Adaptive(0.01, design="per_example"), seed=2)
    expected = EXACT[False].std(ddof=1) * BITS / math.sqrt(len(X))
    assert bound.terms.diffusion.standard_error_data == pytest.approx(expected, rel=0.1)


def test_the_pilot_says_where_the_bound_is():
    one = prepare(model(False), X)
    found = pilot.run(one.chain, one.runner, 24)
    assert found.nfe == one.runner.nfe == 24 * len(pilot._nodes(one.chain.cells))  # its decoder costs nothing
    assert float(found.diffusion.mean.sum()) == pytest.approx(EXACT[False].mean(), rel=0.3)
    p = allocation.density(found.diffusion).p
    assert float(p.sum()) == pytest.approx(1) and bool((p > 0).all())


def test_bad_settings_are_refused():
    for make, match in (
        (lambda: Adaptive(0.0), "tolerance=0.0"),
        (lambda: Adaptive(math.nan), "tolerance=nan"),
        (lambda: Adaptive(0.1, pilot=3), "pilot of 3"),
        (lambda: OneTime("uniform", 1), "1 passes"),
    ):
        with pytest.raises(UsageError, match=match):
            make()
    with pytest.raises(UnknownNameError, match="unknown one-time estimator 'unifrom'"):
        OneTime("unifrom")
    with pytest.raises(UsageError, match="unknown design"):
        evaluate(model(False), X, estimator=Adaptive(0.1, design="polled"))
    with pytest.raises(UsageError, match="does not look at every example"):
        evaluate(model(False), X, estimator=OneTime(), per_example=True)

"""The adaptive estimator by itself: its tolerance, its budget, its pilot. Its laws are in test_laws.py."""

from __future__ import annotations

import math

import pytest
from benchmarks.one_time import OneTime

from nelbo import evaluate
from nelbo.bound.planned import allocation, pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import prepare
from nelbo.errors import UnknownNameError, UsageError
from tests.bound.shrunk import D, X, exact_diffusion, model
from tests.expected import untrained
from tests.tables import refusals

pytestmark = untrained


BITS = 1 / D / math.log(2)
EXACT = exact_diffusion()


@pytest.mark.parametrize("design", ["pooled", "per_example"])
def test_error_halves_when_the_budget_is_quadrupled(design):
    few, many = (evaluate(model(), X, estimator=Adaptive(t, design=design), seed=3) for t in (0.1, 0.05))
    gained = few.standard_error.estimator / many.standard_error.estimator
    first = few.estimator["pilot"]["evaluations"]
    assert many.standard_error.estimator <= 0.05
    # per-example strata gain more than the square root
    assert gained > 0.6 * math.sqrt((many.nfe_total - first) / (few.nfe_total - first))


def test_tolerance_is_reached_and_the_pilot_is_counted():
    bound = evaluate(model(), X, tolerance=0.05)
    assert bound.standard_error.estimator <= 0.05
    assert [w[:23] for w in bound.warnings] == ["the network is worse th"]  # shrinking x̂ is, where there is no noise
    assert bound.nfe_total > bound.estimator["pilot"]["evaluations"] > 0


def test_max_nfe_stops_and_says_so():
    with pytest.warns(UserWarning, match="max_nfe=900"):
        bound = evaluate(model(), X, tolerance=1e-4, max_nfe=900)
    assert bound.nfe_total <= 900 and bound.standard_error.estimator > 1e-4
    with pytest.raises(UsageError, match="leaves nothing after the pilot"):
        evaluate(model(), X, tolerance=1e-4, max_nfe=bound.estimator["pilot"]["evaluations"] + 6)


def test_data_error_of_per_example_design_is_the_spread_between_examples():
    bound = evaluate(model(), X, estimator=Adaptive(0.01, design="per_example"), seed=2)
    expected = EXACT.std(ddof=1) * BITS / math.sqrt(len(X))
    assert bound.terms.diffusion.standard_error_data == pytest.approx(expected, rel=0.1)


def test_the_pilot_says_where_the_bound_is():
    one = prepare(model(), X)
    found = pilot.run(one.chain, one.runner, 24)
    assert found.nfe == one.runner.nfe == 24 * len(pilot._nodes(one.chain.cells))  # its decoder costs nothing
    assert float(found.diffusion.mean.sum()) == pytest.approx(EXACT.mean(), rel=0.3)
    p = allocation.density(found.diffusion).p
    assert float(p.sum()) == pytest.approx(1) and bool((p > 0).all())


test_bad_settings_are_refused = refusals(
    (lambda: Adaptive(0.0), "tolerance=0.0"),
    (lambda: Adaptive(math.nan), "tolerance=nan"),
    (lambda: Adaptive(0.1, pilot=3), "pilot of 3"),
    (lambda: OneTime("uniform", 1), "1 passes"),
    (lambda: OneTime("unifrom"), UnknownNameError, "unknown one-time estimator 'unifrom'"),
    (lambda: evaluate(model(), X, estimator=Adaptive(0.1, design="polled")), "unknown design"),
    (lambda: evaluate(model(), X, estimator=OneTime(), per_example=True), "does not look at every example"),
)

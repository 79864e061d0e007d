"""Codes: the ODE's bound is never below −log P, terms and error bars add up, and unlike results are not compared."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.model.decoder import Categorical
from nelbo.model.exact import CategoricalData
from tests.likelihood import checks

CODES = checks.CODES
FINE = nelbo.schedules.logsnr_linear(6.0, -8.0)


def model(law=FINE):
    return CODES.model(law, nelbo.grids.continuous())


@pytest.mark.parametrize("check", [checks.check_codes, checks.check_residual])
def test_the_exact_model_of_codes(check):
    check()


PATHS = ["vp", pytest.param("ve", marks=pytest.mark.slow), pytest.param("flow", marks=pytest.mark.slow)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", checks.KINDS)
@pytest.mark.parametrize("first", [2.0, 5.0])
def test_the_discrete_bound_over_all_codes(path, kind, first):
    """Σ_x P(x) (value + log P(x)) = KL(P ‖ model) + slack ≥ 0, all 64 codes of the oracle with their weights.

    Exact in the data, so that what is left is the noise of the draws and 2e-3 nats of the solves. With these starts the
    flow's mass may leak out of bins; a missing Jacobian of width 1 would shift by α or w alone.
    """
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    log_P = CODES.log_prob(codes)
    chain = model(nelbo.schedules.logsnr_linear(first, -8.0).on(path))
    options = {"steps": 32, "draws": 2, "per_example": True, "precision": "float64"}
    result = nelbo.ode_likelihood(chain, codes, dequantisation=kind, **options)
    excess = float((log_P.exp() * (result.per_example.nats + log_P)).sum())
    error = float((log_P.exp() * result.per_example.standard_error).square().sum().sqrt())
    assert excess >= -4 * error - 2e-3, (excess, error)
    assert result.estimator["scores"] == "mass" and result.estimator["bound"]


def test_a_fitted_start_is_nearer_than_an_even_one():
    """The same bound with less slack: by more than three standard errors, where a bin holds much of the noise."""
    chain, x = model(nelbo.schedules.logsnr_linear(3.0, -8.0)), CODES.sample(32, seed=2)
    even, fitted = (
        nelbo.ode_likelihood(chain, x, steps=16, draws=4, dequantisation=kind, per_example=True)
        for kind in ("uniform", "flow")
    )
    gain = even.bits_per_dim - fitted.bits_per_dim
    assert gain > 3 * math.hypot(even.standard_error.estimator, fitted.standard_error.estimator)
    assert fitted.estimator["fit"]["steps"] == 200 and fitted.nfe_total > 32 * 4 * 97 + 200 * 32
    again = nelbo.ode_likelihood(chain, x, steps=16, draws=4, dequantisation="flow")
    assert again.bits_per_dim == fitted.bits_per_dim


def test_more_points_under_the_logarithm_come_closer():
    """The importance-weighted bound falls with K and stays above −log P; its bias is positive and shrinks."""
    law = nelbo.schedules.logsnr_linear(3.5, -8.0)
    one = CategoricalData(CODES.probabilities[:1])
    chain, x = one.model(law, nelbo.grids.continuous()), one.sample(200, seed=4)
    exact = -one.log_prob(x)
    gaps = []
    for K in (1, 4, 12):
        result = nelbo.ode_likelihood(
            chain, x, steps=12, dequantisation="uniform", importance=K, draws=4, exact_trace=True, per_example=True
        )
        error = float(result.per_example.standard_error.square().mean().sqrt()) / math.sqrt(len(x))
        gaps.append((float((result.per_example.nats - exact).mean()), error))
        assert (result.terms.importance.bits_per_dim == 0) == (K == 1) and result.terms.importance.bits_per_dim <= 0
        terms = sum(t.bits_per_dim for t in vars(result.terms).values())
        assert result.bits_per_dim == pytest.approx(terms, abs=1e-12)
    assert all(gap > -4 * error for gap, error in gaps)
    (a, ea), (b, eb), (c, ec) = gaps
    assert a - b > 3 * math.hypot(ea, eb) and b - c > math.hypot(eb, ec)


def test_error_bars_of_probes_and_starting_points():
    """20 seeds: the spread of the value is what its standard error says (a chi of 19 degrees within 0.5 … 1.6)."""
    chain, x = model(nelbo.schedules.logsnr_linear(2.0, -8.0)), CODES.sample(6)
    wrong = dataclasses.replace(chain, decoder=Categorical())
    runs = [nelbo.ode_likelihood(wrong, x, steps=4, probes=1, draws=2, seed=s) for s in range(20)]
    values = torch.tensor([r.bits_per_dim for r in runs])
    error = torch.tensor([r.standard_error.estimator for r in runs]).square().mean().sqrt()
    assert 0.5 < float(values.std() / error) < 1.6


def test_the_result_is_a_bound_of_another_quantity():
    result = nelbo.ode_likelihood(model(), CODES.sample(6), per_example=True)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["quantity"] == "ode" and document["estimator"]["bound"]
    assert list(document["terms"]) == ["prior", "flow", "dequantisation", "reconstruction", "importance"]
    assert document["estimator"]["solver_error"]["max"] >= document["estimator"]["solver_error"]["mean"] > 0
    assert document["nfe_total"] == 6 * 2 * (1 + 4 * (64 + 32)) + 5 * 5 * 2  # and the check of the derivative
    assert "ode bound" in str(result)
    real = checks.gaussian(2)
    noisy = nelbo.ode_likelihood(real.model(FINE, nelbo.grids.continuous()), real.sample(3), dequantisation="none")
    assert noisy.estimator["scores"] == "noisy density" and not noisy.estimator["bound"]
    assert noisy.estimator["noise"] == pytest.approx(math.exp(-3))
    assert "ode bound" not in str(noisy)


def test_like_results_are_compared_and_unlike_ones_refused():
    x, chain = CODES.sample(12), model()
    worse = dataclasses.replace(chain, decoder=Categorical(), schedule=nelbo.schedules.logsnr_linear(3.0, -8.0))
    a, b = (nelbo.ode_likelihood(m, x, per_example=True, steps=16) for m in (chain, worse))
    difference = nelbo.compare(a, b)
    assert difference.difference == pytest.approx(a.bits_per_dim - b.bits_per_dim)
    assert difference.standard_error.total <= a.standard_error.total and difference.examples == 12
    json.dumps(difference.to_dict(), allow_nan=False)
    real = checks.gaussian(2)
    density, noisy = (
        nelbo.ode_likelihood(real.model(FINE, nelbo.grids.continuous()), real.sample(3), per_example=True,
                             dequantisation=kind)
        for kind in ("variational", "none")
    )  # fmt: skip
    bound = nelbo.evaluate(chain, x, per_example=True, tolerance=0.3)
    for one, two, match in (
        (a, bound, "unlike quantity"),
        (bound, a, "unlike quantity"),
        (a, nelbo.ode_likelihood(chain, x[:6], per_example=True, steps=8), "unlike examples"),
        (a, chain, "DiffusionModel"),
        (a, nelbo.ode_likelihood(chain, x, steps=8), "per-example"),
        (chain, worse, "no data"),
        (density, noisy, "unlike what is scored"),
    ):
        with pytest.raises(UsageError, match=match):
            nelbo.compare(one, two)

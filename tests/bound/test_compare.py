"""`compare`: exact where the answer is exact, paired error bars that are right, and common noise that pays."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo import compare
from nelbo.errors import UsageError
from nelbo.model.reverse import Beta, Reverse
from tests.bound.shrunk import Shrunk

DATA = nelbo.exact.GaussianData(torch.zeros(4), torch.diag(torch.tensor([0.6, 0.4, 0.2, 0.1])))
X = DATA.sample(60)
SCHEDULE = nelbo.schedules.linear(60, 1e-3, 0.2)
EXACT = DATA.model(SCHEDULE, nelbo.grids.full(), exact_ends=False)


def worse(factor: float = 0.9):
    return dataclasses.replace(EXACT, denoiser=Shrunk(DATA, factor))


def exact_bits(model, factor: float) -> float:
    """Mean bound over X in bits/dim by plain numpy: x̂ = f·g·z, so E‖x − x̂‖² = Σ (1 − f g α)² x² + (f g σ)²."""
    betas = np.linspace(1e-3, 0.2, 60)
    abar = np.cumprod(1 - betas)
    c, x = np.array([0.6, 0.4, 0.2, 0.1]), X.numpy()
    total = 0.0
    for i in range(1, 60):
        a, s2 = np.sqrt(abar[i]), 1 - abar[i]
        g = factor * a * c / (a**2 * c + s2)
        mse = (((1 - g * a) * x) ** 2 + g**2 * s2).sum(1)
        half = (abar[i - 1] / (1 - abar[i - 1]) - abar[i] / (1 - abar[i])) / 2
        total += half * mse.mean()
    # the first level: N(x; z/α, σ²/α²) of a law, its own for both models, cancels in the difference
    return total / 4 / math.log(2)


def test_a_model_against_itself_is_exactly_zero():
    c = compare(EXACT, EXACT, X, tolerance=0.1)
    assert c.difference == 0 and c.standard_error.estimator == 0 and c.common_noise
    assert "no difference" in str(c)


def test_difference_and_its_error_bar_are_right():
    exact = exact_bits(EXACT, 1.0) - exact_bits(worse(), 0.9)
    runs = [compare(EXACT, worse(), X, tolerance=0.02, seed=s) for s in range(40)]
    values = np.array([r.difference for r in runs])
    errors = np.array([r.standard_error.estimator for r in runs])
    assert abs(values.mean() - exact) < 4 * errors.mean() / math.sqrt(40)
    z = (values - exact) / errors
    assert 0.6 < z.std() < 1.5  # a chi of 40 degrees of freedom lies within with probability 0.9999
    # power: with the sign of one model's noise lost the same test would miss by the size of the loss itself
    assert abs(exact) > 4 * errors.mean() / math.sqrt(40)


def test_common_noise_shortens_the_error_bar():
    with pytest.warns(UserWarning, match="the tolerance 1e-09 was not reached"):
        paired = compare(EXACT, worse(0.98), X, tolerance=1e-9, max_nfe=1)
    alone = [nelbo.evaluate(m, X, per_example=True, max_nfe=None, tolerance=0.2) for m in (EXACT, worse(0.98))]
    unpaired = math.hypot(*(b.standard_error.estimator * math.sqrt(b.nfe_per_example) for b in alone))
    assert paired.standard_error.estimator * math.sqrt(paired.nfe_total / 2 / len(X)) < unpaired / 2


def test_other_chains_are_compared_with_independent_noise():
    c = compare(EXACT, DATA.model(nelbo.schedules.linear(30), nelbo.grids.full(), exact_ends=False), X, tolerance=0.2)
    assert not c.common_noise and c.standard_error.estimator <= 0.2


def test_other_variance_shares_the_chain():
    c = compare(EXACT, dataclasses.replace(EXACT, reverse=Reverse(Beta())), X, tolerance=0.05)
    assert c.common_noise
    json.dumps(c.to_dict(), allow_nan=False)
    assert c.to_dict()["difference"] == pytest.approx(c.a - c.b)


def test_unlike_domains_are_refused():
    other = nelbo.exact.GaussianData(torch.zeros(3), torch.eye(3)).model(SCHEDULE, nelbo.grids.full(), exact_ends=False)
    with pytest.raises(UsageError, match="unlike data"):
        compare(EXACT, other, X)

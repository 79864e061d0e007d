"""The closed forms that foretell a bound: the Gaussian surrogate of the data, and features of examples."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.bound import features
from nelbo.bound.planned import pilot
from nelbo.bound.prepare import prepare
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random
from nelbo.process.levels import Levels, Path
from tests.bound.shrunk import D, X

N = 120


def test_leading_directions_hold_the_variance_of_all():
    """Subspace iteration against all eigenvalues, on more dimensions and examples than are done exactly."""
    scale = torch.logspace(0, -3, 400, dtype=torch.float64)
    x = random.normal(0, torch.arange(500), 0, 0, (400,)) * scale
    centred = x - x.mean(0)
    exact = torch.linalg.eigvalsh(centred.mT @ centred / 500)[-64:].sum()
    found = GaussianSurrogate.fit(x, rank=64)
    held = (centred @ found.basis.double()).square().sum() / 500
    assert 0.998 * float(exact) <= float(held) <= (1 + 1e-6) * float(exact)
    assert float(found._lengths.sub(1).abs().max()) < 1e-5  # float32


def test_surrogate_columns_have_mean_zero_and_the_stated_expectation():
    """E[h | x] against the definition, by numpy on the full covariance; and the excess has mean zero over ε."""
    surrogate = GaussianSurrogate.fit(X, rank=5)
    V, w = surrogate.basis.double(), surrogate.variances
    C = V @ torch.diag(w - surrogate.rest) @ V.mT + surrogate.rest * torch.eye(D)
    level = Levels(torch.tensor(0.5), torch.tensor(1.3, dtype=torch.float64), Path.VP)
    a, s = float(level.alpha), float(level.sigma)
    eps = torch.randn(20000, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = X[:1].expand(len(eps), -1)
    z = a * x + s * eps
    predicted = s * (z - a * surrogate.mean.double()) @ torch.linalg.inv(a * a * C + s * s * torch.eye(D))
    h = (eps - predicted).square().sum(1)
    logsnr = torch.full((len(eps),), 1.3, dtype=torch.float64)
    excess = surrogate.excess(x, eps, logsnr)
    expected = surrogate.expected(X[:1], logsnr[:1])
    assert torch.allclose(h - expected[0, 0], excess, atol=2e-4)
    assert abs(float(excess.mean())) <= 4 * float(excess.std()) / math.sqrt(len(eps))


def test_the_excess_of_shared_examples_and_of_another_precision():
    x = random.normal(0, torch.arange(40), 1, 0, (6, 5))
    surrogate = GaussianSurrogate.fit(x.flatten(1), rank=8)
    exact = surrogate.in_precision(torch.float64)
    of = torch.arange(5).repeat_interleave(3)
    eps, logsnr = random.normal(1, torch.arange(15), 2, 0, (6, 5)), torch.linspace(8, -8, 15).double()
    whole = exact.excess(x[of], eps, logsnr)
    assert torch.allclose(exact.excess(x[:5], eps, logsnr, of), whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(surrogate.excess(x[of], eps, logsnr), whole, rtol=0, atol=1e-4)


def test_haar_is_an_orthonormal_basis():
    """Norms and inner products survive, odd sides and three channels included; a flat image has one coefficient."""
    x = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = features.haar(x)
    assert d.shape == (2, 3 * 12 * 20)
    assert torch.allclose(d @ d.mT, x.flatten(1) @ x.flatten(1).mT, rtol=1e-12)
    flat = features.haar(torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64))
    assert int((flat.abs() > 1e-12).sum()) == 1


def test_shrinkage_is_the_least_risk_of_a_diagonal_estimator():
    """min over gains g of E Σ (g (√snr d + ε) − √snr d)²: snr d²/(1 + snr d²) a coefficient, by a search over g."""
    d = torch.tensor([[0.0, 0.1, -2.0]], dtype=torch.float64)
    logsnr = torch.tensor([1.3], dtype=torch.float64)
    g = torch.linspace(0, 1, 100001, dtype=torch.float64)[:, None]
    signal = math.exp(1.3) * d.square()
    risk = ((1 - g).square() * signal + g.square()).amin(0).sum()
    assert float(features.shrinkage(d, logsnr)) == pytest.approx(float(risk), rel=1e-8)


def test_features_of_images_are_finite_standardised_and_say_where_it_is_black():
    codes = torch.randint(0, 256, (N, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    codes[: N // 2, :, :4] = 0
    domain = nelbo.DataDomain((1, 8, 8), bins=256)
    net = torch.nn.Identity()
    model = nelbo.from_callable(
        lambda x, t: net(x), schedule=nelbo.schedules.linear(50), domain=domain, predicts="eps", time="index"
    )
    one = prepare(model, codes.to(torch.uint8))
    found = pilot.run(one.chain, one.runner, 8)
    F = found.features[torch.arange(N)][:, : found.features.own]
    assert F.shape[1] == 2 * features.LEVELS + 4 and found.features.places == features.PLACES
    assert bool(torch.isfinite(F).all()) and float(F.abs().max()) <= 4
    assert torch.allclose(F.mean(0), torch.zeros(F.shape[1]).double(), atol=0.3)
    low = F[:, 2 * features.LEVELS]
    assert float(low[: N // 2].min()) > float(low[N // 2 :].max())
    assert float(found.chance.sum()) == pytest.approx(1) and float(1 / (N * found.chance.min())) <= 2 + 1e-9

"""The closed forms that foretell a bound: the Gaussian surrogate of the data, and features of examples."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.bound import features, gaussian_controls
from nelbo.bound.local_surrogate import LocalSurrogate, bands, haar, risk
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
    d = haar(x)
    assert d.shape == (2, 3 * 12 * 20)
    assert torch.allclose(d @ d.mT, x.flatten(1) @ x.flatten(1).mT, rtol=1e-12)
    flat = haar(torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64))
    assert int((flat.abs() > 1e-12).sum()) == 1


def test_the_bands_tell_the_directions_of_edges():
    """Rows that alternate, columns that alternate, and a chequerboard lie in one finest band each."""
    row, column = torch.tensor([1.0, -1.0]).repeat(4).double()[:, None], torch.ones(1, 8).double()
    finest = [bands(x[None, None])[0][0] for x in ((row * column).mT, row * column, row * row.mT)]
    assert [three.flatten(1).any(1).tolist() for three in finest] == torch.eye(3).bool().tolist()


def check_local_surrogate() -> None:
    """h by its definition, with variances by neighbourhoods counted one by one: excess and expectation."""
    x = random.normal(4, torch.arange(2), 0, 0, (3, 8, 12)) * torch.linspace(0.02, 1, 12)
    surrogate = LocalSurrogate.of(torch.full((288,), 0.25).double(), (3, 8, 12))
    assert surrogate is not None
    eps, logsnr = random.normal(5, torch.arange(6000), 0, 0, (3, 8, 12)), 1.3
    d, e = bands(x[:1] - 0.25), bands(eps)
    h = torch.zeros(len(eps), dtype=torch.float64)
    for band, noise in zip(d, e, strict=True):
        _, C, H, W = band.shape
        for c in range(C):
            energy = band[0, c].square()
            for i in range(H):
                for j in range(W):
                    rows, columns = ([min(max(k, 0), n - 1) for k in (a - 1, a, a + 1)] for a, n in ((i, H), (j, W)))
                    near = energy[rows][:, columns].mean() if min(H, W) >= 3 else energy[i, j]
                    snr = math.exp(logsnr) * float((near * energy.mean()).sqrt())
                    p = snr / (1 + snr)
                    h += (p * noise[:, c, i, j] - (1 - p) * math.exp(logsnr / 2) * band[0, c, i, j]).square()
    at = torch.full((len(eps),), logsnr, dtype=torch.float64)
    excess, expected = surrogate.excess(x[:1].expand(len(eps), -1, -1, -1), eps, at), surrogate.expected(x, at[:1])
    assert torch.allclose(h - expected[0, 0], excess, atol=1e-9)
    assert abs(float(excess.mean())) <= 4 * float(excess.std()) / math.sqrt(len(eps))
    shared = surrogate.excess(x, eps[:4], at[:4], torch.tensor([0, 0, 1, 1]))
    assert torch.equal(shared, surrogate.excess(x[[0, 0, 1, 1]], eps[:4], at[:4]))
    single = surrogate.excess(x[[0, 0]].float(), eps[:2].float(), at[:2])
    assert torch.allclose(single, excess[:2], rtol=0, atol=1e-3)


def test_the_surrogate_of_one_image_is_as_it_says():
    check_local_surrogate()
    gray = LocalSurrogate.of(torch.zeros(64), (8, 8))
    assert gray is not None
    none = torch.zeros(0, 8, 8)  # of a worker without an example
    assert gray.expected(none, torch.zeros(3)).shape == (0, 3) and gray.excess(none, none, torch.zeros(0)).shape == (0,)
    assert LocalSurrogate.of(torch.zeros(12), (12,)) is None
    assert LocalSurrogate.of(torch.zeros(20), (2, 10)) is None


def test_the_risk_of_known_variances_is_the_least_of_a_diagonal_estimator():
    """min over gains g of E Σ (g (√snr d + ε) − √snr d)²: snr d²/(1 + snr d²) a coefficient, by a search over g."""
    square = torch.tensor([[0.0, 0.1, -2.0]], dtype=torch.float64).square()
    logsnr = torch.tensor([1.3], dtype=torch.float64)
    g = torch.linspace(0, 1, 100001, dtype=torch.float64)[:, None]
    signal = math.exp(1.3) * square
    least = ((1 - g).square() * signal + g.square()).amin(0).sum()
    assert float(risk(square, square, logsnr)) == pytest.approx(float(least), rel=1e-8)


@pytest.mark.parametrize("followed", [0.0, 0.3, 1.0])
def test_the_share_of_the_local_surrogate_is_that_which_terms_follow(followed):
    """Terms that are a power of each surrogate's expected error, with a control's noise: the powers' share."""
    errors = random.normal(6, torch.arange(2), 0, 0, (40, 5)).mul(0.1).exp()
    noise = random.normal(7, torch.arange(1), 0, 0, (40, 5))[0]
    terms = 3 * errors[0].pow(1 - followed) * errors[1].pow(followed) + 0.3 * noise
    found = gaussian_controls.share(torch.stack([terms, noise], 2), errors[0], errors[1])
    assert found == pytest.approx(followed, abs=0.05)


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

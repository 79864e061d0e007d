"""`ContextGaussian`: masses of whole examples by enumeration, draws against them, and what its fit must find."""

from __future__ import annotations

import itertools

import pytest
import torch

from nelbo.errors import ShapeError, UsageError
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.domain import DataDomain
from nelbo.model.fitted import neighbours
from nelbo.model.fitted.context import KAPPA, ContextGaussian
from nelbo.model.fitted.neighbours import ENERGIES, allowed, mean_features
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Prediction
from nelbo.tightening.decoders import fit_context


def level(logsnr: float) -> Levels:
    return Levels(torch.full((1,), 0.5).double(), torch.full((1,), logsnr).double(), Path.VP)


def random_decoder(shape, bins, seed=0, classes=3) -> ContextGaussian:
    make = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=make, dtype=torch.float64)

    C = neighbours.planes(shape)[0]
    weights = 0.2 * normal(C, mean_features(C)) * allowed(C)
    cuts = torch.linspace(-1.5, -0.5, classes - 1).double()
    return ContextGaussian(weights, 0.2 * normal(C, ENERGIES), cuts, normal(classes, 1 + len(KAPPA)), normal(bins))


def setting(shape, batch, seed=1):
    make = torch.Generator().manual_seed(seed)
    x0 = torch.randn(batch, *shape, generator=make, dtype=torch.float64) * 0.6
    return x0, x0 + 0.3 * torch.randn(batch, *shape, generator=make, dtype=torch.float64)


@pytest.mark.parametrize(("shape", "bins"), [((2, 2, 2), 2), ((1, 2, 3), 3), ((5,), 3), ((2, 3), 3), ((3, 1, 2), 3)])
def test_the_masses_of_all_examples_sum_to_one(shape, bins):
    domain = DataDomain(shape, bins)
    D = domain.dimensions
    every = torch.tensor(list(itertools.product(range(bins), repeat=D))).reshape(-1, *shape)
    decoder = random_decoder(shape, bins)
    decoder.check(domain)
    x0, z = setting(shape, 1)
    t = level(1.0).expand(len(every))
    log_p = -decoder.nll(every, z.expand(every.shape), t, Prediction(x0.expand(every.shape).contiguous()), domain)
    assert abs(float(log_p.exp().sum()) - 1) < 1e-10
    assert float(log_p.exp().std()) > 0.1 / len(every)


def test_draws_follow_the_masses():
    """4,000 draws of three codes against the 27 masses: χ² of 26 degrees below its 0.9999 quantile, 62."""
    shape, bins, n = (1, 1, 3), 3, 4000
    domain = DataDomain(shape, bins)
    decoder = random_decoder(shape, bins, seed=4)
    every = torch.tensor(list(itertools.product(range(bins), repeat=3))).reshape(-1, *shape)
    x0, z = setting(shape, 1)
    t = level(1.0)
    one = Prediction(x0.expand(every.shape).contiguous())
    p = (-decoder.nll(every, z.expand(every.shape), t.expand(len(every)), one, domain)).exp()
    u = torch.rand(n, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    many = z.expand(n, *shape).contiguous()
    drawn = decoder.draw(u, many, t.expand(n), Prediction(x0.expand(n, *shape).contiguous()), domain)
    seen = (drawn.flatten(1) @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    assert float(((seen - n * p).square() / (n * p)).sum()) < 62


def test_drawing_reads_what_scoring_reads():
    """Pixel by pixel the mean and scale of a drawn code are those that scoring the whole example finds."""
    shape, bins = (2, 4, 3), 16
    domain = DataDomain(shape, bins)
    plain = random_decoder(shape, bins, seed=2)
    # one component without a histogram: a draw at u = 1/2 is then the code nearest to the mean
    mixture = torch.full((1, 1 + len(KAPPA)), -1e4).double()
    mixture[0, 3] = 0
    decoder = ContextGaussian(plain.mean_weights, plain.scale, torch.zeros(0).double(), mixture, plain.log_histogram)
    x0, z = setting(shape, 3)
    t = level(1.0).expand(3)
    drawn = decoder.draw(torch.full_like(z, 0.5), z, t, Prediction(x0), domain)
    m, _ = decoder.moments(drawn, x0, z, t, domain)
    assert torch.equal(drawn, domain.codes(m.reshape(drawn.shape)))


def test_a_mean_that_reads_its_own_code_is_refused():
    good = random_decoder((2, 3, 3), 4)
    weights = good.mean_weights.clone()
    weights[0, len(neighbours.CAUSAL) * 2] = 0.1
    with pytest.raises(ShapeError, match="not said yet"):
        ContextGaussian(weights, good.scale, good.cuts, good.mixture, good.log_histogram)
    with pytest.raises(ShapeError, match="2 channels"):
        good.check(DataDomain((3, 3, 3), 4))
    with pytest.raises(UsageError, match="real numbers"):
        good.check(DataDomain((2, 3, 3)))


def test_a_fit_finds_correlation_that_a_plain_gaussian_cannot():
    """Residuals that are a running sum along rows: each tells the next all but its own innovation.

    r_k = ρ r_{k−1} + s n with s of 3 bins: the entropy of an innovation is log₂(3 √(2πe)) = 3.63 bits, that of r itself
    with variance s²/(1 − ρ²) is 1.66 more for ρ = 0.95. New examples are scored.
    """
    shape, bins, rho, n = (1, 8, 8), 256, 0.95, 60
    domain = DataDomain(shape, bins)
    make = torch.Generator().manual_seed(0)
    width = 2 / 255
    innovation = 3 * width * torch.randn(2 * n, *shape, generator=make, dtype=torch.float64)
    r = innovation.clone()
    r[..., 0] /= (1 - rho**2) ** 0.5
    for k in range(1, 8):
        r[..., k] += rho * r[..., k - 1]
    x0 = 0.2 * torch.randn(2 * n, 1, 1, 1, generator=make, dtype=torch.float64) + torch.zeros_like(r)
    codes = domain.codes(x0 + r)
    at = level(3.0)
    z = at.alpha * domain.values(codes) + at.sigma * torch.randn(r.shape, generator=make, dtype=torch.float64)
    histogram = torch.zeros(bins).double()
    decoder = fit_context(codes[:n], x0[:n], z[:n], at, domain, histogram)
    t, held = at.expand(n), slice(n, None)
    bits = float(decoder.nll(codes[held], z[held], t, Prediction(x0[held]), domain).mean()) / 64 / 0.693147
    variance = float((domain.values(codes[:n]) - x0[:n]).square().mean())
    plain = DiscretizedGaussian(variance).nll(codes[held], z[held], t, Prediction(x0[held]), domain)
    assert float(plain.mean()) / 64 / 0.693147 > 5.1
    assert 3.6 < bits < 4.2

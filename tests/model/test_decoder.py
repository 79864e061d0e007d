"""Decoders: masses that sum to one, bins of the right width with open ends, draws that follow the masses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.errors import ShapeError
from nelbo.maths import random
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian, MassDecoder, NetworkCategorical
from nelbo.model.domain import DataDomain
from nelbo.process import grid
from nelbo.process.prediction import Prediction
from tests.model import checks
from tests.model.cases import GAUSSIAN, LAW, MIXTURE_1, level, mass_decoder_at, mixture_at
from tests.tables import refusals

MASSES = checks.MASS_DECODERS
EXACT_MIXTURE = MIXTURE_1.model(LAW, grid.even(4)).decoder


@pytest.mark.parametrize("bins", [2, 17, 256, 65536])
@pytest.mark.parametrize("name", MASSES)
def test_masses_sum_to_one(name, bins):
    checks.check_pmf_sums(name, bins)


def test_every_mass_decoder_is_among_them():
    def leaves(cls):
        return {leaf for c in cls.__subclasses__() for leaf in leaves(c)} or {cls}

    covered = {type(mass_decoder_at(name, 2, 1.0)[0]) for name in MASSES}
    assert covered == {c for c in leaves(MassDecoder) if c.__module__.startswith("nelbo.")}


@pytest.mark.parametrize("name", MASSES)
def test_the_score_of_a_code_is_its_mass(name):
    decoder, domain, z, t, prediction = mass_decoder_at(name, 17, 0.8)
    log_pmf = decoder.log_pmf(z, t, prediction, domain)
    for k in range(17):
        nll = decoder.nll(torch.full((len(z), 1), k), z, t, prediction, domain)
        checks.close(nll, -log_pmf[:, 0, k], 1e-11, 1e-13)


@pytest.mark.parametrize("name", MASSES)
def test_draws_follow_the_masses(name):
    """Even u give counts within one of n p (exact); keyed u pass a chi-square, power > 0.98 for 5 % off."""
    decoder, domain, z, t, prediction = mass_decoder_at(name, 17, 2.0)
    n = 20_000
    many, alone = mixture_at(n), mixture_at(1)
    one = Prediction(prediction.x0[2:3].expand(n, 1), prediction.log_probs[2:3].expand(n, 1, -1), mixture=many)
    z, t = z[2:3].expand(n, 1), t[:1].expand(n)
    same = Prediction(one.x0[:1], one.log_probs[:1], mixture=alone)
    p = decoder.log_pmf(z[:1], t[:1], same, domain).exp()[0, 0].numpy()
    even = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    counts = np.bincount(decoder.draw(even, z, t, one, domain).flatten().numpy(), minlength=17)
    assert np.abs(counts - n * p).max() <= 1 + 1e-6
    u = random.uniform(0, torch.arange(n), 0, 0, (1,), stream=random.Stream.DECODE)
    observed = np.bincount(decoder.draw(u, z, t, one, domain).flatten().numpy(), minlength=17)
    kept = n * p > 5
    statistic = ((observed - n * p)[kept] ** 2 / (n * p)[kept]).sum()
    df = kept.sum() - 1
    assert (statistic - df) / math.sqrt(2 * df) <= 4
    assert stats.ncx2.sf(df + 4 * math.sqrt(2 * df), df, n * 0.05**2) > 0.98


@pytest.mark.parametrize("name", MASSES)
def test_the_mean_is_that_of_the_masses(name):
    decoder, domain, z, t, prediction = mass_decoder_at(name, 17, 0.5)
    inside = slice(1, 4)  # open tails bend the mean at the ends
    mean = decoder.mean(z, t, prediction, domain)[inside, 0]
    p = decoder.log_pmf(z, t, prediction, domain).exp()[inside, 0]
    expected = p.numpy() @ np.linspace(-1, 1, 17)
    checks.close(mean, expected, 0, 0.02 if name == "discretized_gaussian" else 1e-13)


def test_histogram_prior():
    domain = DataDomain((2,), 3)
    codes = torch.tensor([[0, 0], [0, 2], [1, 2]])
    whole = Categorical.from_histogram(codes, domain)
    checks.close(whole.log_prior.exp(), np.array([3.5, 1.5, 2.5]) / 7.5)
    each = Categorical.from_histogram(codes, domain, per_pixel=True, pseudo_count=1.0)
    checks.close(each.log_prior.exp(), np.array([[3, 2, 1], [2, 1, 3]]) / 6)
    each.check(domain)
    small = Categorical.from_histogram(codes.to(torch.uint8), domain)
    checks.close(small.log_prior, whole.log_prior, 0)
    many = codes.repeat(1000, 1)  # more than are counted at once
    checks.close(Categorical.from_histogram(many, domain, pseudo_count=500.0).log_prior, whole.log_prior)
    z = torch.randn(5, 2, dtype=torch.float64)
    joint = np.array([[3, 2, 1], [2, 1, 3]]) * stats.norm.pdf(
        z.numpy()[..., None], float(level(1.0).alpha) * np.array([-1, 0, 1]), float(level(1.0).sigma)
    )
    checks.close(each.log_pmf(z, level(1.0, 5), None, domain).exp(), joint / joint.sum(-1, keepdims=True), 1e-12)


# ---------------------------------------------------------------- densities


def test_continuous_gaussian():
    z, x, t = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64), level(1.5, 4)
    alpha, sigma = float(t.alpha[0]), float(t.sigma[0])
    expected = -stats.norm.logpdf(x.numpy(), z.numpy() / alpha, sigma / alpha).sum(1)
    checks.close(ContinuousGaussian().nll(x, z, t, None, DataDomain((2,))), expected, 1e-12)
    x0 = torch.randn(4, 2, dtype=torch.float64)
    learned = ContinuousGaussian(0.3)
    expected = -stats.norm.logpdf(x.numpy(), x0.numpy(), math.sqrt(0.3)).sum(1)
    checks.close(learned.nll(x, z, t, Prediction(x0), DataDomain((2,))), expected, 1e-12)
    assert learned.calls_network and not ContinuousGaussian().calls_network
    checks.close(learned.mean(z, t, Prediction(x0), DataDomain((2,))), x0, 0)


@pytest.mark.parametrize("decoder", [ContinuousGaussian(), ContinuousGaussian(0.3)])
def test_a_density_draws_by_its_inverse_distribution(decoder):
    u = (torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000
    z, t = torch.full((1000, 1), 0.4, dtype=torch.float64), level(1.0, 1000)
    prediction = Prediction(torch.full((1000, 1), -0.2, dtype=torch.float64))
    x = decoder.draw(u, z, t, prediction, DataDomain((1,)))
    mean = float(decoder.mean(z, t, prediction, DataDomain((1,)))[0])
    std = math.sqrt(0.3) if decoder.variance else float(t.sigma[0] / t.alpha[0])
    checks.close(x.flatten(), stats.norm.ppf(u.numpy().ravel(), mean, std), 1e-10, 1e-12)


def test_exact_densities_integrate_to_one():
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64)[:, None]
    z, t = torch.full_like(x, 0.3), level(0.5, len(x))
    for decoder in (EXACT_MIXTURE, ContinuousGaussian()):
        density = (-decoder.nll(x, z, t, None, DataDomain((1,)))).exp()
        checks.close(density.sum() * 1e-3, 1.0, 1e-9)
        mean = decoder.mean(z, t, None, DataDomain((1,)))[0]
        checks.close((density * x[:, 0]).sum() * 1e-3, float(mean), 1e-8)


def test_exact_gaussian_draws():
    """Covariance of even quantiles in each eigen-direction is the posterior's; the mean is E[x | z]."""
    t, z = level(0.5, 1), torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64)
    decoder, domain = GAUSSIAN.decoder(), DataDomain((3,))
    centre = decoder.draw(torch.full((1, 3), 0.5, dtype=torch.float64), z, t, None, domain)
    checks.close(centre, decoder.mean(z, t, None, domain), 1e-12)
    steps = [
        decoder.draw(
            torch.tensor([[0.5] * d + [float(stats.norm.cdf(1))] + [0.5] * (2 - d)]).double(), z, t, None, domain
        )
        for d in range(3)
    ]
    A = torch.cat([step - centre for step in steps]).numpy()
    C = GAUSSIAN.covariance.numpy()
    precision = np.linalg.inv(C) + math.exp(0.5) * np.eye(3)
    checks.close(A.T @ A, np.linalg.inv(precision), 1e-5, 1e-7)


# ---------------------------------------------------------------- what is refused

CODES, REAL = DataDomain((3,), 4), DataDomain((3,))
Z = torch.zeros(1, 3, dtype=torch.float64)
test_nonsense_is_refused = refusals(
    (lambda: DiscretizedGaussian(0.0), r"variance 0\.0\nhint: give a finite variance > 0"),
    (lambda: DiscretizedGaussian(math.nan), r"variance=nan is not finite"),
    (lambda: ContinuousGaussian(-1.0), r"variance -1\.0"),
    (lambda: DiscretizedGaussian(0.1).check(REAL), r"real numbers .*\nhint: latents .*continuous_gaussian"),
    (lambda: Categorical().check(REAL), r"'categorical' gives masses of integer codes"),
    (lambda: NetworkCategorical().check(REAL), r"'network_categorical' gives masses"),
    (lambda: ContinuousGaussian().check(CODES), r"gives a density, but the data domain has 4 bins"),
    (lambda: GAUSSIAN.decoder().check(CODES), r"gives a density"),
    (lambda: Categorical(torch.zeros(5)).check(CODES), ShapeError, r"has shape \(5,\)\nhint: give \(4,\) or \(3, 4\)"),
    (lambda: NetworkCategorical().log_pmf(Z, level(0), Prediction(Z), CODES), r"needs a network with a categ"),
    (lambda: DiscretizedGaussian(0.1).log_pmf(Z, level(0), None, CODES), r"not given its prediction"),
    (lambda: ContinuousGaussian(0.1).mean(Z, level(0), None, REAL), r"not given its prediction"),
    (
        lambda: MIXTURE_1.model(LAW, grid.even(4)).decoder.draw(Z, Z, level(0), None, REAL),
        r"scores, it does not sample",
    ),
)

"""`from_callable` against a plain numpy computation of Ho et al.'s terms, and the choices that it refuses.

The reference knows nothing of nelbo: betas, alpha-bars, the network, and scipy's normal distribution.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo import evaluate
from nelbo.bound import terms
from nelbo.bound.estimators import Exhaustive
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta
from nelbo.process.schedule import logsnr_linear
from nelbo.testing import at_noise
from tests.expected import early_end

T, BINS, D = 20, 256, 3
BETAS = np.linspace(1e-3, 0.4, T)
BAR = np.cumprod(1 - BETAS)
DOMAIN = nelbo.DataDomain((D,), bins=BINS)
CODES = np.array([[0, 128, 255], [17, 100, 101], [254, 1, 77], [60, 61, 62]])
X = -1 + 2 * CODES / (BINS - 1)


def eps_network(z, i):
    """Any smooth ε-network in index time (i = DDPM's step − 1), in numpy or torch; it mixes its inputs."""
    sine, step = (np.sin, i) if isinstance(z, np.ndarray) else (torch.sin, i.to(z.dtype))
    total = z.sum(1)[:, None]
    return 0.8 * z + 0.3 * sine(total + 0.1 * step[:, None]) - 0.01 * step[:, None]


def model_of(**changes) -> nelbo.DiffusionModel:
    options = {"schedule": nelbo.schedules.from_betas(BETAS), "domain": DOMAIN, **changes}
    return nelbo.from_callable(options.pop("fn", eps_network), **options)


class Reference:
    """Ho et al. 2020, eq. 5, with σ² = β̃ or β, x̂ clipped or not, on the table from its step `first` + 1 on."""

    def __init__(self, variance: str = "beta_tilde", clip: tuple[float, float] | None = None, first: int = 0):
        self.variance, self.clip, self.first = variance, clip, first

    def x0(self, z, i):
        """x̂ = (z − √(1−ᾱ) ε̂)/√ᾱ, clipped."""
        bar = BAR[i][:, None]
        x0 = (z - np.sqrt(1 - bar) * eps_network(z, i)) / np.sqrt(bar)
        return x0 if self.clip is None else np.clip(x0, *self.clip)

    def prior(self, x):
        """L_T = KL(N(√ᾱ_T x, 1 − ᾱ_T) ‖ N(0, 1)), (B,)."""
        return 0.5 * ((1 - BAR[-1]) + BAR[-1] * x**2 - 1 - np.log(1 - BAR[-1])).sum(1)

    def step(self, x, eps, i):
        """L_{t−1} at t = i + 1 ≥ 2: KL of the posterior of q, with μ̃ and β̃, and N(μ_θ, σ²), (B,)."""
        bar, before, beta = BAR[i][:, None], BAR[i - 1][:, None], BETAS[i][:, None]
        z = np.sqrt(bar) * x + np.sqrt(1 - bar) * eps
        beta_tilde = beta * (1 - before) / (1 - bar)
        if self.clip is None:
            mean = (z - beta / np.sqrt(1 - bar) * eps_network(z, i)) / np.sqrt(1 - beta)
        else:
            mean = np.sqrt(before) * beta / (1 - bar) * self.x0(z, i)
            mean = mean + np.sqrt(1 - beta) * (1 - before) / (1 - bar) * z
        mu = np.sqrt(before) * beta / (1 - bar) * x + np.sqrt(1 - beta) * (1 - before) / (1 - bar) * z
        v = beta_tilde if self.variance == "beta_tilde" else beta
        kl = 0.5 * (np.log(v / beta_tilde) + beta_tilde / v - 1 + (mu - mean) ** 2 / v)
        return kl.sum(1)

    def last(self, x, codes, eps):
        """L_0 = −log of the mass of N(x̂, v) in the bin x ∓ 1/255, open at the ends, (B,)."""
        i = np.full(len(x), self.first)
        z = np.sqrt(BAR[i])[:, None] * x + np.sqrt(1 - BAR[i])[:, None] * eps
        one, two = BAR[self.first], BAR[self.first + 1]
        v = (1 - two / one) * (1 - one) / (1 - two) if self.variance == "beta_tilde" else 1 - one
        low = np.where(codes == 0, -np.inf, x - 1 / 255)
        high = np.where(codes == BINS - 1, np.inf, x + 1 / 255)
        a, b = (low - self.x0(z, i)) / math.sqrt(v), (high - self.x0(z, i)) / math.sqrt(v)
        a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)  # on the lower side, where the tail is a number
        large, small = stats.norm.logcdf(b), stats.norm.logcdf(a)
        return -(large + np.log1p(-np.exp(small - large))).sum(1)


CHOICES = {
    "beta_tilde": ({}, Reference()),
    "beta": ({"variance": "beta"}, Reference("beta")),
    "clipped": ({"clip": True}, Reference(clip=(-1, 1))),
    "clipped to a range": ({"clip": (-0.5, 0.7), "variance": "beta"}, Reference("beta", (-0.5, 0.7))),
    "from step 3 on": ({"first_level": 2}, Reference(first=2)),
    "from step 3 on, beta": ({"first_level": 2, "variance": "beta"}, Reference("beta", first=2)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_term_on_shared_noise(name):
    """L_T, each L_{t−1} and L_0 at the same ε: 1e-9 relative, per example, at every level of the chain."""
    options, reference = CHOICES[name]
    model = model_of(**options)
    levels = model.levels()
    assert len(levels) == T - reference.first == model.steps
    x, codes = torch.from_numpy(X), torch.from_numpy(CODES)
    eps = np.random.default_rng(3).normal(size=(T, *X.shape))
    np.testing.assert_allclose(terms.prior(model, x, levels[-1:]).numpy(), reference.prior(X), rtol=1e-9)
    for j in range(1, len(levels)):
        i = reference.first + j
        s, t = (levels[k : k + 1].expand(len(x)) for k in (j - 1, j))
        ours = at_noise.diffusion(model, x, torch.from_numpy(eps[i]), s, t).numpy()
        np.testing.assert_allclose(ours, reference.step(X, eps[i], np.full(len(X), i)), rtol=1e-9)
    ours = at_noise.reconstruction(model, x, codes, torch.from_numpy(eps[0]), levels[:1].expand(len(x))).numpy()
    np.testing.assert_allclose(ours, reference.last(X, CODES, eps[0]), rtol=1e-9)


@early_end
def test_the_time_of_the_network():
    """index: int64 0..T−1; unit: (i + 1)/T; logsnr: λ. That these are the same levels is in test_conventions.py."""
    logsnr = torch.from_numpy(np.log(BAR / (1 - BAR)))
    times = {}
    for time in ("index", "unit", "logsnr"):
        seen = []

        def network(z, t, seen=seen):
            seen.append(t)
            return 0 * z

        evaluate(model_of(fn=network, time=time), torch.from_numpy(CODES), estimator=Exhaustive(1))
        times[time] = torch.cat(seen)
    index = times["index"]
    assert index.dtype == torch.int64 and set(index.tolist()) == set(range(T))
    torch.testing.assert_close(times["unit"].double(), (index + 1) / T, check_dtype=False)
    torch.testing.assert_close(times["logsnr"].double(), logsnr[index], rtol=1e-6, atol=1e-6)


def test_a_law_is_continuous():
    domain = nelbo.DataDomain((D,))
    model = nelbo.from_callable(lambda z, t: z * 0, schedule=logsnr_linear(8.0, -8.0), domain=domain, time="logsnr")
    assert model.grid.continuous and model.steps is None and isinstance(model.decoder, ContinuousGaussian)
    model = nelbo.from_callable(lambda z, t: z * 0, schedule=logsnr_linear(8.0, -8.0), domain=DOMAIN, time="unit")
    assert isinstance(model.decoder, Categorical)


def test_what_is_chosen_and_recorded():
    model = model_of()
    first = BETAS[1] * (1 - BAR[0]) / (1 - BAR[1])
    assert isinstance(model.decoder, DiscretizedGaussian) and model.decoder.variance == pytest.approx(first, rel=1e-10)
    assert model.reverse.clip is None and isinstance(model.prior, GaussianPrior) and model.steps == T
    told = model_of(clip=True, variance="beta", decoder="categorical").describe()
    assert told["clipping"] == {"kind": "range", "low": -1.0, "high": 1.0}
    assert told["variance"]["kind"] == "beta" and told["decoder"]["kind"] == "categorical"
    prior = GaussianPrior(0.0, 2.0)
    assert model_of(prior=prior, variance=Beta(), decoder=DiscretizedGaussian(0.1)).prior is prior
    real = nelbo.DataDomain((D,))
    assert model_of(domain=real, variance="beta").decoder.variance == pytest.approx(BETAS[0], rel=1e-10)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"fn": 3}, UsageError, "int"),
        ({"predicts": "epsilon"}, UnknownNameError, "eps, score, v, velocity, x0"),
        ({"time": "steps"}, UnknownNameError, "c_noise, index, logsnr, sigma, unit"),
        ({"variance": "betas"}, UnknownNameError, "beta, beta_tilde"),
        ({"decoder": "gaussian"}, UnknownNameError, "categorical, continuous_gaussian, discretized_gaussian"),
        ({"decoder": "continuous_gaussian"}, UsageError, "256 bins"),
        ({"decoder": "discretized_gaussian", "domain": nelbo.DataDomain((D,))}, UsageError, "real numbers"),
        ({"schedule": logsnr_linear(5.0, -5.0), "decoder": "discretized_gaussian"}, UsageError, "categorical"),
        ({"schedule": logsnr_linear(5.0, -5.0), "first_level": 2}, UsageError, "first_level=2"),
        ({"first_level": T}, UsageError, "explicitly"),
        ({"first_level": T - 1}, UsageError, "explicitly"),
        ({"clip": (1.0, -1.0)}, UsageError, "clipping"),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        model_of(**options)


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda z, t: z[:, :2], ShapeError, r"\(4, 2\) for an input of shape \(4, 3\)"),
        (lambda z, t: z.numpy(), ShapeError, "ndarray"),
        (lambda z, t: None, ShapeError, "NoneType"),
        (lambda z, t: z * math.nan, nelbo.NelboError, "not finite"),
    ],
)
def test_networks_that_return_something_else(fn, error, match):
    with pytest.raises(error, match=match):
        evaluate(model_of(fn=fn), torch.from_numpy(CODES), batch_size=4, estimator=Exhaustive(2))


def test_index_time_on_a_law_is_refused_when_asked():
    model = nelbo.from_callable(eps_network, schedule=logsnr_linear(8.0, -8.0), domain=DOMAIN)
    with pytest.raises(UsageError, match="table position"):
        evaluate(model, torch.from_numpy(CODES))

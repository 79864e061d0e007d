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
from nelbo.bound import terms
from nelbo.bound.estimators import Exhaustive
from nelbo.bound.evaluate import evaluate
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta
from nelbo.process.schedule import logsnr_linear

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
        ours = terms.diffusion(model, x, torch.from_numpy(eps[i]), s, t).numpy()
        np.testing.assert_allclose(ours, reference.step(X, eps[i], np.full(len(X), i)), rtol=1e-9)
    ours = terms.reconstruction(model, x, codes, torch.from_numpy(eps[0]), levels[:1].expand(len(x))).numpy()
    np.testing.assert_allclose(ours, reference.last(X, CODES, eps[0]), rtol=1e-9)


@pytest.mark.parametrize("name", ["beta_tilde", "beta"])
def test_the_whole_bound(name):
    """`evaluate` and the reference with noise of its own agree within 4 standard errors; another σ² does not."""
    options, reference = CHOICES[name]
    bound = evaluate(
        model_of(**options), torch.from_numpy(CODES), estimator=Exhaustive(1500), precision="float64", batch_size=6000
    )

    def by_hand(which: Reference) -> tuple[float, float]:
        rng, draws = np.random.default_rng(8), 1500
        x, codes = (np.repeat(a, draws, 0) for a in (X, CODES))
        parts = [which.last(x, codes, rng.normal(size=x.shape))]
        parts += [which.step(x, rng.normal(size=x.shape), np.full(len(x), i)) for i in range(1, T)]
        rows = [p.reshape(len(X), draws) for p in parts]
        mean = sum(r.mean() for r in rows) + which.prior(X).mean()
        variance = sum((r.var(1, ddof=1) / draws).mean() / len(X) for r in rows)
        unit = D * math.log(2)
        return mean / unit, math.sqrt(variance) / unit

    mean, error = by_hand(reference)
    assert abs(bound.bits_per_dim - mean) < 4 * math.hypot(error, bound.standard_error.estimator)
    other, error = by_hand(Reference("beta" if name == "beta_tilde" else "beta_tilde"))
    assert abs(bound.bits_per_dim - other) > 8 * math.hypot(error, bound.standard_error.estimator)


def test_the_same_function_said_in_three_ways():
    """eps, x0 and v forms of one network give one bound, per example, to 1e-9 in float64."""

    def split(z, i):
        bar = torch.from_numpy(BAR)[i][:, None]
        alpha, sigma, eps = bar.sqrt(), (1 - bar).sqrt(), eps_network(z, i)
        return alpha, sigma, eps, (z - sigma * eps) / alpha

    def x0(z, i):
        return split(z, i)[3]

    def v(z, i):
        alpha, sigma, eps, x = split(z, i)
        return alpha * eps - sigma * x

    nats = {}
    for predicts, fn in {"eps": eps_network, "x0": x0, "v": v}.items():
        bound = evaluate(
            model_of(fn=fn, predicts=predicts),
            torch.from_numpy(CODES),
            estimator=Exhaustive(2),
            precision="float64",
            per_example=True,
        )
        nats[predicts] = bound.per_example.nats
    torch.testing.assert_close(nats["x0"], nats["eps"], rtol=1e-9, atol=0)
    torch.testing.assert_close(nats["v"], nats["eps"], rtol=1e-9, atol=0)


def test_what_the_network_is_told():
    """index: int64 0..T−1; unit: t = (i + 1)/T; logsnr: λ. The same level, said in three ways, is the same model."""
    logsnr = torch.from_numpy(np.log(BAR / (1 - BAR)))
    told: dict[str, list[torch.Tensor]] = {"index": [], "unit": [], "logsnr": []}

    def network(time: str):
        def fn(z, t):
            told[time].append(t)
            if time == "index":
                index = t
            elif time == "unit":
                index = (t * T).round().long() - 1
            else:
                index = (logsnr[None] - t[:, None]).abs().argmin(1)
            return eps_network(z, index)

        return fn

    bounds = [
        evaluate(
            model_of(fn=network(time), time=time),
            torch.from_numpy(CODES),
            estimator=Exhaustive(2),
            precision="float64",
            per_example=True,
        )
        for time in told
    ]
    for other in bounds[1:]:
        assert torch.equal(other.per_example.nats, bounds[0].per_example.nats)
    index, unit, lam = (torch.cat(v) for v in told.values())
    assert index.dtype == torch.int64 and index.shape == unit.shape == lam.shape
    assert set(index.tolist()) == set(range(T))
    torch.testing.assert_close(unit, (index + 1) / T, check_dtype=False)
    torch.testing.assert_close(lam, logsnr[index])


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


def test_a_condition_reaches_the_network():
    """One row an example, in batches of any size; the bound of each half is that of the network with its condition."""

    def fn(z, t, shift):
        return eps_network(z, t) + shift[:, None]

    shift = torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=torch.float64)
    common = {"estimator": Exhaustive(2), "precision": "float64", "per_example": True}
    both = evaluate(model_of(fn=fn), torch.from_numpy(CODES), condition={"shift": shift}, batch_size=3, **common)
    for value in (0.0, 0.5):
        alone = evaluate(model_of(fn=lambda z, t, v=value: eps_network(z, t) + v), torch.from_numpy(CODES), **common)
        rows = shift == value
        torch.testing.assert_close(both.per_example.nats[rows], alone.per_example.nats[rows])


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

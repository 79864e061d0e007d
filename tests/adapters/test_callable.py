"""`from_callable` against a plain numpy computation of Ho et al.'s terms, and the choices that it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo import evaluate
from nelbo.bound.estimators import Exhaustive
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta
from nelbo.process.schedule import logsnr_linear
from tests.adapters import plain
from tests.expected import early_end

T, BINS, D = 20, 256, 3
BETAS = np.linspace(1e-3, 0.4, T)
BAR = np.cumprod(1 - BETAS)
DOMAIN = nelbo.DataDomain((D,), bins=BINS)
CODES = np.array([[0, 128, 255], [17, 100, 101], [254, 1, 77], [60, 61, 62]])


def eps_network(z, i):
    """Any smooth ε-network in index time (i = DDPM's step − 1), in numpy or torch; it mixes its inputs."""
    sine, step = (np.sin, i) if isinstance(z, np.ndarray) else (torch.sin, i.to(z.dtype))
    total = z.sum(1)[:, None]
    return 0.8 * z + 0.3 * sine(total + 0.1 * step[:, None]) - 0.01 * step[:, None]


def model_of(**changes) -> nelbo.DiffusionModel:
    options = {"schedule": nelbo.schedules.from_betas(BETAS), "domain": DOMAIN, **changes}
    return nelbo.from_callable(options.pop("fn", eps_network), **options)


CHOICES = {
    "beta_tilde": ({}, {}),
    "beta": ({"variance": "beta"}, {"variance": "fixed_large"}),
    "clipped": ({"clip": True}, {"clip": (-1, 1)}),
    "clipped to a range": ({"clip": (-0.5, 0.7), "variance": "beta"}, {"variance": "fixed_large", "clip": (-0.5, 0.7)}),
    "from step 3 on": ({"first_level": 2}, {"first": 2}),
    "from step 3 on, beta": ({"first_level": 2, "variance": "beta"}, {"first": 2, "variance": "fixed_large"}),
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_term_on_shared_noise(name):
    """L_T, each L_{t−1} and L_0 at the same ε: 1e-9 relative, per example, at every level of the chain."""
    options, choices = CHOICES[name]
    model, first = model_of(**options), choices.get("first", 0)
    assert len(model.levels()) == T - first == model.steps
    eps = np.random.default_rng(3).normal(size=(T, *CODES.shape))

    def net(z, i):
        return eps_network(z, np.full(len(z), i))

    expected = plain.terms(net, plain.Chain(BETAS), CODES, eps, BINS, **choices)
    for ours, theirs in zip(plain.terms_of_model(model, torch.from_numpy(CODES), eps, first), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


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
        ({"schedule": torch.linspace(1e-4, 2e-2, T)}, UsageError, r"schedule of .* is a Tensor\n.*from_betas\(betas\)"),
        ({"schedule": "linear"}, UsageError, r"schedule of .* is a str\n.*schedules\.linear\(T=1000\)"),
        ({"domain": (D,)}, UsageError, r"domain of .* is a tuple\n.*nelbo\.DataDomain\("),
    ],
)
def test_refusals(options, error, match):
    with pytest.raises(error, match=match):
        model_of(**options)


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda z, t: z[:, :2], ShapeError, r"\(2, 2\) for an input of shape \(2, 3\)"),
        (lambda z, t: z.numpy(), ShapeError, "ndarray"),
        (lambda z, t: None, ShapeError, "NoneType"),
        (lambda z, t: z + 0j, UsageError, "returned complex64 numbers"),
        (lambda z, t: z.round().long(), UsageError, "returned int64 numbers"),
        (lambda z, t: z > 0, UsageError, "returned bool numbers"),
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

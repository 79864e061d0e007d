"""`nelbo.evaluate` of latent models: codes against quadrature, estimators, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.estimators import Stratified
from nelbo.bound.latent import evaluate as latent
from nelbo.documents import tables
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.maths import bins
from nelbo.workers import Run
from tests.bound.latent import linear

K = 5
"""Codes of the one-dimensional case: x_k = −1 … 1, z ~ N(0, V), x̂ = tanh z, errors of scale SCALE."""
V, SCALE = 0.6, 0.3
MEANS, STDS = (torch.tensor(v, dtype=torch.float64) for v in ([-1.1, -0.5, 0.05, 0.6, 0.9], [0.4, 0.3, 0.25, 0.3, 0.5]))


def codes(kind=nelbo.latent.ScaledGaussian) -> nelbo.LatentModel:
    def moments(x):
        k = ((x + 1) * (K - 1) / 2).round().long()
        return torch.cat([MEANS[k], 2 * STDS[k].log()], 1)

    data = nelbo.exact.GaussianData(torch.zeros(1), torch.full((1, 1), V))
    prior = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    domain = nelbo.DataDomain((1,), bins=K)
    return nelbo.LatentModel(nelbo.latent.GaussianEncoder(moments), torch.tanh, prior, kind(SCALE), domain)


def by_quadrature() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """−log p(k), E_q[−log p(k | z)] and KL(q ‖ p) of every code, on a grid of z; the exact prior's chain loses
    nothing."""
    z = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    step = float(z[1] - z[0])
    log_prior = torch.distributions.Normal(0, math.sqrt(V)).log_prob(z)
    nll, pixels, divergence = [], [], []
    for k in range(K):
        log_p = bins.bin_log_mass(torch.full(z.shape, k), z.tanh(), torch.full_like(z, SCALE), K, -1.0, 1.0)
        log_q = torch.distributions.Normal(MEANS[k], STDS[k]).log_prob(z)
        nll.append(-float((log_p + log_prior).exp().sum() * step))
        nll[-1] = -math.log(-nll[-1])
        pixels.append(-float((log_q.exp() * log_p).sum() * step))
        divergence.append(float((log_q.exp() * (log_q - log_prior)).sum() * step))
    return np.array(nll), np.array(pixels), np.array(divergence)


@pytest.mark.parametrize("estimator", [Stratified(8, 8), "auto"], ids=["stratified", "auto"])
def test_codes_of_one_pixel(estimator):
    """Every code's pixels and sum against quadrature; the bound is above the model's own −log p."""
    x = torch.arange(K).repeat(40)[:, None]
    options = {"tolerance": 0.03, "estimator": estimator, "per_example": True}
    bound = nelbo.evaluate(codes(), x, precision="float64", progress=False, **options)
    nll, pixels, divergence = by_quadrature()
    rows = bound.per_example
    for values, expected in ((rows.pixels, pixels), (rows.nats, pixels + divergence)):
        means = values.reshape(40, K)
        error = means.std(0) / math.sqrt(40)
        assert float(((means.mean(0) - torch.from_numpy(expected)).abs() / error).max()) < 4
    exact = float((pixels + divergence).mean()) / math.log(2)
    assert abs(bound.bits_per_dim - exact) < 4 * bound.standard_error.estimator
    assert (pixels + divergence > nll).all()
    document = json.loads(json.dumps(bound.to_dict()))
    assert document["terms"]["encoder"]["standard_error"] == 0 and document["latent"]["shape"] == [1]
    assert str(nelbo.Bound.from_dict(document)) == str(bound)
    assert "pixels" in str(bound) and "encoder" in str(bound)
    shown = tables.terms(document)  # of reports and notebooks: rows that add up to the last
    assert [row["name"] for row in shown] == ["pixels", "encoder", "prior", "diffusion", "reconstruction", "bound"]
    values = [float(row["bits"].replace("−", "-")) for row in shown]
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-4)


@pytest.mark.filterwarnings("ignore:max_nfe=3000", "ignore:the chain does not end at its prior")
def test_the_first_level_is_told_apart_without_every_example():
    """Where the prior's decoder asks its network, draws of its own split the two; errors are honest of both."""
    x = linear.M + torch.randn(600, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    over = linear.prior(network=0.02)
    run = Run(precision="float64")
    bound = latent.evaluate(linear.model(over=over), x, run, tolerance=0.05, max_nfe=3000)
    assert bound.estimator["picked"] == "pooled" and bound.nfe_total <= 3000
    Q, _, c = linear.chain(over)
    mean = linear.posterior_mean(x).numpy()
    total = float((linear.nll(x) + linear.gap(over, x, linear.POSTERIOR)).mean())
    assert abs(bound.bits_per_dim * 4 * math.log(2) - total) < 4 * bound.standard_error.estimator * 4 * math.log(2)
    residual = x - linear.M - torch.from_numpy(mean) @ linear.W.T
    spread = (linear.W.square() @ linear.POSTERIOR).sum()
    pixels = float((residual.square().sum(1) + spread).mean()) / (2 * linear.SIGMA**2)
    pixels += 2 * math.log(2 * math.pi * linear.SIGMA**2)
    term = bound.terms.pixels
    assert abs(term.bits_per_dim * 4 * math.log(2) - pixels) < 4 * term.standard_error * 4 * math.log(2)
    assert sum(t.bits_per_dim for t in vars(bound.terms).values()) == pytest.approx(bound.bits_per_dim, abs=1e-9)
    assert Q.shape == (2, 2) and c != 0


@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
def test_a_likelihood_is_a_law_and_its_scale_is_fitted(kind):
    """Masses of all codes sum to one, far from the middle too; the fitted scale is that of the errors."""
    domain = nelbo.DataDomain((2, 1, 1), bins=9)
    made = {"gaussian": nelbo.latent.ScaledGaussian, "logistic": nelbo.latent.ScaledLogistic}[kind]
    every = torch.arange(9)[:, None, None, None].expand(9, 2, 1, 1)
    for scale in (torch.tensor([0.02, 0.5]).reshape(2, 1, 1), torch.tensor(3.0)):
        for middle in (-0.37, 0.0, 1.4):
            costs = made(scale).costs(every, torch.full((9, 2, 1, 1), middle).double(), domain)
            assert torch.allclose(costs.neg().logsumexp(0), torch.zeros(2, 1, 1).double(), atol=1e-9)
    real = nelbo.DataDomain((2, 1, 1))
    x0 = torch.zeros(4000, 2, 1, 1, dtype=torch.float64)
    u = (torch.arange(4000, dtype=torch.float64)[:, None, None, None] + 0.5) / 4000
    true = torch.tensor([0.3, 2.0], dtype=torch.float64).reshape(2, 1, 1)
    x = made(true).draw(u, x0, None, nelbo.process.prediction.Prediction(x0), real)
    found = nelbo.model.latent.likelihood.best_scale(made, x, x0, real, per_channel=True)
    assert torch.allclose(found.scale, true, rtol=3e-3)
    together = nelbo.model.latent.likelihood.best_scale(made, x, x0, real)
    assert together.scale.shape == () and 0.3 < float(together.scale) < 2.0


def test_the_scale_is_fitted_to_images_with_the_noise_of_z():
    """E(x − x̂)² over draws of z is the best variance of a Gaussian."""
    x = linear.M + torch.randn(500, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    fitted = nelbo.latent.fit_likelihood(linear.model(), x)
    residual = x - linear.M - linear.posterior_mean(x) @ linear.W.T
    spread = (linear.W.square() @ linear.POSTERIOR).mean()
    assert float(fitted.likelihood.scale) == pytest.approx(float((residual.square().mean() + spread).sqrt()), rel=0.02)
    assert fitted.fingerprint() != linear.model().fingerprint()


def test_what_does_not_fit_is_refused():
    model = linear.model()
    for changes, error, match in (
        ({"encoder": torch.nn.Linear(4, 4)}, UsageError, "say what it returns|encoder=Linear"),
        ({"prior": model.encoder}, UsageError, "prior=GaussianEncoder"),
        ({"likelihood": nelbo.decoders.Categorical()}, UsageError, "does not look at the decoder"),
        ({"likelihood": nelbo.decoders.DiscretizedGaussian(0.1)}, UsageError, "masses of integer codes"),
        ({"likelihood": nelbo.latent.ScaledGaussian(torch.ones(3))}, ShapeError, "scale of shape"),
        ({"units": nelbo.latent.LatentUnits(torch.ones(3))}, ShapeError, "for latents of shape"),
        ({"prior": nelbo.exact.CategoricalData(torch.ones(2, 3) / 3).model(linear.LAW, nelbo.grids.even(3))},
         UsageError, "without bins"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            replace(model, **changes)
    with pytest.raises(UsageError, match="scale > 0"):
        nelbo.latent.LatentUnits(0.0)

    def of(encoder):
        return replace(model, encoder=encoder)

    wide = replace(model, decoder=nelbo.latent.ImageDecoder(lambda z: z))
    for broken, data, error, match in (
        (model, linear.X[:, :3], ShapeError, "scores examples of shape"),
        (model, linear.X * math.nan, DomainError, "NaN"),
        (wide, linear.X, ShapeError, "decoder makes images of shape"),
        (of(nelbo.latent.DeterministicEncoder(lambda x: x, tau=1.0)), linear.X, ShapeError, "prior is over"),
        (of(nelbo.latent.GaussianEncoder(lambda x: x[:, :3])), linear.X, ShapeError, "mean and a log"),
        (of(nelbo.latent.GaussianEncoder(lambda x: x @ x)), linear.X, UsageError, "encoder raised"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            nelbo.evaluate(broken, data, progress=False)
    with pytest.raises(UsageError, match="latent model where one of images"):
        nelbo.ode_likelihood(model, linear.X)
    with pytest.raises(UsageError, match="trajectory of a latent model"):
        nelbo.sample(model, 2, trajectory=True)
    with pytest.raises(UsageError, match="clip chosen for a latent model"):
        nelbo.load(model, overrides=nelbo.Overrides(clip=True))


def test_samples_are_of_the_model():
    """x̂ = W z + m of draws of the chain over z; codes with the errors of the likelihood."""
    n = 1500
    x = nelbo.sample(linear.model(over=linear.prior(nelbo.grids.even(40))), n, progress=False)
    expected = linear.W @ torch.diag(linear.PRIOR) @ linear.W.T
    assert x.shape == (n, 4) and x.dtype == torch.float64
    assert float((x.mean(0) - linear.M).abs().max()) < 4 * math.sqrt(float(expected.diagonal().max()) / n)
    assert torch.allclose(torch.cov(x.T), expected, atol=0.15)
    drawn = nelbo.sample(codes(), 200, steps=8, progress=False, seed=1)
    middle = nelbo.sample(codes(), 200, steps=8, progress=False, seed=1, codes=False)
    assert drawn.dtype == torch.int64 and int(drawn.min()) == 0 and int(drawn.max()) == K - 1
    u = nelbo.maths.keys.Purpose.SAMPLE_CODE.uniform(1, torch.arange(200), shape=(1,))
    value = middle + SCALE * torch.special.ndtri(u)
    assert torch.equal(drawn, ((value + 1) * (K - 1) / 2).round().clamp(0, K - 1).long())


@pytest.mark.filterwarnings("ignore:the chain does not end at its prior", "ignore:max_nfe=")
def test_a_budget_counts_encoding_and_trials():
    """All draws of a short chain where they fit, else a plan within the budget; too few are refused by name."""
    x = linear.X.repeat(4, 1)
    steps = linear.prior().steps
    whole = 12 * (1 + 2 * (steps + 1)) + 15
    for budget, name in ((whole, "exhaustive"), (whole - 1, "adaptive")):
        bound = nelbo.evaluate(linear.model(), x, max_nfe=budget, progress=False)
        assert bound.estimator["name"] == name and bound.nfe_total <= budget
    with pytest.raises(UsageError, match=r"max_nfe=20 of a latent model.*12 examples"):
        nelbo.evaluate(linear.model(), x, max_nfe=20, progress=False)

"""A DDPM's variational bound as improved-diffusion adds it up, in plain numpy, and ours on the same noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from nelbo import evaluate
from nelbo.bound import terms
from nelbo.bound.estimators import Exhaustive
from nelbo.maths import random
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import BetaTilde, Reverse
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.testing import at_noise
from tests.model.cases import Tiny
from tests.process.checks import close


class Ddpm:
    """The plain numpy arrays of a DDPM's variational bound: β, ᾱ, β̃ and the posterior-mean coefficients, t = 0..T−1."""

    def __init__(self, betas: np.ndarray):
        self.bar = np.cumprod(1 - betas)
        before = np.append(1.0, self.bar[:-1])
        self.betas = betas
        self.posterior_variance = betas * (1 - before) / (1 - self.bar)
        self.log_variance = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        self.coef_x = betas * np.sqrt(before) / (1 - self.bar)
        self.coef_z = (1 - before) * np.sqrt(1 - betas) / (1 - self.bar)

    def x_t(self, x: np.ndarray, t: int, eps: np.ndarray) -> np.ndarray:
        return np.sqrt(self.bar[t]) * x + np.sqrt(1 - self.bar[t]) * eps

    def term(self, net, x: np.ndarray, codes: np.ndarray, t: int, eps: np.ndarray, bins: int) -> np.ndarray:
        """L_{t} of one step in nats an example: a KL for t ≥ 1, −log p(x | x_1) at t = 0."""
        z = self.x_t(x, t, eps)
        eps_hat = net(z, t)
        x_hat = np.sqrt(1 / self.bar[t]) * z - np.sqrt(1 / self.bar[t] - 1) * eps_hat
        mean, log_variance = self.coef_x[t] * x_hat + self.coef_z[t] * z, self.log_variance[t]
        if t == 0:
            upper = np.where(codes == bins - 1, np.inf, x + 1 / (bins - 1))
            lower = np.where(codes == 0, -np.inf, x - 1 / (bins - 1))
            std = np.exp(0.5 * log_variance)
            mass = stats.norm.cdf((upper - mean) / std) - stats.norm.cdf((lower - mean) / std)
            flipped = stats.norm.sf((lower - mean) / std) - stats.norm.sf((upper - mean) / std)
            return -np.log(np.where(lower > mean, flipped, mass)).sum(-1)
        true_mean = self.coef_x[t] * x + self.coef_z[t] * z
        true_log_variance = np.log(self.posterior_variance[t])
        difference = true_log_variance - log_variance
        kl = 0.5 * (-1.0 - difference + np.exp(difference) + (true_mean - mean) ** 2 * np.exp(-log_variance))
        return kl.sum(-1)

    def prior(self, x: np.ndarray) -> np.ndarray:
        """L_T: KL(q(x_T | x_0) ‖ N(0, I))."""
        mean, variance = np.sqrt(self.bar[-1]) * x, 1 - self.bar[-1]
        return (0.5 * (-1.0 - np.log(variance) + variance + mean**2)).sum(-1)


def ddpm_model(T: int = 50, D: int = 3) -> DiffusionModel:
    """A tiny random ε-network on a DDPM's full table, β̃ variances, the discretised Gaussian decoder, made by hand."""
    table = schedules.linear(T)
    ends = table.at_index(torch.tensor([0, 1]))
    return DiffusionModel(
        domain=DataDomain((D,), 256),
        schedule=table,
        grid=grid.full(),
        denoiser=NetworkDenoiser(Tiny(D), "eps", "index"),
        reverse=Reverse(BetaTilde()),
        decoder=DiscretizedGaussian(BetaTilde().of_decoder(ends[:1], ends[1:])),
        prior=GaussianPrior(),
    )


def check_ddpm(model: DiffusionModel | None = None) -> None:
    """Every term of T = 50 linear betas on shared noise, to 1e-9 relative; and their sum through `evaluate`."""
    model = model or ddpm_model()
    D, bins = model.domain.dimensions, 256
    plain = Ddpm(np.linspace(1e-4, 2e-2, 50))
    codes = torch.from_numpy(np.random.default_rng(12).integers(0, bins, (5, D)))
    codes[0], codes[1] = 0, bins - 1
    x = codes.numpy() / 127.5 - 1
    tiny = Tiny(D)

    def net(z: np.ndarray, t: int) -> np.ndarray:
        with torch.no_grad():
            return tiny(torch.from_numpy(z), torch.full((len(z),), t)).numpy()

    levels, values = model.levels(), model.domain.values(codes)
    close(values, x, 1e-12, 1e-15)
    close(terms.prior(model, values, levels[-1:]), plain.prior(x), 1e-9)
    for t in range(50):
        eps = np.random.default_rng(100 + t).normal(size=x.shape)
        at = levels[t : t + 1].expand(5)
        with torch.no_grad():
            if t == 0:
                ours = at_noise.reconstruction(model, values, codes, torch.from_numpy(eps), at)
            else:
                ours = at_noise.diffusion(model, values, torch.from_numpy(eps), levels[t - 1 : t].expand(5), at)
        close(ours, plain.term(net, x, codes.numpy(), t, eps, bins), 1e-9)
    bound = evaluate(model, codes, estimator=Exhaustive(2), precision="float64", per_example=True, seed=9)
    total = plain.prior(x)
    for t in range(50):
        for draw in (0, 1):
            eps = random.normal(9, torch.arange(5), t, draw, (D,)).numpy()
            total = total + plain.term(net, x, codes.numpy(), t, eps, bins) / 2
    assert bound.per_example is not None
    close(bound.per_example.nats, total, 1e-9)
    close(bound.bits_per_dim, total.mean() / (D * math.log(2)), 1e-9)

"""Exact expectations of the product's terms, and plain numpy formulas for what they must be.

`expected_*` feed chosen noise to `nelbo.bound.terms` (deterministic in ε) and weigh it by quadrature: no Monte Carlo.
`Chain` is the linear-Gaussian model in one dimension written out in numpy: x̂ = a(λ) z + b(λ), so that p_θ(x) and
every path law are Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Reverse, Variance
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule
from nelbo.testing import at_noise
from tests.model.checks import gaussian_kl

Nodes = tuple[Tensor, Tensor]


def hermite(n: int) -> Nodes:
    """Nodes and weights of E f(ε), ε ~ N(0, 1): exact for polynomials of degree 2n − 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def trapezoid(n: int = 361, reach: float = 9.0) -> Nodes:
    """The same for functions with steep flanks (mixtures, codes): the trapezoid rule on the line."""
    nodes = torch.linspace(-reach, reach, n, dtype=torch.float64)
    weights = (-nodes.square() / 2).exp()
    return nodes, weights / weights.sum()


def plane(nodes: Nodes) -> Nodes:
    """The product rule in two dimensions: nodes (n², 2)."""
    x, w = nodes
    return torch.cartesian_prod(x, x), torch.outer(w, w).reshape(-1)


class Expected(NamedTuple):
    """Exact expectations over ε: prior (N,), diffusion (L − 1, N), reconstruction (N,)."""

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.diffusion.sum(0) + self.reconstruction


def _over_noise(term: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, levels: int, nodes: Nodes) -> Tensor:
    """E_ε term(x, ε, j) for every example and every j < levels, (levels, N), a few levels at a time."""
    eps, weights = nodes
    eps = eps.reshape(len(weights), *x.shape[1:])
    rows, result = len(x) * len(weights), []
    for j in torch.arange(levels).split(max(1, 200_000 // rows)):
        which = j.repeat_interleave(rows)
        xs = x.repeat_interleave(len(weights), 0).repeat(len(j), *[1] * (x.ndim - 1))
        es = eps.repeat(len(x) * len(j), *[1] * (x.ndim - 1))
        with torch.no_grad():
            result.append(term(xs, es, which).reshape(len(j), len(x), len(weights)) @ weights)
    return torch.cat(result) if result else torch.zeros(0, len(x), dtype=torch.float64)


def expected_terms(model: DiffusionModel, data: Tensor, nodes: Nodes) -> Expected:
    """Every term of a finite chain for `data` (N, D): codes or values."""
    domain, levels = model.domain, model.levels()
    x = domain.values(data) if domain.discrete else data

    def step(x: Tensor, eps: Tensor, j: Tensor) -> Tensor:
        return at_noise.diffusion(model, x, eps, levels[j], levels[j + 1])

    def first(x: Tensor, eps: Tensor, j: Tensor) -> Tensor:
        target = domain.codes(x) if domain.discrete else x
        return at_noise.reconstruction(model, x, target, eps, levels[:1].expand(len(x)))

    return Expected(
        terms.prior(model, x, levels[-1:]),
        _over_noise(step, x, 0 if model.grid.continuous else len(levels) - 1, nodes),
        _over_noise(first, x, 1, nodes)[0],
    )


def expected_continuous(
    model: DiffusionModel, data: Tensor, nodes: Nodes, panels: int = 24, order: int = 8
) -> Expected:
    """The same of a continuous chain; ∫ dt by Gauss-Legendre of `order` on each of `panels`. diffusion is (1, N)."""
    ends, schedule = model.levels().t, model.schedule
    u, w = np.polynomial.legendre.leggauss(order)
    width = float(ends[1] - ends[0]) / panels
    times = torch.from_numpy(float(ends[0]) + width * (np.arange(panels)[:, None] + (u + 1) / 2).ravel())
    weights = torch.from_numpy(np.tile(w / 2 * width, panels))

    def rate(x: Tensor, eps: Tensor, j: Tensor) -> Tensor:
        t = times[j]
        return at_noise.diffusion_rate(model, x, eps, schedule.at(t), schedule.dlogsnr_dt(t))

    x = model.domain.values(data) if model.domain.discrete else data
    rates = _over_noise(rate, x, len(times), nodes)
    return expected_terms(model, data, nodes)._replace(diffusion=(weights @ rates)[None])


# ---------------------------------------------------------------- the linear-Gaussian model, in one dimension


def vp(logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """α and σ of the VP path."""
    return np.sqrt(1 / (1 + np.exp(-logsnr))), np.sqrt(1 / (1 + np.exp(logsnr)))


@dataclass(frozen=True)
class Line:
    """x̂ = a z + b for data N(m, c): the exact posterior mean at `error` = 0, and wrong in gain and offset otherwise."""

    m: float
    c: float
    error: float = 0.0

    def __call__(self, logsnr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alpha, sigma = vp(logsnr)
        exact = alpha * self.c / (alpha**2 * self.c + sigma**2)
        a = exact * (1 + self.error * np.cos(logsnr))
        return a, self.m * (1 - exact * alpha) + self.error * np.sin(logsnr)


class LinearDenoiser(Denoiser):
    """The product's view of a `Line`."""

    def __init__(self, line: Line):
        super().__init__()
        self.line = line

    def forward(self, z: Tensor, t: Levels, condition=None) -> Prediction:
        a, b = (torch.from_numpy(v) for v in self.line(t.logsnr.numpy()))
        return Prediction(a[:, None] * z + b[:, None])


def linear_model(
    line: Line, schedule: Schedule, grid: Grid, variance: Variance, decoder_variance: float | None = None
) -> DiffusionModel:
    """D = 1, prior N(0, 1), decoder N(z/α, σ²/α²) or N(x̂, decoder_variance)."""
    return DiffusionModel(
        domain=DataDomain((1,)),
        schedule=schedule,
        grid=grid,
        denoiser=LinearDenoiser(line),
        reverse=Reverse(variance),
        decoder=ContinuousGaussian(decoder_variance),
        prior=GaussianPrior(),
    )


@dataclass(frozen=True)
class Chain:
    """p_θ of `linear_model`: z_L ~ N(0, 1), z_{j−1} = A_j z_j + B_j + √V_j ε, x = A_1 z_1 + B_1 + √V_1 ε.

    A, B, V (L,) in the order x ← z_1, z_1 ← z_2, …; logsnr (L,) of z_1 … z_L.
    """

    A: np.ndarray
    B: np.ndarray
    V: np.ndarray
    logsnr: np.ndarray

    @classmethod
    def of(cls, line: Line, logsnr: np.ndarray, beta_tilde: bool, decoder_variance: float | None) -> Chain:
        alpha, sigma = vp(logsnr)
        a, b = line(logsnr)
        ratio = alpha[1:] / alpha[:-1]
        beta = sigma[1:] ** 2 - ratio**2 * sigma[:-1] ** 2
        c_z, c_x = ratio * sigma[:-1] ** 2 / sigma[1:] ** 2, alpha[:-1] * beta / sigma[1:] ** 2
        V = beta * sigma[:-1] ** 2 / sigma[1:] ** 2 if beta_tilde else beta
        if decoder_variance is None:
            head = 1 / alpha[0], 0.0, sigma[0] ** 2 / alpha[0] ** 2
        else:
            head = a[0], b[0], decoder_variance
        A, B, V = (np.append(h, rest) for h, rest in zip(head, (c_z + c_x * a[1:], c_x * b[1:], V), strict=True))
        return cls(A, B, V, logsnr)

    def marginal(self) -> tuple[float, float]:
        """Mean and variance of p_θ(x), by recursion from z_L ~ N(0, 1)."""
        mean, variance = 0.0, 1.0
        for A, B, V in zip(self.A[::-1], self.B[::-1], self.V[::-1], strict=True):
            mean, variance = A * mean + B, A**2 * variance + V
        return mean, variance

    def nll(self, x: np.ndarray) -> np.ndarray:
        """−log p_θ(x), nats."""
        mean, variance = self.marginal()
        return 0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))

    def joint(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of p_θ(x, z_1, …, z_L), (L + 1,) and (L + 1, L + 1)."""
        L = len(self.A)
        mean, maps = np.zeros(L + 1), np.zeros((L + 1, L + 1))
        maps[L, L] = 1.0
        for i in range(L - 1, -1, -1):
            mean[i] = self.A[i] * mean[i + 1] + self.B[i]
            maps[i] = self.A[i] * maps[i + 1]
            maps[i, i] += math.sqrt(self.V[i])
        return mean, maps @ maps.T

    def forward_joint(self, m: float, c: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of q(x, z_1, …, z_L) for x ~ N(m, c); c = 0 is a known x (drop its row then)."""
        alpha, sigma = vp(self.logsnr)
        scale = np.append(1.0, alpha)
        noise = np.zeros((len(scale), len(scale)))
        early = np.minimum(np.arange(len(alpha))[:, None], np.arange(len(alpha)))
        late = np.maximum(np.arange(len(alpha))[:, None], np.arange(len(alpha)))
        noise[1:, 1:] = alpha[late] / alpha[early] * sigma[early] ** 2
        return scale * m, np.outer(scale, scale) * c + noise


def path_gap(chain: Chain, x: float) -> float:
    """KL(q(z_1..z_L | x) ‖ p_θ(z_1..z_L | x)): what the bound of one example exceeds −log p_θ(x) by."""
    mean, covariance = chain.joint()
    gain = covariance[1:, 0] / covariance[0, 0]
    posterior = mean[1:] + gain * (x - mean[0]), covariance[1:, 1:] - np.outer(gain, covariance[0, 1:])
    q_mean, q_cov = chain.forward_joint(x, 0.0)
    return gaussian_kl(q_mean[1:], q_cov[1:, 1:], *posterior)


def joint_gap(chain: Chain, line: Line) -> float:
    """KL(q(x, z_1..z_L) ‖ p_θ(x, z_1..z_L)): what the average bound exceeds the entropy of the data by."""
    return gaussian_kl(*chain.forward_joint(line.m, line.c), *chain.joint())

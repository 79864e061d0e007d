"""Models on a law of log-SNR with a linear denoiser: every mean over the noise is a polynomial of degree two.

x̂ = g(λ) z at log-SNR λ. For one x and noise ε, x − x̂ = (1 − g α) x − g σ ε, so that

    E‖ε − ε̂‖² = SNR ((1 − g α)² x² + g² σ²)

(one dimension; ε − ε̂ = (x̂ − x) α/σ).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.adapters.callable import from_callable
from nelbo.equations.oracles import nodes
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels
from nelbo.process.schedule import Schedule
from nelbo.testing import at_noise

Gain = Callable[[Tensor], Tensor]


def poor(logsnr: Tensor) -> Tensor:
    """A gain that is nowhere the best: nine tenths of that for data N(0, 0.5)."""
    return 0.9 * optimal(0.5)(logsnr)


def optimal(variance: float) -> Gain:
    """The best gain for data N(0, variance): α v/(α² v + σ²)."""

    def gain(logsnr: Tensor) -> Tensor:
        alpha, noise = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr)
        return alpha * variance / (alpha**2 * variance + noise)

    return gain


def model(schedule: Schedule, gain: Gain) -> DiffusionModel:
    """The library's model of x̂ = g(λ) z on a law of log-SNR, variance β̃, continuous grid."""

    def net(z: Tensor, logsnr: Tensor) -> Tensor:
        return gain(logsnr)[:, None] * z

    return from_callable(net, schedule=schedule, domain=DataDomain((1,)), predicts="x0", time="logsnr")


def noise_error(gain: Gain, x_square: float, logsnr: Tensor) -> Tensor:
    """E‖ε − ε̂‖² in closed form where x² is `x_square`; elementwise in λ, variance preserving."""
    alpha, noise, g = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr), gain(logsnr)
    return logsnr.exp() * ((1 - g * alpha).square() * x_square + g.square() * noise)


def steps(of: DiffusionModel, x: float, levels: Levels) -> Tensor:
    """The library's terms between neighbours of `levels` (T + 1,), each averaged over ε exactly, (T,)."""
    eps, w = nodes.normal(3)
    T, n = len(levels) - 1, len(eps)
    before, after = torch.arange(T).repeat_interleave(n), torch.arange(1, T + 1).repeat_interleave(n)
    at = torch.full((T * n, 1), x, dtype=torch.float64)
    nats = at_noise.diffusion(of, at, eps.repeat(T)[:, None], levels[before], levels[after])
    return nats.reshape(T, n) @ w


def chain(of: DiffusionModel, x: float, T: int) -> float:
    """The diffusion term of T even steps in t, by the library."""
    return float(steps(of, x, of.schedule.at(torch.arange(T + 1, dtype=torch.float64) / T)).sum())


def rate(of: DiffusionModel, x: float, t: Tensor) -> Tensor:
    """The library's nats per unit time at times t (n,), averaged over ε exactly."""
    eps, w = nodes.normal(3)
    many = t.repeat_interleave(len(eps))
    at = torch.full((len(many), 1), x, dtype=torch.float64)
    slope = of.schedule.dlogsnr_dt(many)
    nats = at_noise.diffusion_rate(of, at, eps.repeat(len(t))[:, None], of.schedule.at(many), slope)
    return nats.reshape(len(t), -1) @ w


def whole(of: DiffusionModel, x: float, pieces: int = 1, n: int = 60) -> float:
    """The library's continuous diffusion term of one x: Gauss-Legendre on each of `pieces` equal parts of [0, 1]."""
    total = 0.0
    for k in range(pieces):
        t, w = nodes.interval(k / pieces, (k + 1) / pieces, n)
        total += float(rate(of, x, t) @ w)
    return total


def bent(shape: Callable[[Tensor], Tensor], high: float, low: float, pieces: int = 40) -> Schedule:
    """λ(t) = high + (low − high) shape(t) with shape(0) = 0 and shape(1) = 1, as straight pieces."""
    t = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    return schedules.Table(high + (low - high) * shape(t), "bent").interpolated()

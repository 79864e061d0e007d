"""The numbers behind the derivations of the signal-to-noise form with its limit, and of the probability flow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nelbo.equations.derivation import Walk, walk
from nelbo.equations.oracles.grid import LineMixture
from nelbo.equations.oracles.quadrature import hermite, legendre, log_normal
from nelbo.equations.twins import MIXTURE, gaussian_data, mixture_data
from nelbo.maths import gaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward, grid
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Output, from_x0
from nelbo.process.schedule import LogSNRLinear, Schedule, Table
from nelbo.testing import at_noise

VARIANCE, HIGH, LOW = 0.7, 4.0, -4.0
"""Data N(0, 0.7) with its exact denoiser, log-SNR from 4 down to −4."""


def exact_model(law: Schedule, how: grid.Grid) -> DiffusionModel:
    """The library's model of these data with its exact denoiser, on a schedule and a grid."""
    return gaussian_data(0.0, VARIANCE).model(law, how, exact_ends=False, variance="beta_tilde")


def expected(term: Callable[[Tensor, Tensor], Tensor]) -> float:
    """E over x and ε of `term`, quadratic in both; 4² nodes, exact."""
    nodes, w = hermite(4)
    a, b = (torch.from_numpy(v.reshape(-1, 1).copy()) for v in np.meshgrid(nodes, nodes, indexing="ij"))
    return float(torch.from_numpy(np.outer(w, w).ravel()) @ term(math.sqrt(VARIANCE) * a, b).reshape(-1))


def finite(steps: int) -> float:
    """The sum over `steps` steps, evenly spaced in t, of the library's denoising terms."""
    model = exact_model(LogSNRLinear(HIGH, LOW), grid.even(steps))
    levels = model.levels()
    s, t = levels[:-1], levels[1:]

    def total(x: Tensor, eps: Tensor) -> Tensor:
        rows, size = len(x), len(t)
        early, late = (Levels(v.t.repeat(rows), v.logsnr.repeat(rows), v.path) for v in (s, t))
        every = at_noise.diffusion(model, x.repeat_interleave(size, 0), eps.repeat_interleave(size, 0), early, late)
        return every.reshape(rows, size).sum(1)

    return expected(total)


def extrapolated(first: int = 64, count: int = 6) -> float:
    """The limit of `finite` by Romberg's table in 1/T: doublings of T, the powers of 1/T cancelled one by one."""
    row = [finite(first * 2**k) for k in range(count)]
    for order in range(1, count):
        row = [(2**order * fine - coarse) / (2**order - 1) for coarse, fine in itertools.pairwise(row)]
    return row[0]


def integral(model: DiffusionModel, edges: list[float], slope: Callable[[Levels, Tensor, Tensor], Tensor]) -> float:
    """∫ E slope(t, x, ε) dt over [0, 1], Legendre on every piece between the edges."""
    total = 0.0
    for low, high in itertools.pairwise(edges):
        t, w = legendre(24, low, high)
        for point, weight in zip(t, w, strict=True):
            level = model.schedule.at(torch.full((16,), point, dtype=torch.float64))
            total += weight * expected(lambda x, eps, level=level: slope(level, x, eps))
    return total


@walk("snr-and-limit")
def _(w: Walk) -> None:
    model = exact_model(LogSNRLinear(HIGH, LOW), grid.even(4))
    levels = model.levels()
    pairs = [(levels[j - 1 : j].expand(16), levels[j : j + 1].expand(16)) for j in range(1, len(levels))]
    lines = np.zeros((4, len(pairs)))
    for j, (s, t) in enumerate(pairs):
        high, low = float(s.logsnr[0]), float(t.logsnr[0])
        spread = float(forward.posterior(s, t).variance[0])

        def guess(x: Tensor, eps: Tensor, t: Levels = t) -> tuple[Tensor, Tensor]:
            z = forward.noised(x, eps, t)
            return z, model.predict(z, t).x0

        def mean_error(x: Tensor, eps: Tensor, s: Levels = s, t: Levels = t) -> Tensor:
            z, x_hat = guess(x, eps, t)
            return (forward.posterior_mean(x, z, s, t) - forward.posterior_mean(x_hat, z, s, t)).square()

        def x_error(x: Tensor, eps: Tensor, t: Levels = t) -> Tensor:
            return (x - guess(x, eps, t)[1]).square()

        def eps_error(x: Tensor, eps: Tensor, t: Levels = t) -> Tensor:
            z, x_hat = guess(x, eps, t)
            return (eps - from_x0(Output.EPS, x_hat, z, t)).square()

        lines[:, j] = [
            expected(lambda x, eps, s=s, t=t: at_noise.diffusion(model, x, eps, s, t)),
            expected(mean_error) / (2 * spread),
            0.5 * (math.exp(high) - math.exp(low)) * expected(x_error),
            0.5 * math.expm1(high - low) * expected(eps_error),
        ]
    mmse = [VARIANCE / (1 + VARIANCE * math.exp(float(t.logsnr[0]))) for _, t in pairs]
    drop = [0.5 * (math.exp(float(s.logsnr[0])) - math.exp(float(t.logsnr[0]))) for s, t in pairs]
    w.checks.holds("line 1 by the least squared error of normal data", lines[0] - np.multiply(drop, mmse), 1e-12)
    w.start(lines[0])
    for line in lines[1:]:
        w.line(line)
    w.line(finite(4), before=lines[3].sum(), how="the sum over the steps of")
    limit = extrapolated()

    def in_x(level: Levels, x: Tensor, eps: Tensor) -> Tensor:
        z = forward.noised(x, eps, level)
        return 0.5 * (HIGH - LOW) * column(level.logsnr.exp(), x) * (x - model.predict(z, level).x0).square()

    def in_eps(level: Levels, x: Tensor, eps: Tensor) -> Tensor:
        return at_noise.diffusion_rate(model, x, eps, level, torch.full((len(x),), LOW - HIGH, dtype=torch.float64))

    w.line(integral(model, [0.0, 1.0], in_x), 1e-8, before=limit, how="the limit T → ∞ of")
    w.checks.must_fail("T = 4 is the limit", finite(4) - limit, 0.1)
    ratio = [(finite(k) - limit) / (finite(2 * k) - limit) for k in (64, 128)]
    w.checks.holds("twice the steps, half the distance to the limit", np.subtract(ratio, 2), 0.05)
    w.line(integral(model, [0.0, 1.0], in_eps), 1e-12)
    bent = Table(torch.tensor([HIGH, 3.1, 0.2, -0.4, LOW], dtype=torch.float64), "bent").interpolated()
    other = exact_model(bent, grid.continuous())

    def bent_rate(level: Levels, x: Tensor, eps: Tensor) -> Tensor:
        return at_noise.diffusion_rate(other, x, eps, level, bent.dlogsnr_dt(level.t))

    w.line(integral(other, [0.0, 0.25, 0.5, 0.75, 1.0], bent_rate), 1e-10)
    gain = [0.5 * math.log1p(VARIANCE * math.exp(end)) for end in (HIGH, LOW)]
    w.line(gain[0] - gain[1], 1e-10)


FIRST, LAST = 5.0, -5.0
"""Ends of the log-SNR of the flow's process, a straight line in t, and the points that it carries."""
POINTS = np.array([-1.6, -0.4, 0.3, 1.2, 1.9])


class ProbabilityFlow:
    """The probability flow of a noised mixture: dx/dt = f − ½ g² ∇log q_t with f = ½ σ² λ′ x, g² = −σ² λ′ (VP)."""

    slope = LAST - FIRST

    def __init__(self, score: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]):
        self.score = score

    def velocity(self, x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """dx/dt and its derivative by x, at the points x (N,)."""
        _, sigma = scales(t)
        score, bend = self.score(x, t)
        rate = 0.5 * sigma**2 * self.slope
        return rate * (x + score), rate * (1 + bend)

    def carry(self, x: np.ndarray, steps: int = 120) -> tuple[np.ndarray, np.ndarray]:
        """x_T and ∫ ∇·velocity dt from x at t = 0, by Runge and Kutta's rule of order 4."""
        total, h = np.zeros_like(x), 1 / steps
        for k in range(steps):
            t = k * h
            v1, d1 = self.velocity(x, t)
            v2, d2 = self.velocity(x + h / 2 * v1, t + h / 2)
            v3, d3 = self.velocity(x + h / 2 * v2, t + h / 2)
            v4, d4 = self.velocity(x + h * v3, t + h)
            x, total = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return x, total


def scales(t: float) -> tuple[float, float]:
    """α and σ from plain numbers."""
    logsnr = FIRST + (LAST - FIRST) * t
    return 1 / math.sqrt(1 + math.exp(-logsnr)), 1 / math.sqrt(1 + math.exp(logsnr))


def oracle_score(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """∇log q_t and its derivative, component by component."""
    alpha, sigma = scales(t)
    w, m, v = MIXTURE._columns
    variance = alpha**2 * v + sigma**2
    share = w * np.exp(log_normal(x, alpha * m, variance))
    share = share / share.sum(0)
    pull = (alpha * m - x) / variance
    score = (share * pull).sum(0)
    return score, (share * (pull**2 - 1 / variance)).sum(0) - score**2


def denoiser_score(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """(α x̂ − x)/σ² of the library's exact denoiser, and its derivative through the network."""
    z = torch.from_numpy(x.copy())[:, None].requires_grad_()
    level = LogSNRLinear(FIRST, LAST).at(torch.full((len(x),), t, dtype=torch.float64))
    x_hat = mixture_data(MIXTURE).denoiser()(z, level).x0
    score = (column(level.alpha, z) * x_hat - z) / column(level.sigma.square(), z)
    (bend,) = torch.autograd.grad(score.sum(), z)
    return score.detach().numpy()[:, 0], bend.numpy()[:, 0]


def density(x: Tensor, t: Tensor) -> Tensor:
    """q_t(x) of the library's mixture at its own levels, differentiable in both; x (N,), t (N,)."""
    level = LogSNRLinear(FIRST, LAST).at(t)
    alpha, sigma = level.alpha[:, None, None], level.sigma[:, None, None]
    return mixture_data(MIXTURE).component_log_prob(x[:, None], alpha, sigma).logsumexp(-1).exp()


def share_below(mixture: LineMixture, x: np.ndarray, t: float) -> np.ndarray:
    """Pr(X_t ≤ x)."""
    alpha, sigma = scales(t)
    _, m, v = mixture._columns
    score = (x - alpha * m) / np.sqrt(alpha**2 * v + sigma**2)
    return np.array(mixture.weights) @ np.vectorize(lambda u: 0.5 * math.erfc(-u / math.sqrt(2)))(score)


@walk("probability-flow")
def _(w: Walk) -> None:
    x = torch.from_numpy(POINTS.copy()).requires_grad_()
    t = torch.full((len(POINTS),), 0.4, dtype=torch.float64, requires_grad=True)
    q = density(x, t)
    (in_time,) = torch.autograd.grad(q.sum(), t, retain_graph=True)
    (slope,) = torch.autograd.grad(q.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    q0, q1, q2, now = (v.detach().numpy() for v in (q, slope, bend, in_time))
    _, sigma = scales(0.4)
    drift, noise = 0.5 * sigma**2 * ProbabilityFlow.slope, -(sigma**2) * ProbabilityFlow.slope
    w.start(now)
    w.line(-(drift * q0 + drift * POINTS * q1) + 0.5 * noise * q2)
    flow = ProbabilityFlow(oracle_score)
    velocity, divergence = flow.velocity(POINTS, 0.4)
    w.line(-(divergence * q0 + velocity * q1))
    end, total = flow.carry(POINTS)
    w.start(share_below(MIXTURE, POINTS, 0.0))
    w.line(share_below(MIXTURE, end, 1.0), 1e-8)
    w.start(now / q0 + q1 / q0 * velocity)
    w.line(-divergence)
    ends = LogSNRLinear(FIRST, LAST).at(torch.tensor([0.0, 1.0]))
    data = mixture_data(MIXTURE)

    def log_q(points: np.ndarray, which: int) -> np.ndarray:
        return data.noised(ends[which : which + 1]).log_prob(torch.from_numpy(points)[:, None]).numpy()

    w.start(log_q(POINTS, 0))
    w.line(log_q(end, 1) + total, 1e-7)
    again, through = ProbabilityFlow(denoiser_score).carry(POINTS)
    w.line(log_q(again, 1) + through, 1e-9)
    normal = gaussian.log_density(
        torch.from_numpy(end), torch.tensor(0.0), torch.tensor(1.0, dtype=torch.float64)
    ).numpy()
    w.checks.must_fail("N(0, I) for q_T at ᾱ_T = 0.0067: log q_0 is off by", normal + total - log_q(POINTS, 0), 0.001)

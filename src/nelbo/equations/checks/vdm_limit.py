"""Ever finer chains: the continuous loss, what it depends on, and what it measures."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import cells_of
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import laws, nodes
from nelbo.equations.oracles.bumps import Bumps
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path

STRAIGHT = schedules.logsnr_linear(6.0, -6.0)
X = 0.8


@check("snr-continuous-limit")
def _(c: Checks) -> None:
    model = laws.model(STRAIGHT, laws.poor)
    t, w = nodes.interval(0.0, 1.0, 80)
    logsnr = 6 - 12 * t
    closed = laws.noise_error(laws.poor, X**2, logsnr)
    exact = float((0.5 * 12 * closed) @ w)
    c.holds("nelbo's rate at 80 times = ½ γ'(t) E‖ε − ε̂‖²", laws.rate(model, X, t) - 6 * closed, 1e-10)
    c.holds("its integral = −½ ∫ SNR'(t) E‖x − x̂‖² dt", laws.whole(model, X) - exact, 1e-10)
    sizes = [2**k for k in range(5, 13)]
    excess = [laws.chain(model, X, T) - exact for T in sizes]
    ratios = [a / b for a, b in itertools.pairwise(excess)]
    c.true("the excess of nelbo's chain halves when T doubles; last ratio", abs(ratios[-1] - 2) < 0.01, ratios[-1])
    c.info("excess of 32 steps, in nats", excess[0])
    c.info("excess of 4096 steps", excess[-1])
    c.holds("extrapolated to T = ∞ it is the integral", _extrapolated(excess), 1e-7)
    c.must_fail("without the ½", 2 * exact - exact, 0.5)
    c.must_fail("an error of any T: that of 32 steps", excess[0], 0.1)


def _extrapolated(excess: list[float]) -> float:
    """Richardson: powers of 1/T eliminated one by one."""
    row, order = list(excess), 1
    while len(row) > 1:
        row = [(2**order * b - a) / (2**order - 1) for a, b in itertools.pairwise(row)]
        order += 1
    return row[0]


@check("snr-schedule-invariance")
def _(c: Checks) -> None:
    shapes = {
        "straight": lambda t: t,
        "cubic": lambda t: 3 * t**2 - 2 * t**3,
        "sine": lambda t: torch.sin(math.pi * t / 2),
    }
    whole, ten, spread = {}, {}, {}
    for name, shape in shapes.items():
        model = laws.model(laws.bent(shape, 6.0, -6.0), laws.poor)
        whole[name] = laws.whole(model, X, 40, 8)
        ten[name] = laws.chain(model, X, 10)
        cells = cells_of(model)
        c.holds(f"{name}: nelbo's slices of λ span the whole range", cells.scale.sum() - 6.0, 1e-12)
        summed = float((cells.scale * laws.noise_error(laws.poor, X**2, -cells.place)).sum())
        c.holds(f"{name}: and their midpoints give the continuous loss", summed - whole[name], 1e-3)
        t = torch.arange(400, dtype=torch.float64) / 400 + 1 / 800
        spread[name] = float(laws.rate(model, X, t).var())
        c.info(f"{name}: the continuous loss in nats", whole[name])
        c.info(f"{name}: ten steps", ten[name])
    straight = whole["straight"]
    c.holds("three shapes with the same ends, one continuous loss", max(whole.values()) - min(whole.values()), 1e-9)
    c.must_fail("ten steps: invariant too", ten["sine"] - ten["straight"], 0.1)
    shorter = laws.whole(laws.model(laws.bent(shapes["straight"], 5.0, -6.0), laws.poor), X, 40, 8)
    c.must_fail("another end point (λ_max 5 for 6): invariant too", shorter - straight, 0.05)
    differ = max(spread.values()) / min(spread.values())
    c.true(
        "the variance of the estimate from one time depends on the shape; largest over smallest", differ > 1.1, differ
    )


@check("snr-monotone-refinement")
def _(c: Checks) -> None:
    best = laws.model(STRAIGHT, laws.optimal(1.0))  # data N(0, 1): E over x is the value at x² = 1
    sizes = [2**k for k in range(10)]
    sums = [laws.chain(best, 1.0, T) for T in sizes]
    falls = [b - a for a, b in itertools.pairwise(sums)]
    c.true(
        "the best denoiser: nelbo's chain falls with each doubling, 1 to 512; the least fall",
        max(falls) < 0,
        max(falls),
    )
    for T in (1, 4, 32):
        t = torch.arange(2 * T + 1, dtype=torch.float64) / (2 * T)
        logsnr = 6 - 12 * t
        error = laws.noise_error(laws.optimal(1.0), 1.0, logsnr) / logsnr.exp()
        middle, end = slice(1, None, 2), slice(2, None, 2)
        gain = 0.5 * (logsnr[0:-1:2].exp() - logsnr[middle].exp()) * (error[middle] - error[end])
        change = laws.chain(best, 1.0, 2 * T) - laws.chain(best, 1.0, T)
        c.holds(
            f"T={T}: L_2T − L_T = Σ ½ (SNR(s) − SNR(t')) (err(t') − err(t)), relative",
            float(gain.sum()) / change - 1,
            1e-11,
        )
    steep = torch.tensor([8, 7.95, 7.9, 4, -7.9, -7.95, -8], dtype=torch.float64)
    two, three = (float(laws.steps(best, 1.0, _levels(steep[::k])).sum()) for k in (3, 2))
    c.must_fail("falls in T for grids that are not nested, best denoiser: L_3 − L_2", three - two, 0.05)
    bad = laws.model(STRAIGHT, lambda logsnr: 3 * torch.sigmoid(logsnr).sqrt())
    c.must_fail(
        "falls for a denoiser that gets worse with SNR: L_8 − L_1",
        laws.chain(bad, 1.0, 8) - laws.chain(bad, 1.0, 1),
        1.0,
    )
    rises = _mmse(torch.linspace(-6, 6, 25, dtype=torch.float64)).diff()
    c.true(
        "a mixture: nelbo's exact denoiser errs less at higher SNR, 25 levels; the largest step",
        (rises < 0).all(),
        rises.max(),
    )


def _levels(logsnr: Tensor) -> Levels:
    return Levels(torch.linspace(0, 1, len(logsnr), dtype=torch.float64), logsnr, Path.VP)


def _mmse(logsnr: Tensor) -> Tensor:
    """E (x − x̂)² of the mixture with the library's exact denoiser, at each λ: E x² − E x̂²."""
    mixture = Bumps()
    z, w = nodes.line(-6.0, 6.0, 601)
    x, p = nodes.line(-5.0, 5.0, 1001)
    second = (p * mixture.density(x) * x.square()).sum()
    at = _levels(logsnr)
    many = at[torch.arange(len(logsnr)).repeat_interleave(len(z))]
    x_hat = mixture.product().denoiser()(z.repeat(len(logsnr))[:, None], many).x0.reshape(len(logsnr), -1)
    density = torch.stack([mixture.density(z, a, s**2) for a, s in zip(at.alpha, at.sigma, strict=True)])
    return second - (w * density * x_hat.square()).sum(1)


@check("mmse-information")
def _(c: Checks) -> None:
    variance = 0.7
    model = laws.model(STRAIGHT, laws.optimal(variance))
    exact = 0.5 * (math.log1p(variance * math.exp(6)) - math.log1p(variance * math.exp(-6)))
    ours = laws.whole(model, variance**0.5, n=80)
    c.holds("Gaussian data: nelbo's continuous loss = I(x; z_0) − I(x; z_1)", ours - exact, 1e-10)
    c.must_fail("without the ½", 2 * ours - exact, 0.3)
    t, w = nodes.interval(1.0, 5.0, 40)
    loss = 0.5 * float((w * t.exp()) @ _mmse(t))
    difference = _information(5.0) - _information(1.0)
    c.holds(
        "a mixture, nelbo's exact denoiser: ½ ∫ mmse dSNR = I at λ = 5 − I at λ = 1, by entropies",
        loss - difference,
        1e-8,
    )
    c.info("nats that the noise destroys between λ = 5 and 1", difference)


def _information(logsnr: float) -> float:
    """I(x; z) = H(z) − H(noise) of the mixture, by the trapezoid rule."""
    alpha, noise = 1 / (1 + math.exp(-logsnr)) ** 0.5, 1 / (1 + math.exp(logsnr))
    z, w = nodes.line(-6.0, 6.0, 4001)
    density = Bumps().density(z, alpha, noise)
    return float(-(w * density * density.log()).sum()) - 0.5 * math.log(2 * math.pi * math.e * noise)

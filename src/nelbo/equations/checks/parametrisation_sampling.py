"""Ancestral sampling: the step with its noise, and the last one without."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.bumps import Bumps
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import GaussianData
from nelbo.model.reverse import Beta, Reverse
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.sampling.draw import Trajectory, sample
from nelbo.workers import Run

POINTS = torch.tensor([-1.8, 0.0, 1.9], dtype=torch.float64)


def walk(n: int, model: DiffusionModel, seed: int = 5) -> Trajectory:
    """n of the library's samples with every level on their way."""
    trajectory = sample(model, n, trajectory=True, run=Run(seed=seed))
    assert isinstance(trajectory, Trajectory)
    return trajectory


@check("sampling-step")
def _(c: Checks) -> None:
    table = Ddpm.linear()
    denoiser = GaussianData(torch.tensor([0.3]), torch.tensor([0.5])).denoiser()
    schedule = schedules.linear(1000)
    s, t = schedule.at_index(torch.arange(999)), schedule.at_index(torch.arange(1, 1000))

    def steps(z: float) -> tuple[Tensor, Tensor]:
        at = torch.full((999, 1), z, dtype=torch.float64)
        return Reverse(Beta()).step(at, denoiser(at, t), s, t)

    (shift, variance), slope = steps(0.0), steps(1.0)[0] - steps(0.0)[0]
    c.holds("the added noise of nelbo's step has variance β_t, relative", variance[:, 0] / table.beta[2:] - 1, 1e-10)
    mean, spread = _reached(slope[:, 0], shift[:, 0], variance[:, 0])
    c.holds("1000 of nelbo's steps from N(0, 1), data N(0.3, 0.5): mean", mean - 0.3, 0.001)
    c.holds("variance", spread - 0.5, 0.002)
    lost = _misprinted(table)
    c.must_fail("without the bar (002): variance", lost - 0.5, 0.3)
    c.info("without the bar: the variance reached where the data have 0.5", lost)

    short = Ddpm((0.1, 0.2, 0.3))
    model = models.wavy(short)
    n = 60_000
    z_1 = walk(n, model).z[-1][:, 0].double()
    exact = _distribution(short)
    share = (z_1[:, None] <= POINTS).double().mean(0)
    error = (exact * (1 - exact) / n).sqrt()
    c.z("a mixture: 60,000 of nelbo's samples, P(z_1 ≤ −1.8, 0, 1.9) = the recursion on a line", share, exact, error)
    wrong = _distribution(short, misprinted=True)
    c.z_must_fail("without the bar (002)", share, wrong, error)


def _reached(slope: Tensor, shift: Tensor, variance: Tensor) -> tuple[float, float]:
    """Mean and variance after affine steps (from the last to the first) that start from N(0, 1)."""
    mean, spread = 0.0, 1.0
    for a, b, v in reversed(list(zip(slope.tolist(), shift.tolist(), variance.tolist(), strict=True))):
        mean, spread = a * mean + b, a * a * spread + v
    return mean, spread


def _misprinted(table: Ddpm) -> float:
    """The variance reached by steps without the bar, for data N(0.3, 0.5)."""
    bar = table.bar
    gain = (1 - bar).sqrt() / (0.5 * bar + 1 - bar)  # ε̂ = gain (z − √ᾱ 0.3)
    slope = (1 - table.beta / (1 - table.alpha).sqrt() * gain) / table.alpha.sqrt()
    return _reached(slope[1:], 0 * slope[1:], table.beta[1:])[1]


def _distribution(table: Ddpm, misprinted: bool = False) -> Tensor:
    """P(z_1 ≤ `POINTS`) of `models.wavy`, its reverse chain followed on an even line from N(0, 1) at z_T."""
    y, w = nodes.line(-7.0, 7.0, 701)
    density = nodes.log_normal(y, 0.0, 1.0).exp()
    mean = table.misprinted_mean if misprinted else table.mean_from_eps
    schedule = schedules.from_betas(table.betas)
    for t in range(table.T, 1, -1):
        at = schedule.at_index(torch.full((len(y),), t - 1))
        centre = mean(y, models.wavy_eps(Bumps().product(), y[:, None], at)[:, 0], t)
        spread = float(table.beta[t]) ** 0.5
        if t == 2:
            return torch.special.ndtr((POINTS - centre[:, None]) / spread).T @ (w * density)
        density = nodes.log_normal(y[:, None], centre, spread**2).exp() @ (w * density)
    raise AssertionError("a chain of at least two steps")


@check("sampling-last-step")
def _(c: Checks) -> None:
    chain = AffineChain()
    model = models.affine(chain)
    n = 40_000
    way = walk(n, model, seed=6)
    z_1, x = way.z[-1].double(), way.samples.double()
    eps_hat = chain.scale[0] * z_1 + chain.shift[0]
    c.holds(
        "nelbo's sample = (z_1 − β_1/√(1−ᾱ_1) ε̂)/√α_1, no noise", x - chain.table.mean_from_eps(z_1, eps_hat, 1), 1e-6
    )
    mean, cov = chain.backward()
    a, _, v = chain.step(1)
    shown = a * a * float(cov[1, 1])
    error = shown * math.sqrt(2 / (n - 1))
    c.holds("without the last noise the variance is that of p(x) less σ_1²", shown + v - float(cov[0, 0]), 1e-14)
    c.z("40,000 of nelbo's samples have that variance", float(x.var()), shown, error)
    c.z_must_fail("a draw of p(x): its variance", float(x.var()), float(cov[0, 0]), error)
    c.must_fail("a draw of p(x): the variance that is missing", float(cov[0, 0]) - shown, 0.01)
    c.z("and their mean is that of p(x)", float(x.mean()), float(mean[0]), math.sqrt(shown / n))
    # β̃_1 = 0 since ᾱ_0 = 1: the step that leads to data comes from a level s without noise, λ_s → ∞
    ends = torch.tensor([40.0, 2.0], dtype=torch.float64)
    data, first = (Levels(torch.zeros(1), ends[i : i + 1], Path.VP) for i in (0, 1))
    c.holds("β̃ has no noise where it leads to λ = 40", forward.posterior(data, first).variance, 1e-17)
    c.info("DDPM's linear table: the σ_1² that the last step leaves out", Ddpm.linear().beta[1])

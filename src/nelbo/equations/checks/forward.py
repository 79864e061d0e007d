"""Group B, first part: the schedule, the noising steps, and the marginals that they lead to."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.equations.cases import chain, generator, level, mixture, tensor
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import quadrature, schur
from nelbo.equations.short_chain import ALPHA, BAR, BETA, GIVEN_DATA, JOINT, T, kernel, log_kernels, marginal, points
from nelbo.maths import gaussian
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.levels import Path


@check("schedule-definitions")
def _(c: Checks) -> None:
    levels = chain()
    c.holds("nelbo's α² = the running product ᾱ_t", levels.alpha.square() - tensor(BAR), 1e-14)
    c.holds("and σ² = 1 − ᾱ_t", levels.sigma.square() - tensor(1 - BAR), 1e-14)
    c.holds("α_t = 1 − β_t step by step", [kernel(t)[0] ** 2 - ALPHA[t] for t in range(1, T + 1)], 1e-14)
    long = schedules.linear()
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    alpha = long.at_index(torch.arange(1000)).alpha.square()
    c.holds("DDPM's linear table, 1000 levels, relative", alpha / tensor(bars) - 1, 1e-12)
    c.holds("the same from ᾱ itself", schedules.from_alphas_cumprod(bars).table - long.table, 1e-9)
    constant = np.full(T, np.prod(ALPHA[1:]))
    c.must_fail("001: ∏_{t=1}^T α_t, one number for every t", constant - levels.alpha[1:].square().numpy(), 0.4)
    c.holds("the misprint cannot be seen at t = T", constant[-1] - float(levels.alpha[-1]) ** 2, 1e-14)
    c.info("ᾱ_1000 of DDPM's linear table", alpha[-1])


@check("forward-kernel")
def _(c: Checks) -> None:
    scales, variances = (np.concatenate(v) for v in zip(*(kernel(t) for t in range(1, T + 1)), strict=True))
    c.holds("nelbo's kernel: scale √(1 − β_t)", scales - np.sqrt(1 - BETA[1:]), 1e-14)
    c.holds("and variance β_t, t = 1 included", variances - BETA[1:], 1e-14)
    c.holds("unit variance is preserved", scales**2 + variances - 1, 1e-14)
    x, weights = quadrature.legendre(200, -8, 8)
    density = gaussian.log_density(tensor(x), tensor(scales[1] * 1.3), tensor(variances[1])).exp().numpy()
    c.holds("the kernel has mass 1", weights @ density - 1, 1e-12)
    n = 100_000
    start, eps = torch.full((n, 1), 1.3, dtype=torch.float64), tensor(generator(8).standard_normal((n, 1)))
    draws = forward.noised(start, eps, chain()[1:2].expand(n))
    c.z("draws of the first step: mean", draws.mean(), np.sqrt(0.9) * 1.3, np.sqrt(0.1 / n))
    c.z("draws of the first step: variance", draws.var(), 0.1, 0.1 * np.sqrt(2 / n))
    c.z_must_fail("003, radical lost: mean (1 − β) x", draws.mean(), 0.9 * 1.3, np.sqrt(0.1 / n))
    variance = 1.0
    for _ in range(2000):
        variance = (1 - BETA[2]) ** 2 * variance + BETA[2]
    c.must_fail("003, radical lost: the stationary variance is 1", variance - 1, 0.4)
    c.holds("it is 1/(2 − β)", variance - 1 / (2 - BETA[2]), 1e-12)


@check("forward-chain-product")
def _(c: Checks) -> None:
    x = points(40, 9)
    joint = schur.log_density(x[:, 1:] - x[:, :1] * np.sqrt(BAR[1:]), GIVEN_DATA[1:, 1:])
    c.holds("sum of nelbo's log kernels = the joint by its covariance", log_kernels(x) - joint, 1e-10)
    i, j = np.minimum.outer(range(1, T + 1), range(1, T + 1)), np.maximum.outer(range(1, T + 1), range(1, T + 1))
    c.holds(
        "Cov(x_s, x_t | x_0) = √(ᾱ_t/ᾱ_s) (1 − ᾱ_s)",
        np.sqrt(BAR[j] / BAR[i]) * (1 - BAR[i]) - GIVEN_DATA[1:, 1:],
        1e-15,
    )
    marginals = sum(quadrature.log_normal(x[:, t], np.sqrt(BAR[t]) * x[:, 0], 1 - BAR[t]) for t in range(1, T + 1))
    c.must_fail("the product of the marginals q(x_t | x_0) instead", log_kernels(x) - marginals, 0.5)


@check("reparam-step")
def _(c: Checks) -> None:
    y = np.linspace(-3, 4, 401)
    for t in (1, 3):
        scale, variance = kernel(t)
        eps = (y - scale * 1.3) / np.sqrt(variance)
        pushed = quadrature.normal(eps, 0.0, 1.0) / np.sqrt(variance)
        exact = quadrature.normal(y, np.sqrt(ALPHA[t]) * 1.3, BETA[t])
        c.holds(f"t = {t}: the affine image of standard noise has the kernel's density", pushed - exact, 1e-13)
    eps = tensor(generator(10).normal(size=(50, 2)))
    one, start = chain()[1:2].expand(50), torch.full((50, 2), 1.3, dtype=torch.float64)
    c.holds(
        "nelbo's draw of step 1", forward.noised(start, eps, one) - (np.sqrt(0.9) * 1.3 + np.sqrt(0.1) * eps), 1e-15
    )
    wrong = quadrature.normal((y - np.sqrt(ALPHA[3]) * 1.3) / BETA[3], 0.0, 1.0) / BETA[3]
    c.must_fail("noise scaled by 1 − α_t, without the root", wrong - exact, 0.1)


@check("gaussian-merge")
def _(c: Checks) -> None:
    y, u, weights = np.linspace(-4, 4, 81), *quadrature.legendre(600, -12, 12)
    convolution = (weights * quadrature.normal(u, 0.0, 0.49)) @ quadrature.normal(y, u[:, None], 1.21)
    c.holds(
        "the convolution of N(0, s1²) and N(0, s2²) is N(0, s1² + s2²)",
        convolution - quadrature.normal(y, 0.0, 1.7),
        1e-13,
    )
    oracle, data = mixture()
    t = level(0.4)
    scale, variance = float(t.alpha), float(t.sigma) ** 2
    noised = data.noised(t).log_prob(tensor(y)[:, None]).exp().numpy()
    blurred = (weights * np.exp(oracle.log_prob(u))) @ quadrature.normal(y, scale * u[:, None], variance)
    c.holds("nelbo's noised mixture = the convolution", noised - blurred, 1e-12)
    c.must_fail("standard deviations added instead", convolution - quadrature.normal(y, 0.0, 1.8**2), 0.05)
    eps = generator(11).standard_normal(100_000)
    total = 1.8**2
    c.z_must_fail(
        "one noise used twice: variance s1² + s2²", (0.7 * eps + 1.1 * eps).var(), 1.7, total * np.sqrt(2 / 1e5)
    )


@check("reparam-two-step")
def _(c: Checks) -> None:
    levels = chain()
    for t in (2, 3, 4):
        jump = forward.transition(levels[t - 2 : t - 1], levels[t : t + 1])
        both = [
            float(jump.alpha) - np.sqrt(ALPHA[t] * ALPHA[t - 1]),
            float(jump.variance) - (1 - ALPHA[t] * ALPHA[t - 1]),
        ]
        c.holds(f"t = {t}: nelbo's two-step kernel", both, 1e-14)
        (a_1, v_1), (a_2, v_2) = kernel(t - 1), kernel(t)
        merged = [a_1 * a_2 - jump.alpha.numpy(), a_2**2 * v_1 + v_2 - jump.variance.numpy()]
        c.holds(f"t = {t}: two of its steps, merged", merged, 1e-14)
    gain, rest = schur.conditional(JOINT, (3,), (1,))
    jump = forward.transition(levels[1:2], levels[3:4])
    c.holds(
        "q(x_3 | x_1) by Schur complement", [gain[0, 0] - float(jump.alpha), rest[0, 0] - float(jump.variance)], 1e-14
    )
    lost = (1 - ALPHA[2]) + (1 - ALPHA[3])
    c.must_fail("the older noise not scaled by α_t: its variance", lost - float(jump.variance), 0.02)


@check("reparam-marginal")
def _(c: Checks) -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    levels = schedules.linear().at_index(torch.arange(1000))
    one, zero = torch.ones(1000, 1, dtype=torch.float64), torch.zeros(1000, 1, dtype=torch.float64)
    scale, deviation = (forward.noised(a, b, levels)[:, 0].numpy() for a, b in ((one, zero), (zero, one)))
    mean, variance, means, variances = 1.0, 0.0, [], []
    for beta in betas:
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        means.append(mean)
        variances.append(variance)
    c.holds("nelbo's one-shot scale = 1000 steps of the recursion", scale - means, 1e-13)
    c.holds("and its variance", deviation**2 - variances, 1e-13)
    c.must_fail("bars dropped at t = 500: the scale", np.sqrt(1 - betas[499]) - scale[499], 0.5)
    c.must_fail("bars dropped at t = 500: the variance", betas[499] - deviation[499] ** 2, 0.5)
    c.holds("a lost bar cannot be seen at t = 1", np.sqrt(1 - betas[0]) - scale[0], 1e-14)


@check("forward-marginal")
def _(c: Checks) -> None:
    for t in range(1, T + 1):
        gain, rest = schur.conditional(JOINT, (t,), (0,))
        scale, variance = marginal(t)
        c.holds(
            f"t = {t}: nelbo's q(x_t | x_0) by Schur complement", [scale - gain[0, 0], variance - rest[0, 0]], 1e-14
        )
    y, u, weights = np.linspace(-3, 3, 31), *quadrature.legendre(300, -9, 9)
    (m_2, v_2), (m_3, v_3), (step, noise) = marginal(2), marginal(3), kernel(3)
    through = (weights * quadrature.normal(u, m_2 * 0.9, v_2)) @ quadrature.normal(y, step * u[:, None], noise)
    c.holds("Chapman-Kolmogorov 2 → 3 by quadrature", through - quadrature.normal(y, m_3 * 0.9, v_3), 1e-13)
    c.must_fail("003, radical lost: mean ᾱ_t x_0", through - quadrature.normal(y, BAR[3] * 0.9, v_3), 0.05)
    factor = generator(12).normal(size=(2, 2))
    covariance = start = factor @ factor.T + 0.3 * np.eye(2)
    for t in range(1, T + 1):
        scale, variance = kernel(t)
        covariance = scale**2 * covariance + variance * np.eye(2)
    scale, variance = marginal(T)
    c.holds("in 2-D: Cov x_T = ᾱ_T Cov x_0 + (1 − ᾱ_T) I", covariance - scale**2 * start - variance * np.eye(2), 1e-14)


@check("diffusion-kernel-jump")
def _(c: Checks) -> None:
    oracle, _ = mixture()
    n, draws = 100_000, generator(13)
    x = tensor(oracle.sample(n, draws))[:, None]
    levels = chain()
    jump = forward.noised(x, tensor(draws.standard_normal((n, 1))), levels[3:4].expand(n))[:, 0].numpy()
    steps = x[:, 0].numpy()
    for t in (1, 2, 3):
        scale, variance = kernel(t)
        steps = scale * steps + np.sqrt(variance) * draws.standard_normal(n)
    points = np.linspace(-2, 2, 9)
    exact = oracle.noised(np.sqrt(BAR[3]), 1 - BAR[3]).cdf(points)
    error = np.sqrt(exact * (1 - exact) / n)
    c.z("nelbo's one-shot draws: distribution function at 9 points", (jump[:, None] <= points).mean(0), exact, error)
    c.z("draws through every step: the same", (steps[:, None] <= points).mean(0), exact, error)
    bare = np.sqrt(ALPHA[3]) * x.numpy() + np.sqrt(BETA[3]) * draws.standard_normal((n, 1))
    c.z_must_fail("002: one shot with α_t for ᾱ_t", (bare <= points).mean(0), exact, error)


@check("forward-transition-general")
def _(c: Checks) -> None:
    for path in Path:
        levels = level(np.linspace(6, -6, 7), path, n=7)
        s, t, u = (
            torch.tensor(v)
            for v in zip(*((i, j, k) for k in range(7) for j in range(k) for i in range(j)), strict=True)
        )
        first, second, both = (forward.transition(levels[a], levels[b]) for a, b in ((s, t), (t, u), (s, u)))
        composed = torch.cat(
            [
                first.alpha * second.alpha / both.alpha - 1,
                (second.alpha.square() * first.variance + second.variance) / both.variance - 1,
            ]
        )
        c.holds(f"{path.value}: steps s → t → u compose, 35 triples, relative", composed, 1e-13)
        direct = levels[u].sigma.square() - (levels[u].alpha / levels[s].alpha).square() * levels[s].sigma.square()
        c.holds(f"{path.value}: variance σ_t² − α²_t|s σ_s², relative", direct / both.variance - 1, 1e-11)
        c.must_fail(
            f"{path.value}: the scale left unsquared",
            levels[u].sigma.square() - levels[u].alpha / levels[s].alpha * levels[s].sigma.square() - both.variance
            if path is not Path.VE
            else both.variance - levels[u].sigma.square(),
            0.01,
        )
    c.holds(
        "DDPM is the case of neighbours",
        [[k[0] - np.sqrt(ALPHA[t]), k[1] - BETA[t]] for t in range(1, T + 1) for k in [kernel(t)]],
        1e-15,
    )


@check("forward-limit-prior")
def _(c: Checks) -> None:
    prior, table = GaussianPrior(), schedules.linear()
    x, weights = quadrature.legendre(400, -12, 12)
    value = tensor([[0.7]])
    for label, t in (("T = 4", chain()[-1:]), ("λ = −3", level(-3.0))):
        q = float(t.alpha) * 0.7, float(t.sigma) ** 2
        integral = weights @ (
            quadrature.normal(x, *q) * (quadrature.log_normal(x, *q) - quadrature.log_normal(x, 0.0, 1.0))
        )
        c.holds(f"{label}: nelbo's prior term = ∫ q log(q/p)", float(prior.kl(value, t)) - integral, 1e-12)
    bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[99, 299, 599, 999]]
    closed = 0.5 * (bars - bars - np.log1p(-bars))
    ones = torch.ones(4, 1, dtype=torch.float64)
    kl = prior.kl(ones, table.at_index(torch.tensor([99, 299, 599, 999])))
    c.holds(
        "nelbo's prior term = the closed form, DDPM's linear table, |x_0| = 1, relative", kl / tensor(closed) - 1, 1e-9
    )
    c.true("it falls along the chain", (kl.diff() < 0).all(), kl[-1])
    c.holds("and is below 10⁻⁴ nats at T = 1000", kl[-1], 1e-4)
    c.must_fail("a chain of four steps does not reach the prior", float(prior.kl(tensor([[1.0]]), chain()[-1:])), 0.05)

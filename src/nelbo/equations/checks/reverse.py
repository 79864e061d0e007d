"""Group C: the reverse process."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.equations.cases import alpha_bars, chain, generator, tensor
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import quadrature, schur
from nelbo.maths import gaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction
from nelbo.sampling.draw import Trajectory, sample
from nelbo.workers import Run

BETAS = (0.2, 0.4, 0.5)
SPREAD = 0.7


def affine_model() -> DiffusionModel:
    """Three levels with the exact denoiser of N(0, 0.7), prior N(0, 1): every reverse mean is a multiple of z_t."""
    data = GaussianData(tensor([0.0]), tensor([[SPREAD]]))
    return data.model(schedules.from_betas(BETAS), grids.full(), exact_ends=False)


def reverse_covariance() -> np.ndarray:
    """Cov (z_1, z_2, z_3) of that model, in numpy's letters: the reverse chain run from N(0, 1)."""
    bars, covariance = alpha_bars(BETAS), np.zeros((3, 3))
    covariance[2, 2] = 1.0
    for t in (3, 2):
        a, a_s, beta = bars[t], bars[t - 1], BETAS[t - 1]
        gain = np.sqrt(a) * SPREAD / (a * SPREAD + 1 - a)
        slope = np.sqrt(1 - beta) * (1 - a_s) / (1 - a) + np.sqrt(a_s) * beta / (1 - a) * gain
        i = t - 2
        covariance[i, i + 1 :] = covariance[i + 1 :, i] = slope * covariance[i + 1, i + 1 :]
        covariance[i, i] = slope**2 * covariance[i + 1, i + 1] + beta * (1 - a_s) / (1 - a)
    return covariance


def log_reverse_kernels(model: DiffusionModel, z: np.ndarray) -> np.ndarray:
    """log p(z_3) + Σ log p(z_{j−1} | z_j) by nelbo's steps and density at the rows of z (n, 3)."""
    levels, n = model.levels(), len(z)
    total = quadrature.log_normal(z[:, 2], 0.0, 1.0)
    for j in (2, 1):
        s, t = levels[j - 1 : j].expand(n), levels[j : j + 1].expand(n)
        here = tensor(z[:, j : j + 1])
        mean, variance = model.reverse.step(here, model.predict(here, t), s, t)
        total = total + gaussian.log_density(tensor(z[:, j - 1 : j]), mean, variance)[:, 0].numpy()
    return total


@check("reverse-joint")
def _(c: Checks) -> None:
    model, covariance = affine_model(), reverse_covariance()
    z = generator(20).normal(size=(50, 3))
    ours = log_reverse_kernels(model, z)
    c.holds(
        "nelbo's kernels multiplied up = the joint by its covariance", ours - schur.log_density(z, covariance), 1e-10
    )
    nodes, weights = quadrature.legendre(60, -7, 7)
    cube = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), -1).reshape(-1, 3)
    volume = np.einsum("i,j,k->ijk", weights, weights, weights).ravel()
    c.holds("the joint has mass 1", volume @ np.exp(log_reverse_kernels(model, cube)) - 1, 1e-8)
    n = 20_000
    trail = sample(model, n, trajectory=True, run=Run(seed=5))
    assert isinstance(trail, Trajectory)
    paths = trail.z[:, :, 0].flip(0).numpy()
    products = paths[:, None] * paths[None]
    c.z("nelbo's sampler: every second moment", products.mean(-1), covariance, products.std(-1) / np.sqrt(n))
    # 002: the product of p(x_{t+1} | x_t), which exists for t = 1, 2 only and leaves x_0 out.
    printed = quadrature.log_normal(z[:, 2], 0.0, 1.0)
    for t in (1, 2):
        slope = covariance[t - 1, t] / covariance[t, t]
        rest = covariance[t - 1, t - 1] - slope * covariance[t - 1, t]
        printed = printed + quadrature.log_normal(z[:, t], slope * z[:, t - 1], rest)
    c.must_fail("002: the kernels as p(x_{t+1} | x_t)", ours - printed, 0.5)
    independent = sum(quadrature.log_normal(z[:, i], 0.0, covariance[i, i]) for i in range(3))
    c.must_fail("the product of the marginals instead", ours - independent, 0.5)


@check("reverse-transition")
def _(c: Checks) -> None:
    levels, x_hat, z = chain(), tensor([[0.6, -1.4]]), tensor([[-1.1, 0.4]])
    joint = schur.chain_covariance((0.1, 0.2, 0.3, 0.35), 1.3)
    nodes, weights = quadrature.legendre(200, -9, 9)
    for t in (2, 3, 4):
        gain, rest = schur.conditional(joint, (t - 1,), (0, t))
        s_level, t_level = levels[t - 1 : t], levels[t : t + 1]
        mean, tilde = Reverse(BetaTilde()).step(z, Prediction(x_hat), s_level, t_level)
        _, beta = Reverse(Beta()).step(z, Prediction(x_hat), s_level, t_level)
        c.holds(f"t = {t}: nelbo's mean = the posterior mean at x̂", mean - (gain[0, 0] * x_hat + gain[0, 1] * z), 1e-14)
        c.holds(f"t = {t}: its variance β̃_t by Schur complement", tilde - rest[0, 0], 1e-14)
        c.holds(f"t = {t}: or β_t", beta - (0.1, 0.2, 0.3, 0.35)[t - 1], 1e-14)
    density = gaussian.log_density(tensor(nodes), mean[0, 0], tilde[0, 0]).exp().numpy()
    c.holds("the kernel has mass 1", weights @ density - 1, 1e-12)
    c.holds("and the mean that was asked for", weights @ (density * nodes) - float(mean[0, 0]), 1e-12)
    c.must_fail("β_t for β̃_t at t = 4", beta - tilde, 0.05)
    clipped = Reverse(BetaTilde(), Clip(-1.0, 1.0))
    inside, _ = clipped.step(z, clipped.clipped(Prediction(x_hat)), s_level, t_level)
    c.holds("clipping acts on x̂ before the mean", inside - (gain[0, 0] * x_hat.clamp(-1, 1) + gain[0, 1] * z), 1e-14)
    later, _ = schur.conditional(joint, (4,), (3,))
    c.must_fail("002: the law printed for x_{t+1}", mean - later[0, 0] * z, 0.1)
    # With the best x̂ the mean is E[x_{t−1} | x_t] itself.
    data = GaussianData(tensor([0.0]), tensor([[1.3]]))
    here, t_level = tensor([[0.9]]), levels[3:4]
    best, _ = Reverse(BetaTilde()).step(here, data.denoiser()(here, t_level), levels[2:3], t_level)
    c.holds(
        "the exact denoiser gives E[x_{t−1} | x_t]", best - schur.conditional(joint, (2,), (3,))[0][0, 0] * 0.9, 1e-14
    )


@check("prior-normal")
def _(c: Checks) -> None:
    prior = GaussianPrior()
    n = 50_000
    eps = tensor(generator(21).standard_normal((n, 2)))
    draws = prior.draw(eps)
    c.holds("nelbo's draw of the prior is its standard noise", draws - eps, 0.0)
    c.z("its mean", draws.mean(0), 0.0, 1 / np.sqrt(n))
    c.z("its mean square, d = 2", draws.square().sum(1).mean(), 2.0, 2 / np.sqrt(n))
    c.z_must_fail("a prior of variance 1.1", draws.square().sum(1).mean(), 2.2, 2.2 / np.sqrt(n))
    nodes, weights = quadrature.legendre(160, -10, 10)
    mass = gaussian.log_density(tensor(nodes), tensor(0.0), tensor(1.0)).exp().numpy() * weights
    c.holds("its mass in 2-D is 1", mass.sum() ** 2 - 1, 1e-12)
    c.holds("E ‖x‖² = d", 2 * (mass @ nodes**2) * mass.sum() - 2, 1e-11)
    levels = chain()
    data = GaussianData(tensor([0.0]), tensor([[1.0]]))
    marginals = torch.stack([data.prior(levels[t]).covariance for t in range(1, 5)])
    c.holds("the stationary law of every forward kernel: N(0, 1) data stay N(0, 1)", marginals - 1, 1e-14)
    wide = GaussianData(tensor([0.0]), tensor([[2.0]]))
    c.must_fail("data of variance 2 do not", wide.prior(levels[1]).covariance - 2.0, 0.05)
    c.holds("its KL from itself at ᾱ = 0 is 0", prior.kl(tensor([[3.0]]), chain((0.5, 1 - 1e-16))[-1:]), 1e-14)

"""Levels of variational diffusion: SNR, the posterior between any two levels, and the two ends of the chain."""

from __future__ import annotations

import itertools
import math

import torch

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.model.decoder import Categorical
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path


def levels(logsnr: list[float], path: Path = Path.VP) -> Levels:
    """Levels at these log-SNR."""
    values = torch.tensor(logsnr, dtype=torch.float64)
    return Levels(torch.linspace(0, 1, len(values), dtype=torch.float64), values, path)


@check("snr-definition")
def _(c: Checks) -> None:
    table = Ddpm()
    ours = schedules.from_betas(table.betas).at_index(torch.arange(4))
    c.holds("nelbo's α² = ᾱ_t as a plain product of 1 − β", ours.alpha.square() - table.bar[1:], 1e-15)
    c.holds("its σ² = 1 − ᾱ_t", ours.sigma.square() - (1 - table.bar[1:]), 1e-15)
    c.holds("its λ = log SNR", ours.logsnr - table.snr[1:].log(), 1e-14)
    c.true("SNR falls at every step; the least fall of λ", (ours.logsnr.diff() < 0).all(), -ours.logsnr.diff().max())
    logsnr = torch.linspace(-12, 12, 25, dtype=torch.float64)
    for path in Path:
        at = Levels(0 * logsnr, logsnr, path)
        c.holds(
            f"{path.name}: α²/σ² = e^λ, relative", at.alpha.square() / at.sigma.square() * (-logsnr).exp() - 1, 1e-13
        )
    vp, flow = Levels(0 * logsnr, logsnr, Path.VP), Levels(0 * logsnr, logsnr, Path.FLOW)
    c.holds(
        "VP: α² = 1/(1 + e^−λ), σ² = 1/(1 + e^λ)",
        torch.stack([vp.alpha.square() - 1 / (1 + (-logsnr).exp()), vp.sigma.square() - 1 / (1 + logsnr.exp())]),
        1e-15,
    )
    c.holds("flow: α + σ = 1", flow.alpha + flow.sigma - 1, 1e-15)
    c.must_fail("SNR as α/σ: log SNR off by half", (vp.alpha / vp.sigma).log() - logsnr, 1.0)
    whole = schedules.linear(1000).table
    c.info("λ of DDPM's linear table at t = 1", whole[0])
    c.info("at t = 1000", whole[-1])


@check("vdm-posterior")
def _(c: Checks) -> None:
    for path in Path:
        s, t = levels([3.1, 1.4, -0.2, 5.0], path), levels([2.2, -1.9, -0.3, -6.0], path)
        alpha_s, alpha_t, var_s, var_t = s.alpha, t.alpha, s.sigma.square(), t.sigma.square()
        ratio = alpha_t / alpha_s
        ours, kernel = forward.posterior(s, t), forward.transition(s, t)
        worst = []
        for k in range(4):
            # (x, z_s, z_t) with x ~ N(0, 1): x and z_s from the marginal, z_t by one kernel more
            one, noise, more = 1.0, float(var_s[k]), float(var_t[k] - ratio[k] ** 2 * var_s[k])
            a, r = float(alpha_s[k]), float(ratio[k])
            lift = torch.tensor([[1, 0, 0], [a, 1, 0], [r * a, r, 1]], dtype=torch.float64)
            cov = lift * torch.tensor([one, noise, more], dtype=torch.float64) @ lift.T
            known = torch.linalg.inv(cov[[0, 2]][:, [0, 2]])
            gain = cov[1, [0, 2]] @ known
            variance = cov[1, 1] - gain @ cov[[0, 2], 1]
            computed = torch.stack([ours.x_coefficient[k], ours.z_coefficient[k], ours.variance[k], kernel.variance[k]])
            worst.append(computed - torch.stack([gain[0], gain[1], variance, nodes.number(more)]))
        c.holds(f"{path.name}: nelbo's coefficients and variances = the Schur complement's", torch.stack(worst), 1e-13)
        lost = alpha_s * kernel.variance - ours.x_coefficient
        c.must_fail(f"{path.name}: α_s σ²_t|s without 1/σ_t² as coefficient of x", lost, 0.01)
    table = Ddpm()
    schedule = schedules.from_betas(table.betas)
    for t in (2, 3, 4):
        q = forward.posterior(schedule.at_index(torch.tensor(t - 2)), schedule.at_index(torch.tensor(t - 1)))
        exact = torch.tensor(table.posterior(t), dtype=torch.float64)
        c.holds(f"on a table of β, t={t}: the product of DDPM's two densities", torch.stack(list(q)) - exact, 1e-14)


@check("vdm-prior")
def _(c: Checks) -> None:
    generator = torch.Generator().manual_seed(10)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    for path in (Path.VP, Path.FLOW):
        last = levels([-1.2], path).expand(6)
        ours = GaussianPrior().kl(x, last)
        alpha, sigma = float(last.alpha[0]), float(last.sigma[0])
        q = torch.distributions.Normal(alpha * x, sigma)
        standard = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), 1.0)
        exact = torch.distributions.kl_divergence(q, standard).sum(1)
        closed = 0.5 * (alpha**2 * x.square().sum(1) + 3 * sigma**2 - 3 - 3 * 2 * math.log(sigma))
        c.holds(f"{path.name}: nelbo's prior term in 3 dimensions", ours - exact, 1e-12)
        c.holds(f"{path.name}: = the closed form", ours - closed, 1e-12)
        swapped = torch.distributions.kl_divergence(standard, q).sum(1)
        c.must_fail(f"{path.name}: the divergence the other way round", swapped - exact, 0.02)
    eps, w = nodes.normal(40)
    z = alpha * x[..., None] + sigma * eps
    ratio = nodes.log_normal(z, alpha * x[..., None], sigma**2) - nodes.log_normal(z, 0.0, 1.0)
    c.holds("= the integral of q log q/p, coordinate by coordinate", ours - (ratio @ w).sum(1), 1e-12)
    wide = GaussianPrior(0.3, 4.0).kl(x, last)
    apart = torch.distributions.kl_divergence(q, torch.distributions.Normal(nodes.number(0.3), 2.0)).sum(1)
    c.holds("another normal prior, N(0.3, 4)", wide - apart, 1e-12)


@check("vdm-reconstruction")
def _(c: Checks) -> None:
    domain = DataDomain((1,), 8)
    lattice = torch.linspace(-1, 1, 8, dtype=torch.float64)
    eps, w = nodes.normal(80)
    costs = []
    for gamma in (0.0, -2.0, -4.0, -6.0, -8.0, -10.0):
        at = levels([-gamma]).expand(8 * len(eps))
        alpha, sigma = float(at.alpha[0]), float(at.sigma[0])
        z = (alpha * lattice[:, None] + sigma * eps).reshape(-1, 1)
        target = torch.arange(8).repeat_interleave(len(eps))[:, None]
        log_pmf = Categorical().log_pmf(z, at, None, domain)
        noise = nodes.log_normal(z, alpha * lattice, sigma**2)
        joint = noise.exp()
        posterior = joint / joint.sum(1, keepdim=True)
        if gamma == -4.0:
            c.holds("nelbo's masses over the 8 levels sum to one", log_pmf.exp().sum(-1) - 1, 1e-13)
            c.holds("= q(z|x)/Σ q(z|x'), Bayes' rule with a flat law of x", log_pmf[:, 0].exp() - posterior, 1e-12)
            c.must_fail("without the sum: q(z|x) itself is no mass", joint.sum(1) - 1, 0.1)
        nll = Categorical().nll(target, z, at, None, domain).reshape(8, -1)
        costs.append(float((nll @ w).mean()))
        c.info(f"γ_0 = {gamma:g}: E −log p(x|z_0) in nats", costs[-1])
    falls = all(b < a for a, b in itertools.pairwise(costs))
    c.true("the cost falls to nothing as SNR(0) grows; at γ_0 = −10", falls and costs[-1] < 1e-12, costs[-1])
    h = 1e-4
    up, down = (
        models.reconstruction(models.affine(AffineChain(scale=(0.25 + d, 0.45, 0.55, 0.75))), 0.8) for d in (h, -h)
    )
    c.must_fail("“no trainable parameters” of a decoder p_θ that calls the network (004)", (up - down) / (2 * h), 0.01)

"""The bound in the letters of variational diffusion models: its three terms, its sign, its average over data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.bumps import Bumps
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.maths import gaussian
from nelbo.process import forward
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import BoundObjective

XS = (-1.3, 0.2, 1.7)
CHAIN = AffineChain()
TWO = Ddpm((0.3, 0.5))
"""Two steps: short enough to add up a mixture's paths one by one."""


@check("vdm-elbo")
def _(c: Checks) -> None:
    model, wavy = models.affine(CHAIN), models.wavy(TWO)
    for x in XS:
        ours, evidence = models.bound(model, x), -CHAIN.log_prob(x)
        c.holds(
            f"x={x}: nelbo's three terms = E_q log q(z|x)/p(x,z) of the joint Gaussians",
            ours - CHAIN.negative_elbo(x),
            1e-11,
        )
        c.true(f"x={x}: no less than −log p(x); the slack in nats", ours >= evidence, ours - evidence)
        paths, exact = _paths(wavy, x)
        c.holds(f"x={x}: a mixture and a network that is not affine, path by path", models.bound(wavy, x) - paths, 1e-9)
        c.true(f"x={x}: no less than −log p(x) of that model", paths >= exact, paths - exact)
    parts = [models.reconstruction(model, 0.2), models.prior(model, 0.2)]
    chain = models.bound(model, 0.2) - sum(parts)
    flipped = -parts[0] + parts[1] + chain
    c.must_fail("plus signs on both divergences: it exceeds log p(x) by", max(0.0, flipped - CHAIN.log_prob(0.2)), 0.05)
    c.must_fail(
        "the display read as a loss: off from −ELBO by", -models.bound(model, 0.2) - CHAIN.negative_elbo(0.2), 0.5
    )
    batch = torch.tensor(XS, dtype=torch.float64).repeat(300)[:, None]
    criterion = Criterion(BoundObjective(reconstruction_share=1.0))
    terms = [criterion(model, Batch(batch, 7, k)) for k in range(30)]
    losses = torch.stack([v["diffusion"] + v["reconstruction"] + v["prior"] for v in terms]).double()
    exact = sum(CHAIN.negative_elbo(x) for x in XS) / 3 / math.log(2)
    c.z("nelbo's training loss is an unbiased draw of it, in bits", losses.mean(), exact, nodes.standard_error(losses))


def _paths(model: models.DiffusionModel, x: float, n: int = 60) -> tuple[float, float]:
    """−ELBO of a chain of two steps as one sum of log q(z|x)/p(x,z) over paths (z_1, z_2), and −log p(x)."""
    eps, w = nodes.normal(n)
    first, second = torch.cartesian_prod(eps, eps).T
    weight = torch.cartesian_prod(w, w).prod(1)
    alpha, beta = TWO.alpha, TWO.beta
    z_1 = alpha[1].sqrt() * x + beta[1].sqrt() * first
    z_2 = alpha[2].sqrt() * z_1 + beta[2].sqrt() * second
    log_q = nodes.log_normal(z_1, alpha[1].sqrt() * x, beta[1]) + nodes.log_normal(z_2, alpha[2].sqrt() * z_1, beta[2])
    log_p = nodes.log_normal(z_2, 0.0, 1.0) + _log_step(z_1, z_2, 2) + _log_step(torch.full_like(z_1, x), z_1, 1)
    y, v = nodes.line(-8.0, 8.0, 401)
    density = (nodes.log_normal(y, 0.0, 1.0).exp() * v) @ _log_step(y, y[:, None], 2).exp()
    evidence = (density * v) @ _log_step(torch.full_like(y, x), y, 1).exp()
    return float(weight @ (log_q - log_p)), -float(evidence.log())


def _log_step(to: Tensor, z: Tensor, t: int) -> Tensor:
    """log p(z_{t−1} = to | z_t = z) of `models.wavy` on two steps, by the mean in terms of the noise."""
    at = models.schedules.from_betas(TWO.betas).at_index(torch.full((z.numel(),), t - 1))
    eps_hat = models.wavy_eps(Bumps().product(), z.reshape(-1, 1), at).reshape(z.shape)
    return nodes.log_normal(to, TWO.mean_from_eps(z, eps_hat, t), TWO.beta[t])


@check("vdm-joint-kl")
def _(c: Checks) -> None:
    (q_mean, q_cov), (p_mean, p_cov) = CHAIN.forward(), CHAIN.backward()
    exact = CHAIN.joint_divergence()
    c.holds(
        "nelbo's divergence of the two joint Gaussians",
        gaussian.kl_multivariate(q_mean, q_cov, p_mean, p_cov) - exact,
        1e-12,
    )
    c.true("at least 0; in nats", exact >= 0, exact)
    generator = torch.Generator().manual_seed(8)
    path = q_mean + torch.randn(40_000, 5, dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(q_cov).T
    ratio = _log_ratio(path)
    q, p = (torch.distributions.MultivariateNormal(m, v) for m, v in (CHAIN.forward(), CHAIN.backward()))
    known = q.log_prob(path) - p.log_prob(path)
    c.holds("log q/p of a path made of nelbo's kernels and steps = that of the joint laws", ratio - known, 1e-10)
    c.z(
        "40,000 paths: the mean of that log q/p",
        ratio.mean(),
        exact,
        nodes.standard_error(ratio),
    )
    eps, w = nodes.normal(10)
    x = CHAIN.mean + CHAIN.variance**0.5 * eps
    averages = []
    for z in ((0.0, 0.0, 0.0, 0.0), (1.0, -1.0, 0.5, 0.2)):
        paths = torch.cat([x[:, None], torch.tensor(z, dtype=torch.float64).expand(len(x), 4)], 1)
        averages.append(float(_log_ratio(paths) @ w))
        c.info(f"the average over q(x) alone, as printed, at z = {z}", averages[-1])
    c.must_fail("the average over q(x) alone (004) as one number: it depends on z", averages[0] - averages[1], 0.5)


def _log_ratio(path: Tensor) -> Tensor:
    """log q(x, z_{1:T})/p(x, z_{1:T}) of paths (n, T + 1): the library's kernels, steps, decoder and prior."""
    model, n = models.affine(CHAIN), len(path)
    x, z_1, z_last = path[:, :1], path[:, 1:2], path[:, -1:]
    first = models.level(model, 1, n)
    total = nodes.log_normal(x, CHAIN.mean, CHAIN.variance)
    total = total + gaussian.log_density(z_1, first.alpha[:, None] * x, first.sigma.square()[:, None])
    total = total + model.decoder.nll(x, z_1, first, model.predict(z_1, first), model.domain)[:, None]
    total = total - nodes.log_normal(z_last, 0.0, 1.0)
    for j in range(2, path.shape[1]):
        s, t = models.level(model, j - 1, n), models.level(model, j, n)
        z_s, z_t = path[:, j - 1 : j], path[:, j : j + 1]
        kernel = forward.transition(s, t)
        mean, variance = model.reverse.step(z_t, model.predict(z_t, t), s, t)
        total = total + gaussian.log_density(z_t, kernel.alpha[:, None] * z_s, kernel.variance[:, None])
        total = total - gaussian.log_density(z_s, mean, variance)
    return total[:, 0]


@check("vdm-sign")
def _(c: Checks) -> None:
    model = models.affine(CHAIN)
    node, w = nodes.normal(8)
    xs = CHAIN.mean + CHAIN.variance**0.5 * node
    loss = sum(float(p) * models.bound(model, float(x), 20) for x, p in zip(xs, w, strict=True))
    entropy = float(gaussian.entropy(torch.tensor(CHAIN.variance, dtype=torch.float64)))
    divergence = CHAIN.joint_divergence()
    c.holds("the joint divergence = nelbo's bound averaged over data − H(q(x))", loss - entropy - divergence, 1e-11)
    c.info("the first display, a divergence", divergence)
    c.info("the second display, an ELBO", -loss)
    c.info("H(q(x))", entropy)
    c.must_fail("one letter for both (004): first less second", divergence + loss, 0.5)
    c.must_fail("equal after a change of sign: first less minus the second", divergence - loss, 0.5)
    wavy = models.wavy(TWO)
    for x in XS:
        bound, (_, exact) = models.bound(wavy, x), _paths(wavy, x)
        c.true(f"a mixture, x={x}: the second display is no more than log p(x); the gap", bound >= exact, bound - exact)
        density = math.exp(-exact)
        c.true(f"x={x}: “bound on p(x)” only through log p ≤ p − 1; p(x)", -bound <= density - 1 + 1e-12, density)


@check("vdm-denoising-matching")
def _(c: Checks) -> None:
    model, x = models.affine(CHAIN), 0.9
    mean, cov = CHAIN.given(x)
    for t in (2, 3, 4):
        c.holds(
            f"t={t}: nelbo's term over q(z_t|x) = the mean over the joint law of the chain",
            models.diffusion(model, x, t) - _over_joint(x, t, mean, cov),
            1e-11,
        )
    t, n = 3, 20_000
    generator = torch.Generator().manual_seed(9)
    eps = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    xs, s, at = torch.full((n, 1), x, dtype=torch.float64), models.level(model, t - 1, n), models.level(model, t, n)
    with torch.no_grad():
        draws = at_noise.diffusion(model, xs, eps, s, at)
        z = CHAIN.table.alpha[t].sqrt() * xs + CHAIN.table.beta[t].sqrt() * eps
        wrong = model.reverse.kl(xs, model.predict(z, at), s, at)[:, 0]
    exact = _over_joint(x, t, mean, cov)
    c.z("20,000 one-shot draws of nelbo's term", draws.mean(), exact, nodes.standard_error(draws))
    c.z_must_fail("z_t drawn from the kernel of one step", wrong.mean(), exact, nodes.standard_error(wrong))


def _over_joint(x: float, t: int, mean: Tensor, cov: Tensor) -> float:
    """E over q(z_{t−1}, z_t | x) of log q(z_{t−1}|z_t,x) − log p(z_{t−1}|z_t): conditioning by a Schur complement."""
    m, S = mean[t - 2 : t], cov[t - 2 : t, t - 2 : t]
    gain = S[0, 1] / S[1, 1]
    inner = S[0, 0] - gain * S[0, 1]
    a, b, v = CHAIN.step(t)
    # z_{t−1} − a z_t − b has this mean and variance under q; its square over v is what log p takes
    off = m[0] - a * m[1] - b
    square = off**2 + S[0, 0] - 2 * a * S[0, 1] + a * a * S[1, 1]
    return float(0.5 * (square / v + math.log(v) - 1 - inner.log()))

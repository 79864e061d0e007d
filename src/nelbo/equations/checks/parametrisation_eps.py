"""Means and losses in terms of the noise: the steps from x̂ to ε̂, and what becomes of the weight."""

from __future__ import annotations

import torch

from nelbo.bound import terms
from nelbo.bound.gaussian_chain import cells_of
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.bumps import Bumps
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.model.reverse import Beta, Reverse
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Output, x0_from
from nelbo.testing import at_noise

TABLE = Ddpm()
SCHEDULE = schedules.from_betas(TABLE.betas)


def batch(n: int = 500, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """x and ε, each (n, 2)."""
    x, eps = torch.randn(2, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, eps


def step(t: int, n: int = 500) -> forward.Levels:
    """The level of step t, for n examples."""
    return SCHEDULE.at_index(torch.full((n,), t - 1))


@check("x0-from-eps")
def _(c: Checks) -> None:
    x, eps = batch()
    for t in (1, 3):
        z = TABLE.bar[t].sqrt() * x + (1 - TABLE.bar[t]).sqrt() * eps
        c.holds(f"t={t}: nelbo's x̂ from the noise that made z is x", x0_from(Output.EPS, eps, z, step(t)) - x, 1e-13)
    alpha = TABLE.alpha[3]
    misprinted = (z - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    c.must_fail("t=3: α for ᾱ", misprinted - x0_from(Output.EPS, eps, z, step(3)), 0.5)


@check("posterior-mean-eps")
def _(c: Checks) -> None:
    x, eps = batch()
    z_1 = TABLE.bar[1].sqrt() * x + (1 - TABLE.bar[1]).sqrt() * eps
    from_noise = TABLE.mean_from_eps(z_1, eps, 1)
    c.holds(
        "t=1: the mean in terms of the noise is nelbo's x̂", from_noise - x0_from(Output.EPS, eps, z_1, step(1)), 1e-13
    )
    c.holds(
        "t=1: losing the bar (002) does not show, ᾱ_1 = α_1", TABLE.misprinted_mean(z_1, eps, 1) - from_noise, 1e-13
    )
    for t in (2, 3, 4):
        z = forward.noised(x, eps, step(t))
        mean = forward.posterior_mean(x, z, step(t - 1), step(t))
        of_z, of_x, _ = TABLE.posterior(t)
        c.holds(f"t={t}: nelbo's posterior mean = (z − β/√(1−ᾱ) ε)/√α", mean - TABLE.mean_from_eps(z, eps, t), 1e-12)
        c.holds(f"t={t}: = the product of two normal densities", mean - of_z * z - of_x * x, 1e-12)
        c.must_fail(f"t={t}: without the bar (002)", TABLE.misprinted_mean(z, eps, t) - mean, 0.1)


@check("model-mean-eps")
def _(c: Checks) -> None:
    chain = AffineChain()
    model = models.affine(chain, dimensions=2)
    x, eps = batch()
    for t in (2, 4):
        s, at = models.level(model, t - 1, 500), models.level(model, t, 500)
        z = forward.noised(x, eps, at)
        eps_hat = chain.scale[t - 1] * z + chain.shift[t - 1]
        mean, _ = model.reverse.step(z, model.predict(z, at), s, at)
        c.holds(
            f"t={t}: nelbo's step has the mean (z − β/√(1−ᾱ) ε̂)/√α", mean - TABLE.mean_from_eps(z, eps_hat, t), 1e-12
        )
        c.must_fail(f"t={t}: without the bar (002)", TABLE.misprinted_mean(z, eps_hat, t) - mean, 0.1)
    mixture, t = Bumps(), 3
    denoiser = mixture.product().denoiser()
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    at = step(t, 61)
    mean, _ = Reverse(Beta()).step(z[:, None], denoiser(z[:, None], at), step(t - 1, 61), at)
    y, w = nodes.line(-7.0, 7.0, 1401)
    kernel = nodes.log_normal(z[:, None], TABLE.alpha[t].sqrt() * y, TABLE.beta[t]).exp()
    weight = w * mixture.density(y, TABLE.bar[t - 1].sqrt(), 1 - TABLE.bar[t - 1]) * kernel
    exact = (weight * y).sum(1) / weight.sum(1)
    c.holds("with the exact ε̂ it is E[z_{t−1} | z_t] of a mixture, 61 points by quadrature", mean[:, 0] - exact, 1e-12)


@check("loss-eps-weighted")
def _(c: Checks) -> None:
    chain = AffineChain()
    model = models.affine(chain, dimensions=2)
    x, eps = batch()
    for t in (1, 2, 3, 4):
        at = models.level(model, t, 500)
        z = TABLE.bar[t].sqrt() * x + (1 - TABLE.bar[t]).sqrt() * eps
        square = (eps - chain.scale[t - 1] * z - chain.shift[t - 1]).square().sum(1)
        alpha, beta, bar = TABLE.alpha[t], TABLE.beta[t], TABLE.bar[t]
        weight = beta**2 / (2 * beta * alpha * (1 - bar))
        if t == 1:
            constant = -2 * nodes.log_normal(torch.zeros(1, dtype=torch.float64), 0.0, beta)
            term = at_noise.reconstruction(model, x, x, eps, at) - constant
        else:
            tilde = TABLE.posterior(t)[2] / beta
            term = at_noise.diffusion(model, x, eps, models.level(model, t - 1, 500), at) - (tilde - 1 - tilde.log())
        c.holds(f"t={t}: nelbo's term − C = β²/(2σ²α(1−ᾱ)) ‖ε − ε̂‖²", term - weight * square, 1e-11)
        misprinted = beta**2 / (2 * beta * alpha * (1 - alpha)) * square
        if t == 1:
            c.holds("t=1: losing the bar (002) does not show", misprinted - term, 1e-11)
        else:
            c.must_fail(f"t={t}: without the bar (002), relative error", misprinted / term - 1, 0.2)
    long = Ddpm.linear()
    right = long.beta / (2 * long.alpha * (1 - long.bar))
    c.info("DDPM's linear table, σ² = β, t=500: the weight", right[500])
    c.info("the same without the bar (002)", (1 / (2 * long.alpha))[500])
    tilde = torch.tensor([long.posterior(t)[2] for t in range(2, 1001)], dtype=torch.float64)
    weight = long.beta[2:] ** 2 / (2 * tilde * long.alpha[2:] * (1 - long.bar[2:]))
    whole = models.affine(AffineChain(long, scale=(0.0,) * 1000, shift=(0.0,) * 1000), "beta_tilde")
    c.holds("σ² = β̃, T = 1000: nelbo's scales of its cells, relative", cells_of(whole).scale / weight - 1, 1e-9)


@check("prior-term-constant")
def _(c: Checks) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def cost(chain: AffineChain) -> torch.Tensor:
        model = models.affine(chain)
        return terms.prior(model, x, model.levels()[-1:])

    ours = cost(AffineChain())
    bar = TABLE.bar[4]
    q = torch.distributions.Normal(bar.sqrt() * x[:, 0], (1 - bar).sqrt())
    exact = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    c.holds("nelbo's L_T is the divergence of q(z_T | x) from N(0, 1)", ours - exact, 1e-13)
    other = AffineChain(scale=(0.9, -0.3, 0.1, 0.2), shift=(1.0, 0.5, -0.7, 0.3))
    c.holds("the same for another network", cost(other) - ours, 0.0)
    h = 1e-5
    up, down = (cost(AffineChain(Ddpm((0.1, 0.2, 0.3, 0.35 + d)))) for d in (h, -h))
    c.must_fail("no dependence on the schedule: dL_T/dβ_T", (up - down) / (2 * h), 0.05)

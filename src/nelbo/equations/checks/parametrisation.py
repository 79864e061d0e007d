"""Gaussian divergences, the denoising term as mean matching, and the best fixed variance."""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.maths import gaussian
from nelbo.model.exact import GaussianData
from nelbo.model.reverse import Beta, BetaTilde, Reverse
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction


def tensor(*values: float) -> Tensor:
    """Float64."""
    return torch.tensor(values, dtype=torch.float64)


@check("kl-gaussian-multivariate")
def _(c: Checks) -> None:
    mean_q, cov_q = tensor(0.3, -0.8), torch.tensor([[1.2, 0.5], [0.5, 0.6]], dtype=torch.float64)
    mean_p, cov_p = tensor(-0.4, 0.5), torch.tensor([[0.5, -0.2], [-0.2, 0.9]], dtype=torch.float64)
    q = torch.distributions.MultivariateNormal(mean_q, cov_q)
    p = torch.distributions.MultivariateNormal(mean_p, cov_p)
    eps, w = nodes.normal(20)
    grid = torch.cartesian_prod(eps, eps)
    z = mean_q + grid @ torch.linalg.cholesky(cov_q).T
    exact = (q.log_prob(z) - p.log_prob(z)) @ torch.cartesian_prod(w, w).prod(1)
    c.holds("nelbo's = the integral of q log q/p in two dimensions", _kl(mean_q, cov_q, mean_p, cov_p) - exact, 1e-12)
    c.holds("zero for equal laws", _kl(mean_q, cov_q, mean_q, cov_q), 1e-14)
    c.must_fail("the two laws swapped", _kl(mean_p, cov_p, mean_q, cov_q) - exact, 0.05)


def _kl(*arguments: Tensor) -> Tensor:
    return gaussian.kl_multivariate(*arguments)


@check("kl-gaussian-isotropic")
def _(c: Checks) -> None:
    mean_q, a = tensor(0.4, -1.1, 0.7), 0.35
    mean_p, b = tensor(-0.2, 0.3, 1.5), 1.4
    ours = gaussian.kl(mean_q, tensor(a), mean_p, tensor(b))
    identity = torch.eye(3, dtype=torch.float64)
    q = torch.distributions.MultivariateNormal(mean_q, a * identity)
    p = torch.distributions.MultivariateNormal(mean_p, b * identity)
    exact = torch.distributions.kl_divergence(q, p)
    c.holds("nelbo's, summed over coordinates = the divergence of the vectors", ours.sum() - exact, 1e-13)
    eps, w = nodes.normal(20)
    z = mean_q[:, None] + a**0.5 * eps
    ratio = nodes.log_normal(z, mean_q[:, None], a) - nodes.log_normal(z, mean_p[:, None], b)
    c.holds("= the integral of q log q/p, coordinate by coordinate", ours - ratio @ w, 1e-12)
    square = (mean_q - mean_p).square().sum()
    c.must_fail(
        "squared distance over the variance of the first law", ours.sum() - 0.5 * square * (1 / b - 1 / a) - exact, 0.1
    )
    near = gaussian.kl_from_difference(tensor(0.0), tensor(1.0 + 1e-6), tensor(1.0))
    c.holds("two variances a millionth apart: 2.5e-13 nats, to a relative", near / 2.4999983333e-13 - 1, 1e-8)


@check("loss-mean-matching")
def _(c: Checks) -> None:
    table, chain = Ddpm(), AffineChain()
    generator = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 500, 2, dtype=torch.float64, generator=generator)
    for name in ("beta", "beta_tilde"):
        model = models.affine(chain, name, dimensions=2)
        for t in (2, 3, 4):
            of_z, of_x, tilde = table.posterior(t)
            z = table.bar[t].sqrt() * x + (1 - table.bar[t]).sqrt() * eps
            eps_hat = chain.scale[t - 1] * z + chain.shift[t - 1]
            square = (of_z * z + of_x * x - table.mean_from_eps(z, eps_hat, t)).square().sum(1)
            variance = float(table.beta[t]) if name == "beta" else tilde
            ratio = tensor(tilde / variance)
            constant = ratio - 1 - ratio.log()  # d/2 = 1 for d = 2
            at = models.level(model, t, 500)
            kl = model.reverse.kl(x, model.predict(z, at), models.level(model, t - 1, 500), at).sum(1)
            c.holds(f"t={t}, σ²={name}: KL = ‖μ̃ − μ‖²/2σ² + C", kl - square / (2 * variance) - constant, 1e-12)
            if name == "beta":
                c.must_fail(f"t={t}, σ²=β: the constant left out (002)", kl - square / (2 * variance), 0.01)
            else:
                perfect = model.reverse.kl(x, Prediction(x), models.level(model, t - 1, 500), at)
                c.holds(f"t={t}: C = 0 where σ² = β̃, so a perfect x̂ costs nothing", perfect, 1e-15)
    whole = schedules.linear(1000)
    s, t = whole.at_index(torch.arange(999)), whole.at_index(torch.arange(1, 1000))
    same = Prediction(torch.zeros(999, 1, dtype=torch.float64))
    lost = Reverse(Beta()).kl(same.x0, same, s, t)
    c.info("Σ_t C per dimension of DDPM's linear table with σ² = β, in nats", lost.sum())
    c.info("of which t = 2", lost[0])


@check("sigma-choices")
def _(c: Checks) -> None:
    table = Ddpm()
    schedule = schedules.from_betas(table.betas)
    zero = Prediction(torch.zeros(1, 1, dtype=torch.float64))
    for t in (2, 3, 4):
        s, at = schedule.at_index(tensor(t - 2).long()), schedule.at_index(tensor(t - 1).long())
        beta, tilde = Beta().of_step(s, at, zero), BetaTilde().of_step(s, at, zero)
        c.holds(f"t={t}: for one point of data the best is nelbo's beta_tilde", tilde - table.posterior(t)[2], 1e-15)
        for v in (0.3, 1.0, 3.0):
            best = _best_variance(v, t, table)
            mean_kl = _mean_kl(v, s, at)
            log_best = best.log().requires_grad_()
            (slope,) = torch.autograd.grad(mean_kl(log_best.exp()), log_best)
            c.holds(f"t={t}, data variance {v}: β̃ + c² mmse is where the mean KL is flat", slope, 1e-11)
            lowest = mean_kl(best)
            c.true(
                f"t={t}, data variance {v}: and it is the lowest",
                min(mean_kl(0.9 * best), mean_kl(1.1 * best)) > lowest,
            )
            if v < 1:
                c.true(f"t={t}, data variance {v}: β̃ < best < β", bool((tilde < best) & (best < beta)), best)
            if v == 1:
                c.holds(f"t={t}, data N(0, 1): the best is nelbo's beta", best - beta, 1e-14)
            if v == 3 and t == 2:
                c.must_fail("β as an upper bound of the best variance, data variance 3", best - beta, 0.005)


def _best_variance(v: float, t: int, table: Ddpm) -> Tensor:
    """β̃ + (coefficient of x)² mmse, the error of the optimal linear estimate of N(0, v) data by one conditioning."""
    _, of_x, tilde = table.posterior(t)
    bar = table.bar[t]
    return tilde + of_x**2 * (v - bar * v * v / (bar * v + 1 - bar))


def _mean_kl(v: float, s: forward.Levels, t: forward.Levels):
    """σ² ↦ E KL(q(z_s | z_t, x) ‖ N(mean of nelbo's exact denoiser, σ²)) for data N(0, v), by Gauss-Hermite."""
    node, w = nodes.normal(8)
    grid = torch.cartesian_prod(node, node)
    weight = torch.cartesian_prod(w, w).prod(1)
    x, at = v**0.5 * grid[:, :1], t.expand(len(grid))
    x_hat = GaussianData(tensor(0.0), tensor(v)).denoiser()(forward.noised(x, grid[:, 1:], at), at).x0
    q = forward.posterior(s, t)
    difference = q.x_coefficient * (x - x_hat)[:, 0]
    return lambda variance: gaussian.kl_from_difference(difference, q.variance, variance) @ weight

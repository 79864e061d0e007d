"""Group E, third part: what the closed-form KLs do to the variance, per term, for the whole path, for the gradient.

On a linear-Gaussian model every estimator is a quadratic form in the path, so its mean and variance under q are exact:
no Monte Carlo decides which of two estimators is the noisier one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch

from nelbo.bound.gaussian_cells import cells_of
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.linear import LinearChain, Normal, QuadraticForm
from nelbo.equations.paths import PathDensities
from nelbo.equations.twins import (
    AffineNet,
    LinearTwin,
    ddpm_betas,
    grid_twin,
    linear_twin,
    misspecified,
    nonlinear,
    scaled,
)
from nelbo.equations.twins import perfect as perfect_chain
from nelbo.model.denoiser import NetworkDenoiser

LATER = (2, 3, 4)


def naive_and_closed(twin: LinearTwin) -> tuple[QuadraticForm, QuadraticForm]:
    """The library's whole-path integrand log q/p, and its three terms, as forms in the path."""
    return twin.read("log_ratio"), twin.read("three_terms")


def within(form: QuadraticForm, law: Normal, t: int) -> float:
    """E Var[form | x_t, x_0], the form being quadratic in x_{t−1}, given by the regression of x_{t−1} on the two."""
    gain, offset, covariance = law.regression([t - 1], [t, 0])
    (to_t, to_0), spread, bend = gain[0], covariance[0, 0], form.hessian[t - 1, t - 1]
    slope = form.hessian[t - 1].copy()  # ∂form/∂x_{t−1} at the regression's mean, affine in x_t and x_0
    slope[t - 1] = 0.0
    slope[t] += bend * to_t
    slope[0] += bend * to_0
    mean = form.linear[t - 1] + bend * offset[0] + slope @ law.mean
    return float(spread * (mean**2 + slope @ law.covariance @ slope) + 0.5 * (bend * spread) ** 2)


@check("rao-blackwell-term")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q, rest, ratios = twin.chain.q, [], []
    for t in LATER:
        ratio, kl = twin.read("step_ratio", t), twin.read("step_kl", t)
        rest.append(ratio.variance(q) - kl.variance(q) - within(ratio, q, t))
        ratios.append(ratio.variance(q) / kl.variance(q))
    c.holds("Var(log ratio) = Var(KL) + E Var(log ratio | x_t, x_0), t = 2 … 4", rest, 1e-9)
    for t, ratio in zip(LATER, ratios, strict=True):
        c.info(f"Var(log ratio)/Var(KL) at t = {t}", ratio)
    c.true("every term is reduced; the smallest ratio", min(ratios) > 1, min(ratios))
    x, t = q.sample(30_000, np.random.default_rng(28)), 3
    ratio, kl = twin.paths.step_ratio(x, t).numpy(), twin.paths.step_kl(x, t).numpy()
    c.z("means of log ratio and KL on 30000 paths", (ratio - kl).mean(), 0.0, (ratio - kl).std() / len(x) ** 0.5)
    c.z("variance of the log ratio on them", ratio.var(), twin.chain.step_ratio(t).variance(q), _variance_error(ratio))


@check("rao-blackwell-total")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q = twin.chain.q
    naive, closed = naive_and_closed(twin)
    log_end = twin.read("log_q_marginal", 4) - twin.read("log_prior")
    D = [log_end - twin.read("prior_kl"), *(twin.read("step_ratio", t) - twin.read("step_kl", t) for t in LATER)]
    c.holds("naive − closed = Σ D_t, as forms", (naive - closed - sum(D[1:], D[0])).coefficients(), 1e-8)
    means = [d.mean(q) for d in D]
    c.holds(
        "the D_t have mean zero and are uncorrelated",
        means + [a.covariance(b, q) for a, b in itertools.combinations(D, 2)],
        1e-9,
    )
    shared = (naive - closed).covariance(closed, q)
    a, b = naive.variance(q), closed.variance(q)
    c.holds(
        "Var naive = Var closed + Σ Var D_t + 2 Cov(Σ D_t, closed)",
        a - b - sum(d.variance(q) for d in D) - 2 * shared,
        1e-9,
    )
    c.info("misspecified model, T = 4: Var naive", a)
    c.info("misspecified model, T = 4: Var closed", b)
    c.info("its Cov(Σ D_t, closed)", shared)
    c.must_fail(
        "without the covariance the closed form would always win: Cov/Var D",
        2 * shared / sum(d.variance(q) for d in D),
        0.1,
    )
    half = linear_twin(scaled(tuple(twin.chain.betas), 0.1))
    n, k = (f.variance(half.chain.q) for f in naive_and_closed(half))
    c.true("003, 002, “the closed form has the lower variance”: here naive/closed < 1", n < k, n / k)
    tight = linear_twin(perfect_chain())
    given, (naive, closed) = tight.chain.given(0.8), naive_and_closed(tight)
    c.holds("perfect model: the naive path estimator has no variance given x0", naive.variance(given), 1e-9)
    c.must_fail("perfect model: neither has the closed form", closed.variance(given), 0.05)
    x = q.sample(30_000, np.random.default_rng(29))
    for name, values, exact in (("naive", twin.paths.log_ratio(x), a), ("closed", twin.paths.three_terms(x), b)):
        samples = values.numpy()
        c.z(f"Var {name} by Monte Carlo on 30000 paths", samples.var(), exact, _variance_error(samples))
    bent = grid_twin(nonlinear())
    x = bent.chain.sample(20_000, np.random.default_rng(30))
    c.info("mixture, T = 3: Var naive (Monte Carlo)", bent.paths.log_ratio(x).var())
    c.info("mixture, T = 3: Var closed (Monte Carlo)", bent.paths.three_terms(x).var())
    long_chains(c)


def long_chains(c: Checks) -> None:
    """The same on 100 small steps, from the oracle (the library agrees, form by form, on 40), and the crossing."""
    for misfit in (0.0, 0.1, 0.3, 0.5, 1.0):
        naive, closed = variances(scaled(ddpm_betas(100), misfit))
        c.info(f"T = 100, ε̂ off by {misfit:.0%}: Var naive", naive)
        c.info(f"T = 100, ε̂ off by {misfit:.0%}: Var closed", closed)
        if misfit in (0.0, 1.0):
            better = "naive" if misfit == 0 else "closed form"
            c.true(
                f"T = 100, ε̂ off by {misfit:.0%}: the {better} wins", (naive < closed) == (misfit == 0), naive / closed
            )
    twin = linear_twin(scaled(ddpm_betas(40), 0.3))
    forms = zip(naive_and_closed(twin), (twin.chain.log_ratio, twin.chain.three_terms()), strict=True)
    rest = [ours.variance(twin.chain.q) - exact.variance(twin.chain.q) for ours, exact in forms]
    c.holds("T = 40: both variances of the library's forms", rest, 1e-7)
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        naive, closed = variances(scaled(ddpm_betas(30), middle))
        low, high = (middle, high) if naive < closed else (low, middle)
    c.info("T = 30: misfit of ε̂ at which the two cross", low)


def variances(chain: LinearChain) -> tuple[float, float]:
    """Exact variances of the two whole-path estimators under q."""
    return chain.log_ratio.variance(chain.q), chain.three_terms().variance(chain.q)


@check("rao-blackwell-independent-draws")
def _(c: Checks) -> None:
    for name, chain in (("misspecified", misspecified()), ("perfect", perfect_chain())):
        twin = linear_twin(chain)
        q = chain.q
        ends = [twin.read("log_q_marginal", 4) - twin.read("log_prior"), twin.read("reconstruction")]
        naive = sum(f.variance(q) for f in [*ends, *(twin.read("step_ratio", t) for t in LATER)])
        ends[0] = twin.read("prior_kl")
        closed = sum(f.variance(q) for f in [*ends, *(twin.read("step_kl", t) for t in LATER)])
        c.true(f"{name}: every term on a path of its own, Σ Var naive/Σ Var closed > 1", naive > closed, naive / closed)
        exact = chain.prior_kl().variance(q) + chain.log_p_step(1).variance(q)
        exact += sum(chain.step_kl(t).variance(q) for t in LATER)
        c.holds(f"{name}: Σ Var closed of the library is that of the regressions", closed - exact, 1e-10)
    whole = linear_twin(perfect_chain()).read("log_ratio").variance(chain.q)
    c.must_fail("perfect model: on one path the naive sum is that noisy too", naive - whole, 0.5)


@check("rao-blackwell-random-t")
def _(c: Checks) -> None:
    for name, chain in (("misspecified", misspecified()), ("perfect", perfect_chain())):
        twin = linear_twin(chain)
        naive = [twin.read("step_ratio", t) for t in LATER]
        closed = [twin.read("step_kl", t) for t in LATER]
        c.holds(
            f"{name}: the same mean at every t",
            [a.mean(chain.q) - b.mean(chain.q) for a, b in zip(naive, closed, strict=True)],
            1e-9,
        )
        a, b = (one_random(forms, chain.q) for forms in (naive, closed))
        c.true(f"{name}: one uniform t, Var naive/Var closed > 1", a > b, a / b)
        exact = one_random([chain.step_kl(t) for t in LATER], chain.q)
        c.holds(f"{name}: Var closed of the library is that of the regressions", b - exact, 1e-10)
    twin = linear_twin(misspecified())
    c.holds("the library cuts the T − 1 steps that t is drawn from", float(len(cells_of(twin.model)) - 3), 0.0)


def one_random(forms: list[QuadraticForm], law: Normal) -> float:
    """Variance of (T − 1) f_t at uniform t: the mean variance and the variance of the means, times (T − 1)²."""
    n, means = len(forms), np.array([f.mean(law) for f in forms])
    return n**2 * float(np.mean([f.variance(law) for f in forms]) + means.var())


@check("rao-blackwell-gradient")
def _(c: Checks) -> None:
    betas = ddpm_betas(40)
    law, naive, closed = gradients(betas, 0.2)
    x = law.sample(200, np.random.default_rng(31))
    rest, size = [], []
    for form, method in ((naive, "log_ratio"), (closed, "three_terms")):
        slope = slope_in_scale(betas, 0.2, method, x)
        rest.append(np.abs(slope - form(x)).max())
        size.append(np.abs(slope).max())
    c.holds("gradients of the library's estimators by automatic differentiation, on 200 paths", rest, 1e-7)
    c.info("largest of these gradients", max(size))
    c.holds("both have the same mean", naive.mean(law) - closed.mean(law), 1e-9)
    ratios = []
    for misfit in (0.0, 0.1, 0.5):
        law, naive, closed = gradients(ddpm_betas(100), misfit)
        ratios.append(naive.variance(law) / closed.variance(law))
        c.info(f"T = 100, ε̂ off by {misfit:.0%}: Var gradient naive/closed", ratios[-1])
    given = scaled(ddpm_betas(100), 0.1).given(0.8)
    law, naive, closed = gradients(ddpm_betas(100), 0.1)
    c.info("ε̂ off by 10 %, given x0 = 0.8: Var gradient naive", naive.variance(given))
    c.info("ε̂ off by 10 %, given x0 = 0.8: Var gradient closed", closed.variance(given))
    c.true("the whole-path gradient gains at every misfit tried; the smallest ratio", min(ratios) > 1, min(ratios))
    value = [
        f.variance(law) for f in (scaled(ddpm_betas(100), 0.1).log_ratio, scaled(ddpm_betas(100), 0.1).three_terms())
    ]
    c.must_fail("though the loss value does not: 1 − Var naive/Var closed", 1 - value[0] / value[1], 0.5)


def gradients(betas: tuple[float, ...], misfit: float) -> tuple[Normal, QuadraticForm, QuadraticForm]:
    """The law of the path, and d/dc of naive and closed at ε̂ = c E[ε | x_t], c = 1 + misfit.

    Both are of second order in c, so a central difference of any width is the derivative itself.
    """
    up, down = scaled(betas, misfit + 0.5), scaled(betas, misfit - 0.5)
    return up.q, up.log_ratio - down.log_ratio, up.three_terms() - down.three_terms()


def slope_in_scale(betas: tuple[float, ...], misfit: float, method: str, x: np.ndarray) -> np.ndarray:
    """d/dc of a method of `PathDensities` at every path, by differentiating through the library's own functions."""
    twin = linear_twin(scaled(betas, misfit))
    alpha = torch.from_numpy(np.sqrt(np.cumprod(1 - np.array(betas))))
    slope = -(1 - alpha**2) / alpha  # d x̂/dc = −√(1−ᾱ)/√ᾱ · √(1−ᾱ) x_t
    more = torch.zeros(len(x), 1, dtype=torch.float64, requires_grad=True)  # c less 1 + misfit, one a path

    def net(z: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return AffineNet(twin.chain.gains, twin.chain.offsets)(z, index) + more * slope[index][:, None] * z

    model = dataclasses.replace(twin.model, denoiser=NetworkDenoiser(net, "x0", "index"))
    getattr(PathDensities(model), method)(x).sum().backward()
    assert more.grad is not None
    return more.grad[:, 0].numpy()


def _variance_error(values: np.ndarray) -> float:
    """Standard error of the sample variance."""
    centred = values - values.mean()
    return float(math.sqrt(((centred**4).mean() - values.var() ** 2) / len(values)))

"""Group E, second part: the three kinds of term, their names, their indices, and their sum as an objective."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from nelbo.bound.evaluate import evaluate
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.grid import GridChain
from nelbo.equations.oracles.linear import LinearChain, QuadraticForm, forward_law, kernel
from nelbo.equations.oracles.quadrature import hermite, log_normal, trapezoid
from nelbo.equations.twins import BETAS, POINTS, gaussian_data, grid_twin, linear_twin, misspecified, nonlinear
from nelbo.model.examples import Examples
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import BoundObjective
from nelbo.workers import Run

NATS = math.log(2.0)
LATER = range(2, len(BETAS) + 1)


@lru_cache
def mixture_bound(chain: GridChain) -> float:
    """E_q(x0:T)[log q/p] by Gauss-Hermite over the data and the path, from the oracle's kernels."""
    points, weights = chain.data.nodes(16)
    total = 0.0
    for x0, weight in zip(points, weights, strict=True):
        x, w = chain.paths(x0, 20)
        total += weight * float(w @ (chain.log_q_path(x) - chain.log_p_path(x)))
    return total


@check("vlb-three-terms")
def _(c: Checks) -> None:
    for variance in ("beta", "beta_tilde"):
        twin = linear_twin(misspecified(variance))
        chain, terms = twin.chain, twin.read("three_terms")
        rest = terms.mean(chain.q) - chain.log_ratio.mean(chain.q)
        c.holds(f"E[L_T + Σ L_t−1 + L_0] = E log q/p of the joint densities, {variance!r}", rest, 1e-10)
    c.must_fail("001 omits E_q: standard deviation of the right side under q", terms.variance(chain.q) ** 0.5, 0.3)
    bent = grid_twin(nonlinear())
    x = bent.chain.sample(40_000, np.random.default_rng(27))
    exact, values = mixture_bound(bent.chain), bent.paths.three_terms(x).numpy()
    c.z("mixture: Monte Carlo of the three terms against quadrature of log q/p", values.mean(), exact, _error(values))
    dropped = values - bent.paths.reconstruction(x).numpy()
    c.z_must_fail("L_0 dropped", dropped.mean(), exact, _error(dropped))
    short = values - bent.paths.step_kl(x, 3).numpy()
    c.z_must_fail("the sum stops at T − 1", short.mean(), exact, _error(short))
    data = Examples(torch.from_numpy(bent.chain.data.sample(2000, np.random.default_rng(28)))[:, None])
    bound = evaluate(bent.model, data, Run(precision="float64"), estimator="exhaustive")
    c.z("nelbo.evaluate on 2000 draws", bound.bits_per_dim * NATS, exact, bound.standard_error.total * NATS)
    parts = bound.terms.prior, bound.terms.diffusion, bound.terms.reconstruction
    c.holds("its three terms add up to its bound", sum(t.bits_per_dim for t in parts) - bound.bits_per_dim, 1e-12)


@check("loss-term-prior")
def _(c: Checks) -> None:
    for mean, variance in ((0.0, 1.0), (0.3, 1.4)):
        wide = misspecified()
        chain = LinearChain(wide.betas, 0.4, 0.7, wide.gains, wide.offsets, "beta", 0.13, mean, variance)
        twin, alpha_bar = linear_twin(chain), float(np.prod(1 - chain.betas))
        y, w = trapezoid(600, -9.0, 9.0)
        rest = []
        for x0 in POINTS:
            log_q = log_normal(y, math.sqrt(alpha_bar) * x0, 1 - alpha_bar)
            path = np.array([[x0, 0.0, 0.0, 0.0, 0.0]])
            rest.append(
                w @ (np.exp(log_q) * (log_q - log_normal(y, mean, variance))) - twin.paths.prior_kl(path).item()
            )
        c.holds(f"L_T of the library by quadrature at three x0, prior N({mean:g}, {variance:g})", rest, 1e-9)
        form = twin.read("prior_kl") - chain.prior_kl()
        c.holds(f"and as a form in x0, prior N({mean:g}, {variance:g})", form.coefficients(), 1e-12)
    twin = linear_twin(misspecified())
    law = twin.chain.q
    m0, mT, v0, vT = law.mean[0], law.mean[-1], law.covariance[0, 0], law.covariance[-1, -1]
    printed = 0.5 * (math.log(vT / v0) + (v0 + (m0 - mT) ** 2) / vT - 1)
    right = twin.read("prior_kl").mean(law)
    c.must_fail("003: KL from the data to the last noisy state", printed - right, 0.02)


@check("loss-term-denoise")
def _(c: Checks) -> None:
    for variance in ("beta", "beta_tilde"):
        twin = linear_twin(misspecified(variance))
        q = twin.chain.q
        rest = [(twin.read("step_kl", t) - twin.chain.step_kl(t)).coefficients() for t in LATER]
        c.holds(f"the library's KL = the regression's, as a form, t = 2 … 4, {variance!r}", rest, 1e-10)
        rest = [twin.read("step_kl", t).mean(q) - twin.chain.step_ratio(t).mean(q) for t in LATER]
        c.holds(f"its mean = the mean log ratio, {variance!r}", rest, 1e-9)
    bent, rest = grid_twin(nonlinear()), []
    nodes, w = hermite(40)
    for x0, z in ((0.2, -1.0), (1.7, 0.4)):
        for t in (2, 3):
            mean, spread = bent.chain.posterior(np.array([x0]), np.array([z]), t)
            y = mean + math.sqrt(spread) * nodes
            ratio = log_normal(y, mean, spread) - log_normal(y, *bent.chain.reverse(np.array([z]), t))
            path = np.zeros((1, 4))
            path[0, 0], path[0, t] = x0, z
            rest.append(w @ ratio - bent.paths.step_kl(path, t).item())
    c.holds("mixture: the library's KL by quadrature over x_t−1", rest, 1e-10)
    twin = linear_twin(misspecified())
    x = twin.chain.q.sample(2000, np.random.default_rng(29))
    least = min(float(twin.paths.step_kl(x, t).min()) for t in LATER)
    c.true("no term is negative on 2000 paths: the smallest", least >= 0, least)
    longer = forward_law(np.array([*BETAS, 0.4]), 0.4, 0.7)
    blind = [longer.regression([t + 1], [t, 0]).gain[0, 1] for t in LATER]
    c.holds("002 prints q(x_t+1 | x_t, x_0): there x_0 has no weight (Markov)", blind, 1e-12)
    printed = upward_sum(twin.chain)
    right = sum(twin.read("step_kl", t).mean(twin.chain.q) for t in LATER)
    c.info("Σ L_t−1 for t = 2 … 4, nats", right)
    c.info("002 with the indices t + 1, the chain carried on to x_5, nats", printed)
    c.must_fail("002: the indices t + 1", printed - right, 0.3)


def upward_sum(chain: LinearChain) -> float:
    """Σ_{t≥2} E KL(q(x_{t+1} | x_t, x_0) ‖ p(x_{t+1} | x_t)), p read upward on a forward chain one step longer."""
    n = chain.T + 2
    law = forward_law(np.array([*BETAS, 0.4]), chain.data_mean, chain.data_variance)
    forms = (law.log_density([t + 1], [t, 0]) - kernel(n, t + 1, t, *chain.reverse[t - 1]) for t in LATER)
    return sum(forms, QuadraticForm.zero(n)).mean(law)


@check("loss-term-recon")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    chain, rest = twin.chain, []
    nodes, w = hermite(20)
    for x0 in POINTS:
        x = np.zeros((20, 5))
        x[:, 0], x[:, 1] = x0, math.sqrt(0.9) * x0 + math.sqrt(0.1) * nodes
        rest.append(w @ twin.paths.reconstruction(x).numpy() + chain.log_p_step(1).mean(chain.given(x0)))
    c.holds("E[−log p(x0 | x1)] of the library = the exact mean, three x0", rest, 1e-12)
    given = chain.given(0.7)
    right, swapped = twin.read("reconstruction").mean(given), -twin.read("log_q_step", 1).mean(given)
    c.must_fail("003, “from x0 to x1”: −log q(x1 | x0) in its place", swapped - right, 0.1)
    sharp = LinearChain(chain.betas[:1], 0.4, 0.7, np.ones(1), np.zeros(1), "beta", 1e-4)
    value = linear_twin(sharp).paths.reconstruction(np.array([[0.5, 0.5]])).item()
    c.true("for densities it may be negative: x̂ right, variance 1e-4, nats", value < 0, value)


@check("loss-index-convention")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q = twin.chain.q
    ddpm = np.array([twin.read("step_kl", t).mean(q) for t in (2, 3, 4)])
    weng = [(q.log_density([t], [t + 1, 0]) - twin.chain.log_p_step(t + 1)).mean(q) for t in (1, 2, 3)]
    c.holds("L_t of 001 for t = 1 … T − 1 = L_t−1 of eq. 5 for t = 2 … T", ddpm - weng, 1e-9)
    c.must_fail("003 calls the same term L_t: read with 001's label it is its neighbour", np.diff(ddpm), 0.005)
    bound = evaluate(
        twin.model,
        Examples(gaussian_data(0.4, 0.7).sample(3000, seed=3)),
        Run(precision="float64"),
        estimator="exhaustive",
    )
    levels = np.array([level.bits_per_dim * NATS for level in bound.levels])
    errors = np.array([level.standard_error * NATS for level in bound.levels])
    order = [round(level.t * twin.chain.T) for level in bound.levels]
    spread = [twin.read("step_kl", t).variance(q) ** 0.5 / math.sqrt(3000) for t in order]
    c.z("Bound.levels carries them by the noisier level t", levels, ddpm[[t - 2 for t in order]], errors + spread)


@check("sum-objective")
def _(c: Checks) -> None:
    betas, v = np.array(BETAS), 0.05
    alpha_bar = np.cumprod(1 - betas)
    marginal = alpha_bar * v + 1 - alpha_bar

    def terms(slope: float) -> np.ndarray:
        """E L_{t−1}, t = 2 … 4, of the library's model with ε̂ = slope · x_t at every step."""
        twin = linear_twin(shared(slope, v))
        return np.array([twin.read("step_kl", t).mean(twin.chain.q) for t in LATER])

    low, middle, high = terms(0.0), terms(1.0), terms(2.0)

    def vertex(a: float, b: float, d: float) -> float:
        return 1 + 0.5 * (a - d) / (a - 2 * b + d)

    single = np.array([vertex(*values) for values in zip(low, middle, high, strict=True)])
    best = np.sqrt(1 - alpha_bar) / marginal
    c.holds("argmin of each term = √(1−ᾱ_t)/Var x_t", single - best[1:], 1e-10)
    c.must_fail("003, “θ = argmin L_t”: the argmins of single steps differ", single.max() - single.min(), 0.1)
    weight = low - 2 * middle + high
    together = vertex(low.sum(), middle.sum(), high.sum())
    c.holds(
        "argmin of the sum = their mean, weighed by the terms' curvatures",
        together - weight @ single / weight.sum(),
        1e-10,
    )
    around = [terms(together + step).sum() for step in (-0.05, 0.0, 0.05)]
    c.true("the sum is least there", around[1] < min(around[0], around[2]), around[1])
    twin = linear_twin(shared(together, v))
    data = gaussian_data(0.0, v).sample(2048, seed=1)
    loss = Criterion(BoundObjective(reconstruction_share=0.01))
    draws = [float(loss(twin.model, Batch(data, 0, k))["diffusion"]) * NATS for k in range(12)]
    empirical = forward_law(betas, float(data.mean()), float(data.var(correction=0)))  # the same 2048 examples
    exact = sum((twin.chain.step_kl(t) for t in LATER), QuadraticForm.zero(5)).mean(empirical)
    c.z(
        "twelve batches of the training loss average to the sum", np.mean(draws), exact, np.std(draws, ddof=1) / 12**0.5
    )


def shared(slope: float, variance: float) -> LinearChain:
    """ε̂ = slope · x_t at every step, for data N(0, variance)."""
    betas = np.array(BETAS)
    alpha_bar = np.cumprod(1 - betas)
    gains = (1 - slope * np.sqrt(1 - alpha_bar)) / np.sqrt(alpha_bar)
    return LinearChain(betas, 0.0, variance, gains, np.zeros(4), "beta", 0.1)


def _error(values: np.ndarray) -> float:
    return float(values.std() / math.sqrt(len(values)))

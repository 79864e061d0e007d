"""Group D, second part: the route from the KL of path posteriors to the sum over steps, line by line."""

from __future__ import annotations

import numpy as np

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.linear import QuadraticForm, forward_law, kernel
from nelbo.equations.oracles.quadrature import expectation
from nelbo.equations.twins import BETAS, POINTS, grid_twin, linear_twin, misspecified, nonlinear


@check("kl-route-bayes")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q, p = twin.read("log_q_path"), twin.read("log_p_path")
    rest = [
        twin.chain.gap.mean(twin.chain.given(x0)) - (q + twin.chain.log_evidence(x0) - p).mean(twin.chain.given(x0))
        for x0 in POINTS
    ]
    c.holds("KL(q ‖ p(x1:T | x0)) = E log[q p(x0)/p(x0:T)] of the library's kernels", rest, 1e-10)
    path = np.array([[0.2, 0.1, 0.0, 0.2, -0.1]])
    stray = np.exp(twin.paths.log_p_path(path).numpy() - twin.chain.log_evidence(path[:, 0]))
    c.must_fail("002: the stray − p(x0:T)/p(x0) at one path", stray, 1e-3)


@check("kl-route-split")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    x = twin.chain.q.sample(1000, np.random.default_rng(18))
    q, p, evidence = twin.paths.log_q_path(x), twin.paths.log_p_path(x), twin.chain.log_evidence(x[:, 0])
    together = np.log(q.exp().numpy() * np.exp(evidence) / p.exp().numpy())
    c.holds(
        "log of the product = sum of logs at every path", together - (twin.paths.log_ratio(x).numpy() + evidence), 1e-10
    )
    ratio = twin.read("log_ratio")
    rest = [
        (ratio + twin.chain.log_evidence(x0)).mean(twin.chain.given(x0)) - twin.chain.gap.mean(twin.chain.given(x0))
        for x0 in POINTS
    ]
    c.holds("its mean is still KL(q ‖ p(x1:T | x0))", rest, 1e-10)
    spread = [twin.read("log_ratio").variance(twin.chain.given(x0)) ** 0.5 for x0 in POINTS]
    c.must_fail("002 drops the expectation: standard deviation of the rest given x0", spread, 0.2)


@check("kl-route-linearity")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    ratio = twin.read("log_ratio")
    rest, spread = [], []
    for x0 in POINTS:
        given, evidence = twin.chain.given(x0), twin.chain.log_evidence(x0)
        constant = twin.chain.p.log_density([0])  # log p(x0) as a function of the whole path
        rest.append((ratio + constant).mean(given) - (twin.bound(x0) + evidence))
        spread.append(constant.variance(given))
    c.holds("E[A + log p(x0)] = E[A] + log p(x0)", rest, 1e-12)
    c.holds("log p(x0) has no variance under q(x1:T | x0)", spread, 1e-15)
    gaps = [twin.chain.gap.mean(twin.chain.given(x0)) for x0 in POINTS]
    whole = [twin.bound(x0) + twin.chain.log_evidence(x0) for x0 in POINTS]
    c.holds("the right side is still KL(q ‖ p(x1:T | x0))", np.subtract(whole, gaps), 1e-10)


@check("kl-route-rearrange")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    chain, m, v = twin.chain, twin.chain.data_mean, twin.chain.data_variance
    evidence = expectation(chain.log_evidence, m, v, 8)
    rest = evidence - chain.gap.mean(chain.q) + twin.read("log_ratio").mean(chain.q)
    c.holds("E log p(x0) = KL − E log q/p, averaged over the data", rest, 1e-10)
    c.must_fail("the sign of the KL turned", rest + 2 * chain.gap.mean(chain.q), 0.1)


@check("kl-route-drop-kl")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    slack = np.array([twin.chain.log_evidence(x0) + twin.bound(x0) for x0 in POINTS])
    c.true("E log p ≥ −E log q/p at three x0: smallest slack", slack.min() > 0, slack.min())
    gap = np.array([twin.chain.gap.mean(twin.chain.given(x0)) for x0 in POINTS])
    c.holds("the slack is the KL that was dropped", slack - gap, 1e-10)


@check("kl-route-flip-ratio")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q, p = twin.read("log_q_path"), twin.read("log_p_path")
    flipped = [(p - q).mean(twin.chain.given(x0)) + twin.bound(x0) for x0 in POINTS]
    c.holds("−E log q/p = E log p/q", flipped, 1e-12)
    exact = [(p - q + twin.chain.log_ratio).mean(twin.chain.given(x0)) for x0 in POINTS]
    c.holds("with E log q/p of the joint densities", exact, 1e-10)
    mixture = grid_twin(nonlinear((0.2, 0.4)))
    x, w = mixture.chain.paths(0.2, 60)
    ratio = mixture.paths.log_ratio(x).numpy()
    c.must_fail("E[q/p] = 1/E[p/q]", np.log(w @ np.exp(ratio)) + np.log(w @ np.exp(-ratio)), 0.05)


@check("kl-route-negate")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    slack = np.array([twin.bound(x0) + twin.chain.log_evidence(x0) for x0 in POINTS])
    c.true("E[−log p] ≤ E[−log p/q] at three x0: smallest slack", slack.min() > 0, slack.min())
    gap = [twin.chain.gap.mean(twin.chain.given(x0)) for x0 in POINTS]
    c.holds("what lies between is the KL of the path posteriors", slack - gap, 1e-10)
    c.must_fail("≥ kept after the change of sign is violated by", slack.min(), 1e-3)


@check("vlb-substitute-kernels")
def _(c: Checks) -> None:
    for variance in ("beta", "beta_tilde"):
        twin = linear_twin(misspecified(variance))
        rest = twin.read("log_ratio") - twin.chain.log_ratio
        c.holds(f"products of the library's kernels = joint densities, {variance!r}", rest.coefficients(), 1e-8)
    q = twin.read("log_q_path") - twin.chain.q.log_density(twin.chain.path, [0])
    c.holds("Π q(x_t | x_t−1) = q(x1:T | x0) of the joint covariance", q.coefficients(), 1e-8)
    p = twin.read("log_p_path") - twin.chain.p.log_density(range(twin.chain.T + 1))
    c.holds("p(x_T) Π p(x_t−1 | x_t) = p(x0:T) of the joint covariance", p.coefficients(), 1e-8)


@check("vlb-pull-prior")
def _(c: Checks) -> None:
    twin = grid_twin(nonlinear())
    x = twin.chain.sample(1000, np.random.default_rng(19))
    steps = [twin.paths.log_p_step(x, t) - twin.paths.log_q_step(x, t) for t in (1, 2, 3)]
    pulled = -twin.paths.log_prior(x).numpy() - np.log(np.prod([s.exp().numpy() for s in steps], 0))
    whole = twin.chain.log_q_path(x) - twin.chain.log_p_path(x)
    c.holds("log of the ratio of products = log p(x_T) + log of the product of ratios", whole - pulled, 1e-10)


@check("vlb-sum-form")
def _(c: Checks) -> None:
    mixture = grid_twin(nonlinear())
    x = mixture.chain.sample(1000, np.random.default_rng(20))
    steps = sum(mixture.paths.log_p_step(x, t) - mixture.paths.log_q_step(x, t) for t in (1, 2, 3))
    whole = mixture.chain.log_q_path(x) - mixture.chain.log_p_path(x)
    c.holds("mixture: log of the product = sum of logs", whole - (-mixture.paths.log_prior(x) - steps).numpy(), 1e-10)
    twin = linear_twin(misspecified())
    chain, T = twin.chain, twin.chain.T
    form = -twin.read("log_prior")
    for t in range(1, T + 1):
        form = form + twin.read("log_q_step", t) - twin.read("log_p_step", t)
    right = chain.log_ratio.mean(chain.q)
    c.holds("linear-Gaussian: E of the sum form = E log q/p of the joint densities", form.mean(chain.q) - right, 1e-10)
    c.info("the bound L, nats", right)
    nll = expectation(lambda y: -chain.log_evidence(y), chain.data_mean, chain.data_variance, 8)
    c.info("E[−log p(x0)], nats", float(nll))
    wrong = upward_index(chain).mean(forward_law(np.array([*BETAS, 0.4]), chain.data_mean, chain.data_variance))
    c.info("002 with p(x_t+1 | x_t), the chain carried on to x_5, nats", wrong)
    c.must_fail("002: the reverse kernel's index t + 1 for t − 1", wrong - right, 0.3)


def upward_index(chain) -> QuadraticForm:
    """−log p(x_T) + Σ log q(x_t | x_{t−1})/p(x_{t+1} | x_t), read on a forward chain that is one step longer."""
    n = chain.T + 2
    law = forward_law(np.array([*BETAS, 0.4]), chain.data_mean, chain.data_variance)
    form = -kernel(n, chain.T, 0, 0.0, chain.prior_mean, chain.prior_variance)
    for t in range(1, chain.T + 1):
        form = form + law.log_density([t], [t - 1]) - kernel(n, t + 1, t, *chain.reverse[t - 1])
    return form

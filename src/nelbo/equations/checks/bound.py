"""Group D, first part: the five lines from −log p + KL to the bound, the Jensen route, and what the bound is not.

The left and right sides come from different places: the integrand log q/p_θ from the library's kernels, the evidence
and the path posterior from the joint covariance (or from a grid), which know nothing of the library.
"""

from __future__ import annotations

import math

import numpy as np

from nelbo.bound.evaluate import evaluate
from nelbo.equations import twins
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles.quadrature import expectation
from nelbo.equations.twins import POINTS, gaussian_data, grid_twin, linear_twin, misspecified, nonlinear, perfect
from nelbo.model.examples import Examples
from nelbo.workers import Run

TWO = (0.2, 0.4)
"""The two betas of the mixture model whose path posterior fits on one square of nodes."""


def lines(twin: twins.LinearTwin, x0: float) -> list[float]:
    """The five right-hand sides given x_0: −log p, then lines 1 to 4 of the five-line bound.

    Line 1 takes the path posterior from the model's joint covariance; lines 2 to 4 take q and p_θ from the library.
    """
    chain, given = twin.chain, twin.chain.given(x0)
    nll = -float(chain.log_evidence(x0))
    q, p = twin.read("log_q_path"), twin.read("log_p_path")
    joint_over_evidence = p + nll
    return [
        nll,
        nll + chain.gap.mean(given),
        nll + (q - joint_over_evidence).mean(given),
        nll + (twin.read("log_ratio") - nll).mean(given),
        twin.bound(x0),
    ]


@check("vlb-add-kl")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    for x0 in POINTS:
        nll, gap = -float(twin.chain.log_evidence(x0)), twin.chain.gap.mean(twin.chain.given(x0))
        c.holds(f"linear-Gaussian, x0 = {x0}: the library's bound = −log p + KL", twin.bound(x0) - nll - gap, 1e-10)
        c.true(f"linear-Gaussian, x0 = {x0}: bound − (−log p) = KL > 0", twin.bound(x0) > nll, twin.bound(x0) - nll)
    mixture = grid_twin(nonlinear(TWO))
    for x0 in POINTS:
        nll, gap = -mixture.chain.log_evidence(np.array([x0]))[0], mixture.chain.gap(x0)[1]
        c.holds(f"mixture, x0 = {x0}: the bound = −log p + KL, by other nodes", mixture.bound(x0, 60) - nll - gap, 1e-7)
        c.true(f"mixture, x0 = {x0}: KL > 0", gap > 0, gap)
    tight = linear_twin(perfect())
    c.holds("perfect reverse chain: equality", [tight.bound(x0) + tight.chain.log_evidence(x0) for x0 in POINTS], 1e-10)


@check("vlb-expand-kl")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    rows = np.array([lines(twin, x0) for x0 in POINTS])
    nll, one, two, bound = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 4]
    c.holds("line 1 = line 2", one - two, 1e-10)
    c.must_fail("002 keeps the KL alone and loses −log p(x0)", one - (two - nll), 0.5)
    c.must_fail("p(x0:T) in the denominator without / p(x0)", one - (nll + bound), 0.5)


@check("vlb-split-log")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    rows = np.array([lines(twin, x0) for x0 in POINTS])
    c.holds("line 2 = line 3", rows[:, 2] - rows[:, 3], 1e-10)
    c.holds("line 3 is still line 1, −log p + KL of the joint laws", rows[:, 3] - rows[:, 1], 1e-10)
    x = twin.chain.q.sample(1000, np.random.default_rng(1))
    q, p = twin.paths.log_q_path(x).exp().numpy(), twin.paths.log_p_path(x).exp().numpy()
    evidence = np.exp(twin.chain.log_evidence(x[:, 0]))
    split = twin.paths.log_ratio(x).numpy() + np.log(evidence)
    c.holds("the logarithm splits at every one of 1000 paths", np.log(q / (p / evidence)) - split, 1e-10)
    wrong = [2 * line[0] + line[4] for line in rows]
    c.must_fail("a minus before log p(x0) inside the bracket", rows[:, 2] - wrong, 0.5)


@check("vlb-cancel-evidence")
def _(c: Checks) -> None:
    twin, x0 = linear_twin(misspecified()), 0.2
    rows = np.array([lines(twin, x) for x in POINTS])
    c.holds("line 3 = line 4: log p(x0) is constant under q(x1:T | x0)", rows[:, 3] - rows[:, 4], 1e-10)
    exact = twin.chain.log_ratio.mean(twin.chain.given(x0))
    x = twin.chain.given(x0).sample(100_000, np.random.default_rng(16))
    ratio = twin.paths.log_ratio(x).numpy()
    c.z("Monte Carlo of the library's log q/p against the exact mean", ratio.mean(), exact, _error(ratio))
    wrong = twin.paths.log_q_path(x).numpy() - twin.chain.log_evidence(x0)
    c.z_must_fail("002: denominator p(x0) for p(x0:T)", wrong.mean(), exact, _error(wrong))


@check("vlb-average-data")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    chain, mean, variance = twin.chain, twin.chain.data_mean, twin.chain.data_variance
    whole = twin.read("log_ratio").mean(chain.q)
    nested = expectation(
        lambda x0: np.array([twin.chain.log_ratio.mean(chain.given(x)) for x in x0]), mean, variance, 8
    )
    c.holds("E over q(x0:T) = E over q(x0) of E over q(x1:T | x0)", whole - nested, 1e-10)
    nll = float(expectation(lambda x0: -chain.log_evidence(x0), mean, variance, 8))
    c.true("L_VLB ≥ −E log p(x0)", whole > nll, whole - nll)
    c.must_fail("000: line 5 is line 4 at a fixed x0", [whole - twin.bound(x0) for x0 in POINTS], 0.1)
    data = gaussian_data(mean, variance)
    bound = evaluate(twin.model, Examples(data.sample(2000, seed=5)), Run(precision="float64"), estimator="exhaustive")
    nats = math.log(2.0)
    error = bound.standard_error.total * nats
    c.z("nelbo.evaluate on 2000 draws of the data", bound.bits_per_dim * nats, chain.log_ratio.mean(chain.q), error)


@check("vlb-jensen")
def _(c: Checks) -> None:
    twin = grid_twin(nonlinear(TWO))
    for x0 in POINTS:
        x, w = twin.chain.paths(x0, 80)
        ratio = -twin.paths.log_ratio(x).numpy()
        evidence = twin.chain.log_evidence(np.array([x0]))[0]
        outside, inside = float(np.log(w @ np.exp(ratio))), float(w @ ratio)
        c.holds(f"mixture, x0 = {x0}: log E[p/q] = log p(x0)", outside - evidence, 1e-6)
        c.true(f"mixture, x0 = {x0}: log E[p/q] > E[log p/q]", outside > inside, outside - inside)
    linear = linear_twin(misspecified())
    gaps = [
        linear.chain.log_evidence(x0) + linear.bound(x0) - linear.chain.gap.mean(linear.chain.given(x0))
        for x0 in POINTS
    ]
    c.holds("the gap of Jensen's inequality = KL(q(x1:T | x0) ‖ p(x1:T | x0))", gaps, 1e-10)


@check("elbo-gap-identity")
def _(c: Checks) -> None:
    for variance in ("beta", "beta_tilde"):
        twin = linear_twin(misspecified(variance))
        gaps = [twin.chain.gap.mean(twin.chain.given(x0)) for x0 in POINTS]
        rest = [twin.chain.log_evidence(x0) + twin.bound(x0) - gap for x0, gap in zip(POINTS, gaps, strict=True)]
        c.holds(f"log p(x0) = ELBO + KL at three x0, variance {variance!r}", rest, 1e-10)
        c.must_fail(f"the ELBO alone is the evidence, variance {variance!r}", gaps, 0.05)


@check("pointwise-bound-fallacy")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    x = twin.chain.q.sample(50_000, np.random.default_rng(17))
    ratio, nll = twin.paths.log_ratio(x).numpy(), -twin.chain.log_evidence(x[:, 0])
    c.must_fail("002 (no expectation): share of paths with log q/p < −log p(x0)", np.mean(ratio < nll), 0.05)
    c.info("worst violation by a single path, nats", (nll - ratio).max())
    c.true("the average satisfies the bound", ratio.mean() > nll.mean(), ratio.mean() - nll.mean())
    c.holds(
        "path by path an equality: log q/p(x0:T) + log p(x0) = log q/p(x1:T | x0)",
        ratio - nll - twin.chain.gap(x),
        1e-9,
    )
    wrong = twin.paths.log_q_path(x).numpy() + nll
    c.must_fail("002 (p(x0) for p(x0:T)): share of paths below −log p(x0)", np.mean(wrong < nll), 0.1)


def _error(values: np.ndarray) -> float:
    return float(values.std() / math.sqrt(len(values)))

"""Group E, first part: the thirteen lines of DDPM's appendix A, one entry a step.

Two models: linear-Gaussian with T = 4, where every conditional is also a Schur complement, and mixture data with a
nonlinear denoiser and T = 3. A step holds when both of its lines agree on 2000 paths of q and the new line is still
line 1, which no kernel of the library enters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nelbo.equations.check import Checks, check
from nelbo.equations.lines import Pieces, Setting, grid_setting, linear_setting
from nelbo.equations.oracles.linear import Normal
from nelbo.equations.oracles.quadrature import log_normal
from nelbo.equations.twins import POINTS, grid_twin, linear_twin, misspecified, nonlinear

COUNT = 2000


def linear() -> tuple[Setting, np.ndarray]:
    """The linear-Gaussian model and paths of its q."""
    twin = linear_twin(misspecified())
    return linear_setting(twin), twin.chain.q.sample(COUNT, np.random.default_rng(21))


def mixture() -> tuple[Setting, np.ndarray]:
    """The nonlinear model on mixture data and paths of its q."""
    twin = grid_twin(nonlinear())
    return grid_setting(twin), twin.chain.sample(COUNT, np.random.default_rng(22))


def step(entry: str, line: int, also: Callable[[Checks], None] | None = None) -> None:
    """Register the check of the step from `line` to the next."""

    @check(entry)
    def _(c: Checks) -> None:
        for setting, x in (linear(), mixture()):
            lines = Pieces.of(setting, x).lines()
            old, new = lines[line], lines[line + 1]
            c.holds(f"line {line} = line {line + 1} on {COUNT} paths, {setting.name}", old - new, 1e-9)
            if line > 1:
                c.holds(f"line {line + 1} is still line 1, {setting.name}", new - lines[1], 1e-9)
        if also is not None:
            also(c)


def without_the_data(c: Checks) -> None:
    """Bayes' rule without x_0: the step that line 4 makes possible, left out."""
    setting, x = linear()
    q = linear_twin(misspecified()).chain.q
    blind = sum(q.log_density([t - 1], [t])(x) - setting.paths.log_q_posterior(x, t).numpy() for t in range(2, 5))
    c.must_fail("q(x_t−1 | x_t) for q(x_t−1 | x_t, x_0): line 8 moves by", blind, 0.3)


def stray_first_step(c: Checks) -> None:
    """The sum from t = 2 alone."""
    setting, x = linear()
    lines = Pieces.of(setting, x)
    c.must_fail("the split-off step dropped", lines.p[1] - lines.q[1], 0.3)


def log_of_a_difference(c: Checks) -> None:
    """What 002 prints under its brace: one logarithm of differences."""
    setting, x = linear()
    pieces = Pieces.of(setting, x)
    last, first, decoder = pieces.marginal[4], pieces.marginal[1], pieces.p[1]
    printed = np.exp(last) - np.exp(first) + np.exp(first) - np.exp(decoder)
    right = last - decoder
    c.must_fail("002, log{q_T − q_1 + q_1 − p}: share of paths with a negative argument", np.mean(printed <= 0), 0.2)
    defined = printed > 0
    c.must_fail(
        "the same where it is defined: mean error", np.abs(np.log(printed[defined]) - right[defined]).mean(), 0.2
    )
    c.holds("log q_T − log q_1 + log q_1 − log p is the right reading", last - first + first - decoder - right, 1e-12)


def small_t_for_last(c: Checks) -> None:
    """What 002 prints on its next page: t where T belongs."""
    setting, x = linear()
    pieces = Pieces.of(setting, x)
    right = pieces.marginal[4] - pieces.log_prior
    printed = pieces.marginal[2] - log_normal(x[:, 2], 0.0, 1.0)
    c.must_fail("002 writes q(x_t | x_0)/p(x_t); at t = 2, mean error", np.abs(printed - right).mean(), 0.1)


step("chain-factorise", 1)
step("chain-split-first", 2, stray_first_step)
step("chain-markov-insert", 3, without_the_data)
step("chain-conditional-to-joint", 4)
step("chain-joint-refactor", 5)
step("chain-joint-to-conditional-x0", 6)
step("chain-cancel-qx0", 7)
step("chain-log-expand", 8)
step("chain-absorb-first", 9)
step("chain-telescope", 10, log_of_a_difference)
step("chain-merge-prior", 11, small_t_for_last)


@check("chain-to-kl")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    chain, count = twin.chain, 30_000
    ratio, terms = twin.read("log_ratio"), twin.read("three_terms")
    c.must_fail(
        "lines 12 and 13 agree path by path: standard deviation of the difference",
        (ratio - terms).variance(chain.q) ** 0.5,
        0.2,
    )
    c.holds("they agree in expectation under q(x0:T)", ratio.mean(chain.q) - terms.mean(chain.q), 1e-10)
    c.holds("and given each x0", [(ratio - terms).mean(chain.given(x0)) for x0 in POINTS], 1e-10)
    c.holds("the library's three terms, as a form in the path", (terms - chain.three_terms()).coefficients(), 1e-10)
    x = chain.q.sample(count, np.random.default_rng(23))
    last, kls = Pieces.of(linear_setting(twin), x).lines()[12], twin.paths.three_terms(x).numpy()
    c.z(f"sample means of lines 12 and 13 on {count} paths", (last - kls).mean(), 0.0, _error(last - kls))
    dropped = last - (kls - twin.paths.reconstruction(x).numpy())
    c.z_must_fail("line 13 without −log p(x0 | x1)", dropped.mean(), 0.0, _error(dropped))
    bent = grid_twin(nonlinear())
    for x0 in POINTS:
        nodes, w = bent.chain.paths(x0, 24)
        exact = w @ (bent.chain.log_q_path(nodes) - bent.chain.log_p_path(nodes))
        c.holds(f"mixture, x0 = {x0}, Gauss-Hermite 24³", exact - w @ bent.paths.three_terms(nodes).numpy(), 1e-7)
    path = bent.chain.sample(count, np.random.default_rng(25))
    spread = (bent.paths.log_ratio(path) - bent.paths.three_terms(path)).numpy()
    c.z(f"mixture: sample means on {count} paths", spread.mean(), 0.0, _error(spread))
    blind = []
    for t in range(2, chain.T + 1):
        apart = chain.q.covariance.copy()  # x_t−1 ~ q(· | x_0), blind to x_t
        apart[t, t - 1] = apart[t - 1, t] = apart[t, 0] * apart[t - 1, 0] / apart[0, 0]
        ratio = twin.read("step_ratio", t).mean(Normal(chain.q.mean, apart))
        blind.append(ratio - chain.step_kl(t).mean(chain.q))
    c.must_fail("x_t−1 drawn without regard to x_t: the mean of the log ratio is off by", blind, 0.05)


@check("telescoping-product")
def _(c: Checks) -> None:
    twin = linear_twin(misspecified())
    q, x = twin.chain.q, twin.chain.q.sample(COUNT, np.random.default_rng(26))
    m = [np.zeros(COUNT), *(twin.paths.log_q_marginal(x, t).numpy() for t in range(1, 5))]
    product = sum(m[t] - m[t - 1] for t in (2, 3, 4))
    c.holds(
        "T = 4: the product of the library's marginals is q(x_4 | x_0)/q(x_1 | x_0)", product - (m[4] - m[1]), 1e-12
    )
    exact = q.log_density([4], [0])(x) - q.log_density([1], [0])(x)
    c.holds("the same by the joint covariance", product - exact, 1e-10)

    def log_q(t: int, *given: int) -> np.ndarray:
        return q.log_density([t], given)(x)

    printed = log_q(3, 2, 0) - log_q(3, 1, 0) + log_q(4, 3, 0) - log_q(4, 2, 0) + log_q(1, 0) - log_q(1, 2, 0)
    c.must_fail("002, the printed product: mean error", np.abs(printed - product).mean(), 0.3)
    c.must_fail(
        "002, the printed result q(x_3 | x_0)/q(x_1 | x_0): mean error", np.abs(m[3] - m[1] - product).mean(), 0.1
    )
    c.must_fail("002, the printed product against its printed result", np.abs(printed - (m[3] - m[1])).mean(), 0.3)


def _error(values: np.ndarray) -> float:
    return float(values.std() / math.sqrt(len(values)))

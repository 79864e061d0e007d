"""Group K: chains over masked places. Oracles: enumeration of all orders, subsets and paths of a table of laws.

The forms that must fail are those of published programs; a row names the repository and the file.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from nelbo.bound.tokens.masked import MaskedChain
from nelbo.equations import token_twins as twins
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import tokens as oracle
from nelbo.errors import UsageError
from nelbo.model.tokens.reverse import AllMasked, MatchedMask
from nelbo.process.grid import Continuous
from nelbo.process.tokens.kernel import Absorbing
from nelbo.process.tokens.levels import TokenLevels
from nelbo.process.tokens.survival import AlphaTable, Linear, Survival

GOLF = "parameter-golf, 2026-03-29_LLaDA_MDLM_Diffusion/train_mdlm.py"
V, L = 3, 3
X = (0, 2, 1)
ALPHAS = (0.8, 0.45, 0.2, 0.0)
TABLE = oracle.of_table(V, L)


def _chain(schedule: Survival, **parts: object) -> MaskedChain:
    model = twins.model_of(TABLE, schedule, **parts)  # type: ignore[arg-type]
    return MaskedChain(model=model, data=torch.tensor([X]), scored=torch.ones(1, L, dtype=torch.bool))


def _levels(alpha: float) -> TokenLevels:
    a = twins.double([alpha])
    return TokenLevels(1 - a, a, 1 - a)


@check("token-forward-masked")
def _(c: Checks) -> None:
    kernel, z = Absorbing(V), torch.tensor([[0, 2, V]])
    found = kernel.likelihood(z, _levels(0.3), V)[0].numpy()
    expected = np.stack([0.3 * np.eye(V)[0], 0.3 * np.eye(V)[2], np.full(V, 0.7)])
    c.holds("nelbo's q(z | x) of every x = α of the symbol itself, 1 − α of the mask", found - expected, 1e-15)
    steps = [0.8, 0.5, 0.75]  # survivals of three steps: a mask stays a mask
    whole = np.linalg.multi_dot([_step(a) for a in steps])
    c.holds(
        "three steps, each a matrix over V + 1 symbols, are one", whole[:V, 0] - math.prod(steps) * np.eye(V)[0], 1e-15
    )
    back = np.linalg.multi_dot([_step(a, leaves=0.1) for a in steps])
    c.must_fail("a mask that may be left again", back[:V, 0] - math.prod(steps) * np.eye(V)[0], 0.01)


def _step(alpha: float, leaves: float = 0.0) -> np.ndarray:
    Q = np.zeros((V + 1, V + 1))
    Q[:V, :V], Q[:V, V], Q[V, V] = alpha * np.eye(V), 1 - alpha, 1 - leaves
    Q[V, :V] = leaves / V
    return Q


@check("token-posterior-masked")
def _(c: Checks) -> None:
    s, t = 0.45, 0.2
    joint = {"kept": (1 - s) * 1.0, "shown": s * (1 - t / s)}  # of z_s masked or x, and z_t masked
    exact = joint["shown"] / sum(joint.values())
    chain = _chain(AlphaTable(twins.double(ALPHAS)))
    weight = chain.weight_of(torch.zeros(4, dtype=torch.long), torch.arange(4)).numpy()
    rates = 1 - np.array(ALPHAS)
    c.holds("nelbo's weight of a step = n P(masked at t) P(revealed in it)", weight[2] - L * (1 - t) * exact, 1e-14)
    c.holds("(α_s − α_t)/(1 − α_t) by Bayes' rule", exact - (s - t) / (1 - t), 1e-15)
    c.must_fail("duo, algo.py: α_s = t − dt in the place of 1 − (t − dt)", ((1 - s) - t) / (1 - t) - exact, 0.1)
    c.info("mask rate of the step", float(rates[2]))


@check("token-bound-steps")
def _(c: Checks) -> None:
    schedule = AlphaTable(twins.double(ALPHAS))
    chain = _chain(schedule)
    weights = chain.weight_of(torch.zeros(4, dtype=torch.long), torch.arange(4)).tolist()
    parts = [twins.around(chain.model, X, 1 - a, w) for a, w in zip(ALPHAS, weights, strict=True)]
    exact = TABLE.by_paths(X, ALPHAS, "masked")
    c.holds("nelbo's steps = E_q log q(path)/p(path) over all paths", sum(parts) - exact, 1e-12)
    over = {a: TABLE.over_masks(X, 1 - a) for a in ALPHAS}
    before = (1.0, *ALPHAS[:-1])
    c.holds(
        "Σ (α_s − α_t)/(1 − α_t) E Σ −log p",
        sum((s - t) / (1 - t) * over[t] for s, t in zip(before, ALPHAS, strict=True)) - exact, 1e-12,
    )  # fmt: skip
    wrong = sum((s - t) / max(t, 0.1) * over[t] for s, t in zip(before, ALPHAS, strict=True))
    c.must_fail(
        f"{GOLF}: (1 − ε)/α for (1 − ε)/(1 − α)",
        wrong - exact,
        0.5,
    )
    mean = sum((s - t) / (1 - t) * TABLE.over_masks(X, 1 - t, np.mean)
               for s, t in zip(before, ALPHAS, strict=True))  # fmt: skip
    c.must_fail("the mean over hidden places where their sum is meant", mean - exact, 0.5)


@check("token-bound-continuous")
def _(c: Checks) -> None:
    exact = TABLE.by_orders(X)
    chain = _chain(Linear(), grid=Continuous())
    nodes, weights = np.polynomial.legendre.leggauss(4)
    slices = len(chain.cells)
    w = float(chain.weight_of(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)))
    rates = (nodes + 1) / 2
    found = sum(
        wi / 2 * twins.around(chain.model, X, float(r), w * slices) for r, wi in zip(rates, weights, strict=True)
    )
    c.holds("nelbo's integrand over u in (0, 1), by exact quadrature = the bound by all orders", found - exact, 1e-11)
    coarse = [_by_steps(T) for T in (50, 100)]
    c.holds("the bound of T steps nears it as 1/T: 2 B_100 − B_50", 2 * coarse[1] - coarse[0] - exact, 2e-3)
    for eps, name in ((0.1, "t = 0.1"), (1e-3, "t = 0.001")):
        kept = _integral(eps)
        c.must_fail(f"Score-Entropy-Discrete-Diffusion, losses.py; mdlm, diffusion.py: dropped below {name}",
                    kept - exact, 0.5 * eps)  # fmt: skip


def _by_steps(T: int) -> float:
    """The bound of T even steps by its formula."""
    return sum(TABLE.over_masks(X, k / T) / k for k in range(1, T + 1))


def _integral(start: float) -> float:
    """∫_start^1 E Σ −log p/u du: polynomials in u, so that a few nodes are exact."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    u = start + (1 - start) * (nodes + 1) / 2
    values = [TABLE.over_masks(X, float(v)) / v for v in u]
    return float((1 - start) / 2 * (weights * values).sum())


@check("token-prior-infinite")
def _(c: Checks) -> None:
    c.true("E_q log q/p over paths is infinite", math.isinf(TABLE.by_paths(X, (0.8, 0.3, 0.01), "masked")))
    refused = False
    try:
        AllMasked().check(Absorbing(V), _levels(0.01), V)
    except UsageError as error:
        refused = "infinite" in str(error)
    c.true("nelbo refuses it by name", refused)
    AllMasked().check(Absorbing(V), _levels(0.0), V)
    left_out = TABLE.by_paths(X, (0.8, 0.3, 0.01), "matched") - L * 0.01 * math.log(V)
    c.must_fail("md4, md4/models/diffusion/md4.py: a prior term of 0 although α(1) > 0",
                left_out - TABLE.by_paths(X, (0.8, 0.3, 0.01), "matched"), 0.01)  # fmt: skip


@check("token-prior-matched")
def _(c: Checks) -> None:
    alpha = 0.15
    q = np.array([*(alpha * np.eye(V)[0]), 1 - alpha])
    p = np.array([*np.full(V, alpha / V), 1 - alpha])
    exact = float((q[q > 0] * np.log(q[q > 0] / p[q > 0])).sum())
    found = MatchedMask().divergence(torch.tensor([X]), _levels(alpha), Absorbing(V), V)
    c.holds("nelbo's prior term of a place = KL of the two laws over V + 1 symbols", found - exact, 1e-14)
    c.holds("α_T log V", exact - alpha * math.log(V), 1e-14)
    whole = TABLE.by_paths(X, (0.8, 0.4, alpha), "matched")
    steps = sum((s - t) / (1 - t) * TABLE.over_masks(X, 1 - t)
                for s, t in ((1.0, 0.8), (0.8, 0.4), (0.4, alpha)))  # fmt: skip
    c.holds("the steps and n α_T log V = E_q log q/p over paths", steps + L * alpha * math.log(V) - whole, 1e-12)
    c.must_fail("without it", steps - whole, 0.1)


@check("token-first-level")
def _(c: Checks) -> None:
    start = 0.2
    chain = _chain(Linear(), grid=Continuous(t_first=start))
    c.true("nelbo decodes the places that are masked at the first level with the network", chain.first_cost == 1)
    found = twins.around(chain.model, X, start, L * start)
    exact = TABLE.over_masks(X, start)
    c.holds("nelbo's first term = E Σ −log p over masks of rate 1 − α_1", found - exact, 1e-12)
    rest = (1 - start) * TABLE.over_masks(X, 1.0)
    c.holds(
        "it and one more step = E_q log q/p over paths",
        found + rest - TABLE.by_paths(X, (1 - start, 0.0), "masked"),
        1e-12,
    )
    uniform = L * start * math.log(V)
    c.must_fail("md4, md4/models/diffusion/md4.py: n (1 − α_1) log V, whatever the network says", uniform - exact, 0.02)

"""Group K: chains over counts of masked places. Oracles: all orders and subsets of a table of laws.

The forms that must fail are those of published programs; a row names the repository and the file.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from nelbo.equations import token_twins as twins
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import tokens as oracle
from nelbo.model.exact.tokens import TokenData
from nelbo.model.tokens.chain import counts_of
from nelbo.model.tokens.domain import scored_places
from nelbo.process.grid import Even
from nelbo.process.tokens import counts
from nelbo.process.tokens.survival import Cosine, Linear, Survival

V, L = 3, 3
X = (0, 2, 1)
TABLE = oracle.of_table(V, L)
JOINT = oracle.random_joint(V, L)


@check("token-count-weight")
def _(c: Checks) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    u, w = (nodes + 1) / 2, weights / 2
    n, size = 7, np.arange(1, 8)
    chosen = [math.comb(n, k) for k in size]
    integrals = np.array([(w * m * u ** (k - 1) * (1 - u) ** (n - k)).sum() for k, m in zip(size, chosen, strict=True)])
    c.holds("∫ C(n, l) u^(l−1) (1 − u)^(n−l) du = 1/l", integrals - 1 / size, 1e-14)
    # the same with nelbo's sets around a place: the size of M' is uniform when u is
    masks = torch.tensor(list(itertools.product([False, True], repeat=4)))
    v, place = (~masks).double() * 0.5 + 0.2, torch.full((len(masks),), 0.3).double()
    rate = torch.full((len(masks),), 0.5).double()
    M = counts.around_a_place(v, place, torch.ones_like(masks), rate)
    c.true("nelbo's M' holds its place, and every other one by chance", torch.equal(M, masks | (torch.arange(4) == 1)))
    c.holds("P(|M'| = l) over uniform u = 1/n", integrals * size / n - 1 / n, 1e-14)
    c.must_fail("1/(l + 1), of masks drawn without a place", integrals - 1 / (size + 1), 0.1)


@check("token-count-form")
def _(c: Checks) -> None:
    model = twins.model_of(TABLE)
    exact = TABLE.by_orders(X)
    c.holds("nelbo's Σ_l g(l) = the mean over all orders", twins.over_counts(model, X) - exact, 1e-12)
    h = [TABLE.mean_cost(X, k) * k for k in range(1, L + 1)]
    c.holds("Σ_l h(l)/l", sum(v / k for k, v in enumerate(h, 1)) - exact, 1e-12)
    c.must_fail(
        "duo, discrete_diffusion_harness.py: a mean over places in the place of their sum", exact / L - exact, 1.0
    )
    c.must_fail("a weight of 1/L at every count", sum(h) / L - exact, 0.3)


@check("token-any-order")
def _(c: Checks) -> None:
    model = twins.model_of(TABLE)
    for x in ((0, 2, 1), (1, 1, 0)):
        c.holds(
            f"nelbo's bound of {x} = the mean over its 6 orders",
            twins.over_counts(model, x) - TABLE.by_orders(x),
            1e-12,
        )
    left = TABLE.cost(X, (0, 1, 2))[0] + TABLE.cost(X, (1, 2))[1] + TABLE.cost(X, (2,))[2]
    c.must_fail("the cost of one order, from left to right", left - TABLE.by_orders(X), 0.05)


@check("token-schedule-invariance")
def _(c: Checks) -> None:
    exact = TABLE.by_orders(X)
    c.true("nelbo runs such a network over counts, without a schedule", twins.model_of(TABLE).counted)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t, w = (nodes + 1) / 2, weights / 2
    for law, slope in ((Linear(), lambda t: 0 * t + 1), (Cosine(), lambda t: math.pi / 2 * np.cos(math.pi / 2 * t))):
        noise = law.noise(twins.double(t)).numpy()
        terms = np.array([TABLE.over_masks(X, float(u)) for u in noise])
        found = float((w * slope(t) / noise * terms).sum())
        c.holds(f"∫ −α′/(1 − α) E Σ −log p dt of the {law.kind} law", found - exact, 1e-10)
    of_another = float((w / t * terms).sum())
    c.must_fail("the cosine law with the weight 1/t of the linear one", of_another - exact, 0.2)
    c.must_fail("of a network that is told the time, two laws differ", _told(Linear()) - _told(Cosine()), 0.01)


def _told(law: Survival) -> float:
    """The bound of a network whose costs grow with the time it is told: cost · (1 + t)."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, w = (nodes + 1) / 2, weights / 2
    t = law.time_of(twins.double(u)).numpy()
    terms = [TABLE.over_masks(X, float(v)) * (1 + s) for v, s in zip(u, t, strict=True)]
    return float((w / u * np.array(terms)).sum())


@check("token-bayes-exact")
def _(c: Checks) -> None:
    data, exact = TokenData(twins.double(JOINT)), oracle.of_joint(JOINT)
    model = data.model()
    found = np.array([twins.over_counts(model, x) for x in exact.sequences])
    nll = -np.log([JOINT[x] for x in exact.sequences])
    c.holds("nelbo's bound of every sequence = −log p(x)", found - nll, 1e-11)
    c.holds("its mean = the entropy", (JOINT.flatten() * found).sum() - data.entropy(), 1e-11)
    sharp = oracle.Masked(V, L, lambda z: _sharpened(exact.law(z)))
    worse = sum(JOINT[x] * sharp.by_orders(x) for x in exact.sequences)
    c.must_fail("sharpened conditionals reach the entropy", worse - data.entropy(), 0.05)
    # three equal bits as one joint symbol: once a token is no bound
    joint = np.zeros((2, 2, 2))
    joint[0, 0, 0] = joint[1, 1, 1] = 0.5
    once = _joint_subtokens(joint)
    c.must_fail("mdm-prime, text/diffusion.py: the joint cost of the sub-tokens once a token, weight 1/t",
                once - math.log(2), 0.1)  # fmt: skip
    c.true("which is below the entropy, and so bounds nothing", once < math.log(2) - 0.1, once)


def _joint_subtokens(joint: np.ndarray) -> float:
    """∫ (1/u) E[−log p(x | z)] du, with the joint posterior of all sub-tokens, where every one is masked or not: the
    form that counts a token once while its weight is that of one place; averaged over x."""
    n, total = joint.ndim, 0.0
    for x in itertools.product(range(2), repeat=n):
        if joint[x] == 0:
            continue
        for size in range(1, n + 1):
            for M in oracle.subsets(n, size):
                seen = joint[tuple(slice(None) if i in M else slice(v, v + 1) for i, v in enumerate(x))]
                # ∫ u^(l−1) (1 − u)^(n−l) du, over the subsets of a size
                weight = 1 / (size * math.comb(n, size))
                total += joint[x] * weight * -math.log(joint[x] / seen.sum())
    return total


def _sharpened(law: np.ndarray) -> np.ndarray:
    powers = law**2
    return powers / powers.sum(1, keepdims=True)


@check("token-steps-of-many")
def _(c: Checks) -> None:
    exact = TABLE.by_orders(X)
    for K in (1, 2, 3):
        edges = [0, *counts_of(Even(K), L)]
        found = twins.over_counts(twins.model_of(TABLE, grid=Even(K)), X)
        c.holds(f"nelbo's bound of K = {K} steps = the mean over orders, block by block",
                found - TABLE.by_orders(X, edges), 1e-12)  # fmt: skip
    joint = oracle.of_joint(JOINT)
    mean = [sum(JOINT[x] * joint.by_orders(x, [0, *counts_of(Even(K), L)]) for x in joint.sequences) for K in (1, 2, 3)]
    c.true("of exact conditionals, fewer steps cost more", mean[0] > mean[1] + 0.01 > mean[2] + 0.02, mean[0] - mean[2])
    low = sum((high - low_) * TABLE.mean_cost(X, max(low_, 1)) for low_, high in itertools.pairwise([0, 1, 3]))
    c.must_fail("each step paid at its smaller count", low - TABLE.by_orders(X, [0, 1, 3]), 0.01)
    c.info("bound of single steps", exact)


@check("token-pattern-probability")
def _(c: Checks) -> None:
    n, size = 6, 3
    scored = torch.ones(1, n, dtype=torch.bool)
    found = counts.pattern_probabilities(scored, torch.tensor([size]))[0].numpy()
    every = oracle.subsets(n, size)
    seen = np.zeros((n, found.shape[1]))
    for M in every:
        masked = torch.tensor([[i in M for i in range(n)]])
        pattern = counts.patterns(masked)[0]
        for i in M:
            seen[i, int(pattern[i])] += 1 / math.comb(n - 1, size - 1)
    c.holds("nelbo's C(n − 1 − a − b, l − 1 − a)/C(n − 1, l − 1) = counted over all subsets", found - seen, 1e-12)
    inner = seen[2]  # all four neighbours are there
    free = np.array([(size / n) ** (4 - k.bit_count()) * (1 - size / n) ** k.bit_count() for k in range(16)])
    c.must_fail("neighbours as if masked independently", inner - free, 0.02)


@check("token-prompt")
def _(c: Checks) -> None:
    joint, x = oracle.random_joint(V, 4), (0, 2, 1, 1)
    given = torch.tensor([[True, True, False, False]])
    scored = scored_places(torch.tensor([x]), given, None)
    c.true("nelbo scores what is not given", torch.equal(scored, ~given))
    exact, answer = oracle.of_joint(joint), (2, 3)
    nll = -math.log(joint[x] / joint[x[:2]].sum())
    every = [M for M in oracle.subsets(4) if set(M) <= set(answer)]
    h = {k: float(np.mean([exact.cost(x, M)[list(M)].sum() for M in every if len(M) == k])) for k in (1, 2)}
    c.holds("Σ h(l)/l over the scored places = −log p(answer | prompt)", sum(v / k for k, v in h.items()) - nll, 1e-12)
    # with t uniform, 0, 1 or 2 places are hidden alike, and the rate is taken for (hidden places)/4
    share = sum(v / (k / 4) for k, v in h.items()) / 3
    c.must_fail("duo, discrete_diffusion_harness.py: α over prompt and answer", share - nll, 0.1)
    c.must_fail("and its log-likelihood of 0 for an answer that is too long, which then wins", 0.0 - nll, 0.1)

"""The plan of the per-example design: strata and first-level draws of every example, by blocks.

From the pilot, and then from the variances that the blocks before have shown. Nothing here draws anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from nelbo.bound.planned.allocation import AT_ONCE, FREE, LARGEST, MIN_DRAWS, MOST, DesignPlan, relative_cost
from nelbo.bound.planned.blocks import Block
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.problem import Problem

FALL = 1.4
"""The variance of an example falls about as its strata to the power −FALL: between 1, that of noise, and 3, that of a
smooth function drawn twice in every stratum. Draws that are added to a block are weighted by it."""
LEAST_STRATA = 2
"""Fewest strata of an example: one pair over the whole chain has a rough error and hardly tells it."""
TWICE, TWICE_OF = 72, 12
"""About as many examples after the first block have two draws in every stratum, where the others have one; and the
examples for each of these from which it is so."""
_WHOLE = 1e6
"""Numbers of strata above which fractions of one do not count."""
_SMOOTH_FALL = 1.7
"""As FALL, of the part of a residual that is the example's and not noise: it is smoother along the chain."""
_NOISE_FALL = 1.12
"""As FALL, of noise: the more draws, the better are the fits that they correct (seen: between 1 and 1.4)."""
_FINER_THAN_PLANNED = 2
"""Most strata that blocks get, over those of the plan."""
_GROWTH = 1.05
"""Factor between the numbers of strata that a plan tries: 5 % is less than the pilot knows of the variance."""
_AIM = 0.95
"""Share of the tolerance's variance that blocks of examples are planned for: the last one's is not known before."""
_LEAST_SHARE = 0.85
"""Least variance of an example that remains, of what an equal share would leave it."""
_SHARES = (0.15, 0.45, 0.75, 0.92, 1.0)
"""Of the examples, the parts after which the per-example design looks at its variance and plans the next block."""
_APART = 0.1
"""Least difference of the first part from one of _SHARES that is still a part of its own."""


def for_error(problem: Problem, pilot: Pilot, target: float, strata: int | None = None) -> DesignPlan:
    """The per-example design for a standard error of `target` nats, from the pilot's variances; or with `strata`."""
    d, r, N = pilot.diffusion, pilot.reconstruction, problem.examples
    noise = float((d.size * d.noise).sum()) ** 2
    smooth = max(0.0, float((d.size * d.residual).sum()) ** 2 - noise)
    noise_r = float(r.size[0] * r.noise[0]) ** 2
    cost_r = relative_cost(problem)
    k = float(strata or max(LEAST_STRATA, MIN_DRAWS / N))
    # strands depend on each other; and errors of differences are those of sums, which those of single draws are not
    plain = problem.strands or problem.along is not None or not problem.cell_cost or strata
    twice = 1.0 if plain or N < TWICE_OF * TWICE else TWICE / N
    while True:
        # draws of the two terms in proportion to their standard deviations
        m = min(max(1.0, k * math.sqrt(noise_r / max(noise + smooth / 2, 1e-300) / cost_r)), MOST)
        variance = (noise / k**_NOISE_FALL + smooth / 2 / k**_SMOOTH_FALL + noise_r / m) / 2 * (2 - twice)
        if strata or variance <= target**2 * N or k >= MOST:
            break
        k *= _GROWTH
    cost = cost_of(problem, N, k, m, twice)
    return DesignPlan(k, m, cost, cost * max(1.0, variance / (target**2 * N)), twice)


def cost_of(problem: Problem, examples: float, strata: float, reconstructions: float, twice: float = 1.0) -> float:
    """Evaluations of `examples` with two draws in each of `strata` and 2·`reconstructions` at the first level, or half
    as many but for a part `twice` of them."""
    return examples * (1 + twice) * (strata * problem.cell_cost + reconstructions * problem.first_cost)


def parts(N: int, strata: float) -> list[int]:
    """Numbers of examples that are planned together, one after the other: the first with MIN_DRAWS/2 pairs or more."""
    first = max(_SHARES[0], MIN_DRAWS / 2 / (N * strata))
    ends = [math.ceil(N * share) for share in (first, *(s for s in _SHARES[1:] if s > first + _APART))]
    ends = [*(end for end in ends if end < N), N]
    return [b - a for a, b in zip([0, *ends], ends, strict=False) if b > a]


def first_block(plan: DesignPlan, N: int) -> tuple[float, float]:
    """Strata and pairs of first-level draws of the first block, at most a quarter of the cost of the plan, since a
    small pilot overrates what they leave."""
    k = plan.strata * (1 + plan.twice) / 8
    k = max(MIN_DRAWS / N, min(round(plan.strata), max(LEAST_STRATA, k)), LEAST_STRATA)
    return k, float(max(1, round(plan.reconstructions * k / plan.strata)))


def within(problem: Problem, k: float, m: float, most: float, twice: float = 1.0) -> tuple[float, float]:
    """k strata and m pairs of first-level draws, or as much of both as `most` evaluations an example allow."""
    least, cost = (cost_of(problem, 1, *n, twice) for n in ((1, 1), (k, m)))
    if cost <= most:
        return k, m
    part = max(0.0, (most - least) / (cost - least))
    return 1 + part * (k - 1), 1 + part * (m - 1)


def whole_numbers(examples: int, k: float, m: float) -> Iterator[tuple[int, int, int]]:
    """`examples` in groups with whole numbers of strata and pairs, which are k and m on average or a little less."""
    low = math.floor(k), math.floor(m)
    ends = [math.floor((n - whole) * examples + 1e-9) for n, whole in zip((k, m), low, strict=True)]
    edges = sorted({0, *ends, examples, *range(0, examples, LARGEST)})
    for a, b in pairwise(edges):
        yield b - a, low[0] + (b <= ends[0]), low[1] + (b <= ends[1])


class Scatter(NamedTuple):
    """Variances that drawn examples have shown, in nats²: the sum of theirs; the mean of the diffusion term's at one
    stratum and of the reconstruction's at two draws; and the factor of an error bar for being uncertain."""

    total: float
    diffusion: float
    reconstruction: float
    widening: float

    def goal(self, target: float, N: int) -> float:
        """The sum of N examples' variances that blocks are planned for, for a standard error of `target`."""
        return _AIM * target**2 / self.widening * N**2


def next_block(
    problem: Problem, scatter: Scatter, target: float, remaining: int, plan: DesignPlan
) -> tuple[float, float]:
    """Strata and pairs of first-level draws of the `remaining` examples, from the variances of those that are done.

    The whole is to come to `target` nats, where an example has 2 − twice times the variance that two draws in every
    stratum leave. But those that remain are not made much finer than an equal share asks, since what the blocks before
    lack is cheaper mended there; nor twice finer than the pilot wanted, whatever one wild pair in the first block says.
    """
    N = problem.examples
    goal = scatter.goal(target, N)
    variance = max((goal - scatter.total) / remaining, _LEAST_SHARE * goal / N)
    k, m = cheapest(problem, scatter, variance / (2 - plan.twice))
    # of few examples each counts: none is to have its error from a pair or two
    k = min(k, _FINER_THAN_PLANNED * plan.strata)
    return max(k, LEAST_STRATA, MIN_DRAWS / N), min(m, max(1.0, 2 * plan.reconstructions))


def cheapest(problem: Problem, scatter: Scatter, variance: float) -> tuple[float, float]:
    """Of all strata k and pairs m of first-level draws that leave an example `variance` nats², the cheapest.

    An example's variance falls as A k^(−FALL) with its strata and as B/m with its first-level draws.
    """
    A, B = scatter.diffusion, scatter.reconstruction
    best, least = (float(MOST), float(MOST)), math.inf
    cost_r = max(problem.first_cost, FREE)
    for m in [1 + i / 8 for i in range(32)] + [2.0**i for i in range(3, 24)] if B else [1.0]:
        rest = variance - B * mixed(m, 1.0)
        if rest <= 0:
            continue
        k = strata(min(1.0, rest / A), FALL) if A else 1.0
        if (cost := k * problem.cell_cost + m * cost_r) < least:
            least, best = cost, (k, m)
    return best


def mixed(n: float, fall: float) -> float:
    """n^(−fall), where n lies between whole numbers that mixture of the two which has n on average."""
    low = math.floor(n)
    part = n - low
    return (1 - part) * low**-fall + part * (low + 1) ** -fall


def strata(share: float, fall: float) -> float:
    """The n ≥ 1 whose `mixed` is `share`."""
    n = share ** (-1 / fall)
    if n > _WHOLE:
        return n
    low = max(1, math.floor(n + 1e-9))
    upper, lower = low**-fall, (low + 1) ** -fall
    return low + min(1.0, max(0.0, (upper - share) / (upper - lower)))


def roughest(
    problem: Problem, blocks: Sequence[Block], scatter: Scatter, target: float, twice: float
) -> tuple[Block, int, int]:
    """The block to be drawn again, strata and pairs of first-level draws: the one that has least of what it lacks.

    All examples are alike before they are drawn, so equal strata are the cheapest; and a block is not chosen by the
    variance that it showed, which would favour samples whose skewed tail has not shown yet.
    """
    N, halved = problem.examples, 2 - twice
    A, B, goal = scatter.diffusion, scatter.reconstruction, scatter.goal(target, N)
    k, m = cheapest(problem, scatter, goal / N / halved)
    wanted, m = k**FALL / halved, m / halved
    excess = scatter.total - goal
    late = list(reversed(blocks))
    rough, few = min(late, key=lambda b: b.weight), min(late, key=lambda b: b.draws)
    if B and m / (few.draws / 2) > ((wanted / rough.weight) ** (1 / FALL) if A else 0):
        pairs = few.draws / 2
        share = len(few.rows) * B / pairs
        most = AT_ONCE / (2 * len(few.rows))
        return few, 0, max(1, math.ceil(min(m - pairs, pairs * _more(excess / share), most)))
    share = len(rough.rows) * A / rough.weight if A else math.inf
    more = min(wanted - rough.weight, rough.weight * _more(excess / share))
    most = AT_ONCE / (2 * len(rough.rows))
    return rough, max(LEAST_STRATA, math.ceil(min(max(0.0, more) ** (1 / FALL), most))), 0


def _more(part: float) -> float:
    """The weight, of what there is, that takes `part` of a variance away; at most all but a thousandth of it."""
    part = min(max(part, 0.0), 0.999)
    return part / (1 - part)

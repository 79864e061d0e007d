"""Plans: which design, and how much of it, from the variances that a pilot or the draws so far have shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.bound.per_example import FALL, Block, PerExample
from nelbo.bound.pilot import Pilot
from nelbo.bound.pooled import CREDIT, MIN_DRAWS
from nelbo.bound.problem import Problem

LEAST_STRATA = 2
"""Fewest strata of an example: one pair over the whole chain has a rough error and hardly tells it."""
AIM = 0.95
"""Share of the tolerance's variance that blocks of examples are planned for: the last one's is not known before."""
LEAST_SHARE = 0.85
"""Least variance of an example that is left, of what an equal share would leave it."""
MOST = 256
"""Most strata and pairs of first-level draws that are planned for an example."""
_SHARES = (0.15, 0.45, 0.75, 0.92, 1.0)
"""Of the examples, the parts after which the per-example design looks at its variance and plans the next block."""


@dataclass(frozen=True)
class Plan:
    """A design and its size: strata and first-level draws (of all examples together, or of each one)."""

    design: str
    strata: float
    reconstructions: float
    cost: float


def pooled(problem: Problem, pilot: Pilot, target: float) -> Plan:
    """The pooled design for a standard error of `target` nats, from the pilot's variances."""
    goal = target**2
    d, r = pilot.diffusion, pilot.reconstruction
    spread = float((d.size * d.residual).sum())
    spread_r = float(r.size[0] * r.residual[0])
    cost_r = max(problem.decoder_cost, 0.05)
    # Neyman between the two terms: draws ∝ sd / √cost
    both = spread + spread_r * math.sqrt(cost_r)
    N = problem.examples
    credit = CREDIT * min(pilot.between_by(r, d, credited=True), spread**2)
    share = both / (goal + credit / N)
    if share * spread > N:
        share = (both - credit / max(spread, 1e-300)) / goal
    n = max(MIN_DRAWS / 2, share * spread) if spread else 0
    n_r = math.ceil(max(MIN_DRAWS / 4, share * spread_r / math.sqrt(cost_r)))
    pairs = math.ceil(n / 2)
    return Plan("pooled", pairs, n_r, 2 * pairs * bool(len(problem.cells)) + problem.decoder_cost * n_r)


def per_example(problem: Problem, pilot: Pilot, target: float, strata: int | None = None) -> Plan:
    """The per-example design for a standard error of `target` nats, from the pilot's variances; or with `strata`."""
    d, r, N = pilot.diffusion, pilot.reconstruction, problem.examples
    noise = float((d.size * d.noise).sum()) ** 2
    image = max(0.0, float((d.size * d.residual).sum()) ** 2 - noise)
    noise_r = float(r.size[0] * r.noise[0]) ** 2
    cost_r = max(problem.decoder_cost, 0.05)
    k = float(strata or max(LEAST_STRATA, MIN_DRAWS / N))
    while True:
        # draws of the two terms in proportion to their standard deviations
        m = max(1.0, k * math.sqrt(noise_r / max(noise + image / 2, 1e-300) / cost_r))
        variance = (noise / k + image / 2 / k**1.7 + noise_r / m) / 2
        if strata or variance <= target**2 * N or k >= MOST:
            break
        k *= 1.05
    return Plan("per_example", k, m, N * 2 * (k * bool(len(problem.cells)) + m * problem.decoder_cost))


def parts(N: int, strata: float) -> list[int]:
    """Numbers of examples that are planned together, one after the other: the first with MIN_DRAWS/2 pairs or more."""
    first = max(_SHARES[0], MIN_DRAWS / 2 / (N * strata))
    ends = [math.ceil(N * share) for share in (first, *(s for s in _SHARES[1:] if s > first + 0.1))]
    ends = [*(end for end in ends if end < N), N]
    return [b - a for a, b in zip([0, *ends], ends, strict=False) if b > a]


def first(wanted: Plan, N: int) -> tuple[float, float]:
    """Strata and pairs of first-level draws of the first block: at most a quarter of the plan, since a small pilot
    overrates what they leave."""
    k = max(MIN_DRAWS / N, min(round(wanted.strata), max(LEAST_STRATA, wanted.strata / 4)), LEAST_STRATA)
    return k, float(max(1, round(wanted.reconstructions * k / wanted.strata)))


def within(drawn: PerExample, k: float, m: float, most: float) -> tuple[float, float]:
    """k strata and m pairs of first-level draws, or as much of both as `most` evaluations an example allow."""
    if drawn.cost(1, k, m) <= most:
        return k, m
    part = (most - drawn.cost(1, 1, 1)) / (drawn.cost(1, k, m) - drawn.cost(1, 1, 1))
    return 1 + max(0.0, part) * (k - 1), 1 + max(0.0, part) * (m - 1)


def block(drawn: PerExample, target: float, examples: int, wanted: Plan) -> tuple[float, float]:
    """Strata and pairs of first-level draws of the examples that are left, from the variances of those that are done.

    The whole is to come to `target` nats; but those that are left are not made much finer than an equal share asks,
    since what the blocks before lack is cheaper mended there (`again`); nor finer than the pilot wanted, whatever one
    wild pair in the first block says.
    """
    N = drawn.problem.examples
    own, A, B, wide = drawn.scatter()
    goal = AIM * target**2 / wide * N**2
    k, m = _cheapest(drawn, A, B, max((goal - own) / examples, LEAST_SHARE * goal / N))
    # of few examples each counts: none is to have its error from a pair or two
    return max(min(k, wanted.strata), LEAST_STRATA, MIN_DRAWS / N), min(m, max(1.0, 2 * wanted.reconstructions))


def again(drawn: PerExample, target: float) -> tuple[Block, int, int]:
    """The block to be drawn again, strata and pairs of first-level draws: the one that has least of what it lacks.

    All examples are alike before they are drawn, so equal strata are the cheapest; and a block is not chosen by the
    variance that it showed, which would favour samples whose skewed tail has not shown yet.
    """
    N = drawn.problem.examples
    own, A, B, wide = drawn.scatter()
    goal = AIM * target**2 / wide * N**2
    k, m = _cheapest(drawn, A, B, goal / N)
    late = list(reversed(drawn.blocks))
    rough, few = min(late, key=lambda b: b.weight), min(late, key=lambda b: b.draws)
    if B and m / (few.draws / 2) > (k / rough.weight ** (1 / FALL) if A else 0):
        had, share = few.draws / 2, len(few.rows) * B / (few.draws / 2)
        return few, 0, max(1, math.ceil(min(m - had, had * _more((own - goal) / share))))
    share = len(rough.rows) * A / rough.weight if A else math.inf
    more = min(k**FALL - rough.weight, rough.weight * _more((own - goal) / share))
    return rough, max(LEAST_STRATA, math.ceil(max(0.0, more) ** (1 / FALL))), 0


def _more(part: float) -> float:
    """The weight, of what there is, that takes `part` of a variance away; at most all but a thousandth of it."""
    part = min(max(part, 0.0), 0.999)
    return part / (1 - part)


def _cheapest(drawn: PerExample, A: float, B: float, variance: float) -> tuple[float, float]:
    """Of all strata k and pairs m of first-level draws that leave an example `variance` nats², the cheapest.

    An example's variance falls as A k^(−FALL) with its strata and as B/m with its first-level draws.
    """
    best, cheapest = (float(MOST), float(MOST)), math.inf
    cells, decoder = bool(len(drawn.problem.cells)), max(drawn.problem.decoder_cost, 0.05)
    for m in [1 + i / 8 for i in range(32)] + [2.0**i for i in range(3, 9)] if B else [1.0]:
        rest = variance - B * mixed(m, 1.0)
        if rest <= 0:
            continue
        k = strata(min(1.0, rest / A), FALL) if A else 1.0
        if (cost := k * cells + m * decoder) < cheapest:
            cheapest, best = cost, (k, m)
    return best


def mixed(n: float, fall: float) -> float:
    """n^(−fall), where n lies between whole numbers that mixture of the two which has n on average."""
    low = math.floor(n)
    part = n - low
    return (1 - part) * low**-fall + part * (low + 1) ** -fall


def strata(share: float, fall: float) -> float:
    """The n ≥ 1 whose `mixed` is `share`."""
    low = max(1, math.floor(share ** (-1 / fall) + 1e-9))
    upper, lower = low**-fall, (low + 1) ** -fall
    return low + min(1.0, max(0.0, (upper - share) / (upper - lower)))

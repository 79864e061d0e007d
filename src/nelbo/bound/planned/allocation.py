"""The allocation of draws: to cells by their standard deviations, to the two terms and to examples by a pilot.

Neyman (1934): of independent parts with standard deviations s and costs c, draws ∝ s/√c leave the least variance.
Nothing here draws anything. Pooled designs are planned once; per-example ones block by block, from the pilot and then
from the variances that the blocks before have shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound.planned import crossfit
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.planned.regression import TermFit
from nelbo.bound.problem import Problem

MIN_DRAWS = 384
"""Pairs of a first block of examples, and twice the draws of the smallest pooled plan: fewer would not tell their own
variance."""
LEAST_RECONSTRUCTIONS = 8
"""First-level draws of the smallest pooled plan."""
FEW = 64
"""Examples below which the pooled design is not chosen: of few, the folds are too small to correct a fit."""
FALL = 1.4
"""The variance of an example falls about as its strata to the power −FALL: between 1, that of noise, and 3, that of a
smooth function drawn twice in every stratum. Draws that are added to a block are weighted by it."""
LARGEST = 8192
"""Most examples of a block: what is planned at once must not grow with the data."""
LEAST_STRATA = 2
"""Fewest strata of an example: one pair over the whole chain has a rough error and hardly tells it."""
TWICE, TWICE_OF = 72, 12
"""About as many examples after the first block have two draws in every stratum, where the others have one; and the
examples for each of these from which it is so."""
MOST = 256
"""Most strata and pairs of first-level draws that are planned for an example."""
FINER = 12
"""Evaluations an example from which strata of its own serve it better, and tell their variance better, than draws of
random examples."""
CORRECTED = 0.7
"""Cost of the pooled design over what the pilot expects, since its own draws correct the pilot's fit. That of the
per-example design is mostly its fewest strata."""
AT_ONCE = 2 * LARGEST * MOST
"""Most draws that are made at once: they are in memory together, a few hundred bytes each."""
_CURVE, _DRAWS_A_KNOT = 8, 40
"""Most knots of the curve of standard deviations that draws have shown, and the draws that each takes."""
_LEAST_RATIO = 0.1
"""Least of that curve, of its largest: what has shown no error yet may do so."""
_WHOLE = 1e6
"""Numbers of strata above which fractions of one do not count."""
_FREE = 0.05
"""Cost, in draws of a cell, that a first-level draw without network is planned with: it is cheap, and not nothing."""
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
_MIXTURE, _OF_FORETOLD = (0.88, 0.10, 0.02), (0.95, 0.04, 0.01)
"""Shares of a density that follow the standard deviations of cells, their means, and nothing: see `neyman`."""


@dataclass(frozen=True, eq=False)
class CellDensity:
    """Probabilities p (M,) of the cells and their cumulative sum with a leading 0, (M + 1,)."""

    p: Tensor
    cumulative: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> CellDensity:
        """Proportional to `weight` (M,), all positive; M may be 0."""
        p = weight / weight.sum() if len(weight) else weight
        return cls(p, torch.cat([torch.zeros(1, dtype=p.dtype), p.cumsum(0)]))

    @property
    def middles(self) -> Tensor:
        """The middle of every cell's share of (0, 1), (M,)."""
        return (self.cumulative[1:] + self.cumulative[:-1]) / 2

    def place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The cells that u (n,) in (0, 1) falls in, and the fraction of the cell that lies before it."""
        u = u * self.cumulative[-1]
        cells = (torch.searchsorted(self.cumulative, u.contiguous(), right=True) - 1).clamp(0, len(self.p) - 1)
        return cells, ((u - self.cumulative[cells]) / self.p[cells]).clamp(0, 1)


def density(fit: TermFit, allocation: str = "neyman", foretold: bool = False) -> CellDensity:
    """The density of the draws along the chain: "neyman" by the residuals of the fit, "importance" by √E y² (Nichol &
    Dhariwal 2021, eq. 18), "uniform"."""
    if allocation == "uniform" or not len(fit.mean):
        return CellDensity.of(torch.ones_like(fit.mean))
    if allocation == "importance":
        return neyman(fit, (1 + fit.raw.square()).sqrt())
    return neyman(fit, fit.residual, foretold)


def seen(
    fit: TermFit, along: Tensor, cells: Tensor, residual: Tensor, weight: Tensor, foretold: bool = False
) -> CellDensity:
    """The density by residuals (n,), in nats, of draws that were made in `cells` (n,) with weights 1/(p N q) (n,).

    Their standard deviation over the pilot's is taken as a curve along the chain, with `along` (M,) in [0, 1].
    """
    basis = crossfit.hats(along, max(1, min(_CURVE, len(cells) // _DRAWS_A_KNOT)))
    expected = fit.size * fit.residual
    ratio = residual / expected[cells].clamp_min(1e-300)
    part = basis[cells] * weight[:, None] * (expected[cells] * weight)[:, None]
    square = (part * ratio.square()[:, None]).sum(0) / part.sum(0).clamp_min(1e-300)
    square = square.clamp_min(_LEAST_RATIO**2 * float(square.max()))
    return neyman(fit, fit.residual * (basis @ square).sqrt(), foretold)


def neyman(fit: TermFit, relative: Tensor, foretold: bool = False) -> CellDensity:
    """p ∝ the cell's standard deviation, |m|·`relative`, with a tenth for its mean and a fiftieth for all cells alike:
    the pilot is small, and a cell that it took for empty must not get a weight without bound. Of terms that are
    foretold (`Problem.foretold`), whose spread is a curve, half as much."""
    spread, mean = fit.size * relative, fit.size
    parts = zip(_OF_FORETOLD if foretold else _MIXTURE, (spread, mean, torch.ones_like(mean)), strict=True)
    return CellDensity.of(sum(share * part / part.sum().clamp_min(1e-300) for share, part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class DesignPlan:
    """The size of a design: strata and first-level draws (of all examples together, or of each one), and its cost.

    needed: evaluations that the tolerance takes, at most about; more than `cost` where the size is bounded.
    twice: part of the examples, after the first block, that have two draws in every stratum and 2·`reconstructions` at
    the first level; the others have half as many.
    """

    strata: float
    reconstructions: float
    cost: float
    needed: float
    twice: float = 1.0


def pooled(problem: Problem, pilot: Pilot, target: float) -> DesignPlan:
    """The pooled design for a standard error of `target` nats, from the pilot's variances."""
    goal = target**2
    d, r = pilot.diffusion, pilot.reconstruction
    spread = float((d.size * d.residual).sum())
    spread_r = float(r.size[0] * r.residual[0])
    cost_r = _relative_cost(problem)
    both = spread + spread_r * math.sqrt(cost_r)
    N = problem.examples
    saved, uncertain = pilot.saved_by(None, d)
    credit = max(0.0, min(saved - math.sqrt(uncertain), spread**2))  # as `laps.credit` knows it before any draw
    share = both / (goal + credit / N)
    if share * spread > N:
        share = (both - credit / max(spread, 1e-300)) / goal
    n = max(MIN_DRAWS / 2, share * spread)
    n_r = math.ceil(max(LEAST_RECONSTRUCTIONS, share * spread_r / math.sqrt(cost_r)))
    pairs = math.ceil(n / 2)
    cost = 2 * pairs * problem.cell_cost + problem.first_cost * n_r
    return DesignPlan(pairs, n_r, cost, cost)


def per_example(problem: Problem, pilot: Pilot, target: float, strata: int | None = None) -> DesignPlan:
    """The per-example design for a standard error of `target` nats, from the pilot's variances; or with `strata`."""
    d, r, N = pilot.diffusion, pilot.reconstruction, problem.examples
    noise = float((d.size * d.noise).sum()) ** 2
    smooth = max(0.0, float((d.size * d.residual).sum()) ** 2 - noise)
    noise_r = float(r.size[0] * r.noise[0]) ** 2
    cost_r = _relative_cost(problem)
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
    cost = per_example_cost(problem, N, k, m, twice)
    return DesignPlan(k, m, cost, cost * max(1.0, variance / (target**2 * N)), twice)


def per_example_cost(
    problem: Problem, examples: float, strata: float, reconstructions: float, twice: float = 1.0
) -> float:
    """Evaluations of `examples` with two draws in each of `strata` and 2·`reconstructions` at the first level, or half
    as many but for a part `twice` of them."""
    return examples * (1 + twice) * (strata * problem.cell_cost + reconstructions * problem.first_cost)


def _relative_cost(problem: Problem) -> float:
    """The cost of a first-level draw in draws of a cell."""
    return max(problem.first_cost / max(1, problem.cell_cost), _FREE)


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
    least, cost = (per_example_cost(problem, 1, *n, twice) for n in ((1, 1), (k, m)))
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
    cost_r = max(problem.first_cost, _FREE)
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

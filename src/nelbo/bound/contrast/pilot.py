"""What a race knows before its first draw: where to make draws, how much differences vary there, and how many draws the
first look is worth.

A part of the pilot's draws is even along the chain and plans the places, the other part is made at these and tells the
variance. The first level, where its term depends on the condition, is one place with a term of its own, which may be
large and hardly noisy: it is no part of the strata, but drawn once, and again as its noise demands (Neyman 1934).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives
from nelbo.bound.contrast.places import PILOT_NUMBERS, Places
from nelbo.bound.contrast.race import Goal, threshold
from nelbo.bound.contrast.spread import Spread
from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.runner import Runner

STRATA = 8
"""Strata of each of the two parts of a pilot's draws, of every example."""
FIRSTS = 2
"""Pairs of draws of the first level."""
_EVEN = 0.03
"""Share of a race's draws that goes to all places alike."""
_OWN = 1 / 16
"""Share of the draws that the first level would get as one of the places, from which on it is drawn by itself."""
_LEAST = 0.005
"""Least share of the first level as one of the places."""
_SURE = 4.0
"""Degrees of freedom of the pilot from which on a first look may be of one stratum."""
_EXPECTED, _EXPECTED_OF_ONE = 0.5, 0.7
"""The first look is of so many strata that this share of a pilot's rivals would be eliminated by it; one stratum, which
tells nothing of an example that is unlike all others, must be worth more."""
_LEAST_FREEDOM, _MOST_FREEDOM = 1.0, 8.0
"""Degrees of freedom that the pilot's variance counts as for any one example."""


@dataclass(frozen=True, eq=False)
class Pilot:
    """chain: places of the strata. first: the place of the first level, None where its term is no term of its own."""

    chain: Places
    first: Places | None
    spread: Spread


def pilot(alternatives: Alternatives, runner: Runner, goal: Goal) -> Pilot:
    """Places and the spread of differences for the examples of the chain, by draws of some that no race sees."""
    order, left = places.pilot_examples(alternatives)
    C = len(alternatives)

    def seen(where: Places, start: int, strata: int) -> places.Drawn:
        return places.draw(alternatives, runner, where, order, left, PILOT_NUMBERS + start, strata)

    even, first = Places.even(alternatives), None
    firsts = torch.zeros(len(order), FIRSTS, C, dtype=torch.float64)
    if even.first and len(alternatives.chain.cells):
        first = Places(CellDensity.of(torch.ones(1, dtype=torch.float64)), 1)
        even = Places(CellDensity.of(even.density.p[1:]), 0)
        firsts = seen(first, 0, FIRSTS).values
    evenly = seen(even, 0, STRATA)
    totals = evenly.values.mean(1) + firsts.mean(1)
    chain = places.by_gaps(evenly, totals, even, alternatives, rivals=C - 1, even=_EVEN)
    values = seen(chain, STRATA, STRATA).values
    totals = values.mean(1) + firsts.mean(1)
    gaps, worse = places.gaps_of(values, totals, C - 1)
    of_first, _ = places.gaps_of(firsts, totals, C - 1)
    pairs = gaps.transpose(1, 2).flatten(0, 1)
    near, power = _growth(pairs.var(1), worse)
    if near > 0:
        pairs = pairs / ((worse.flatten().square() + near) / (2 * near)).pow(power / 2)[:, None]
    expected, between = expectations(pairs), float(of_first.var(1).mean())
    if first is not None:
        scale = (worse[:, None].square() + 1).sqrt()
        roots = [float((part / scale).square().mean().sqrt()) for part in (of_first, gaps)]
        share = roots[0] / max(sum(roots), 1e-300)
        if share < _OWN:
            p = torch.tensor([max(share, _LEAST)], dtype=torch.float64)
            chain, first, between = Places(CellDensity.of(torch.cat([p, chain.density.p * (1 - p)])), 1), None, 0.0
    deviations = between**0.5, float((expected[-1] * STRATA).sqrt())
    share = deviations[0] / max(sum(deviations), 1e-300)
    spread = Spread(tuple(expected.tolist()), freedom_of(pairs), between, share, near=near, power=power)
    return Pilot(chain, first, spread.with_look(_first_look(spread, worse, goal)))


def _growth(variances: Tensor, worse: Tensor) -> tuple[float, float]:
    """near and power of `Spread`, fitted to the logarithms of the variances (n R,) of differences, worse (n, R)."""
    near = float(worse[:, 0].square().median())
    if not near > 0:
        return 0.0, 0.0
    sizes = ((worse.square() + near) / (2 * near)).log().flatten()
    logs = variances.clamp_min(1e-6 * variances.mean().clamp_min(1e-300)).log()
    around = sizes - sizes.mean()
    return near, float((around @ logs / around.square().sum().clamp_min(1e-12)).clamp(0, 1))


def expectations(gaps: Tensor) -> Tensor:
    """What the squared half differences of neighbouring strata add up to in S = 1, 2, 4, … strata, in the mean of
    differences (n, `STRATA`) in the order of as many strata; of S = 1 the variance of a draw."""
    found, strata = [], gaps.shape[1]
    while strata > 1:
        groups = gaps.reshape(len(gaps), strata // 2, 2, -1)
        apart = groups[:, :, 0, :, None] - groups[:, :, 1, None]  # every member of a stratum with all of its neighbour
        found.append(apart.square().mean((2, 3)).sum(1).mean() / strata**2)
        strata //= 2
    alone = (gaps - gaps.mean(1, keepdim=True)).square().mean() + found[0]
    return torch.stack([alone, *reversed(found)])


def freedom_of(gaps: Tensor) -> float:
    """From differences (n, S), ν of the scaled inverse χ² that their variances v follow: measured with d degrees of
    freedom, var(log v) = ψ′(ν/2) + ψ′(d/2) (Smyth 2004)."""
    each = gaps.var(1)
    mean = float(each.mean())
    if len(each) < 2 or not mean > 0:
        return _LEAST_FREEDOM
    measured = torch.special.polygamma(1, torch.tensor((gaps.shape[1] - 1) / 2, dtype=torch.float64))
    unlike = each.clamp_min(1e-6 * mean).log().var() - measured
    halves = torch.arange(_LEAST_FREEDOM / 2, _MOST_FREEDOM / 2 + 0.1, 0.25, dtype=torch.float64)
    enough = int((torch.special.polygamma(1, halves) >= unlike).sum())
    return 2 * float(halves[enough - 1]) if enough else _LEAST_FREEDOM


def _first_look(spread: Spread, gaps: Tensor, goal: Goal) -> int:
    """Strata of the first look, from the differences (n, C − 1) of the pilot's examples to their best condition."""
    strata = 1
    while strata < STRATA:
        own = strata // 2
        error = (spread.of(torch.tensor(float(strata))) + spread.first).sqrt()
        # of one stratum nothing but the pilot tells the variance
        known = own > 0 or spread.freedom >= _SURE
        far = gaps > threshold(goal, 0, torch.tensor(gaps.shape[1]), torch.tensor(own + spread.freedom)) * error
        if known and float(far.double().mean()) >= (_EXPECTED if own else _EXPECTED_OF_ONE):
            return strata
        strata *= 2
    return strata

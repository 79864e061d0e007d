"""One draw in each stratum, whose variance a random part of the examples tells: collapsed strata, calibrated.

The mean of an example's draws, one in each of n strata, varies less than that of two in each of n/2. But a draw that is
alone in its stratum does not show its variance. Where neighbouring strata are taken for one, the differences of their
draws have squares e² that are too large by as much as the means of the strata differ (Cochran 1977, section 5A.12):

    E Σ e² = V + what the means differ ≥ V

A random part of the examples is drawn twice in every stratum. Whatever the terms do along the chain, these tell V of a
single draw in each stratum without bias, and C = Σ e². Over them

    R = Σ V/Σ min(C, cap),    of relative variance about Σ (V − R min(C, cap))²/(Σ V)²

(Cochran 1977, section 6.4), by which the squares e² of the others are multiplied. So an example that varies more than
others has a longer error although none of its kind may be in that part; and one whose strata differ wildly does not
make R small for all: the cap can but make it larger. At the first level, where one draw may be all, e is its distance
from the pilot's fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CAP = 30.0
"""The cap, in medians of C: few examples reach it, and one that does would make up a third of all of fifty."""


class Collapsed(NamedTuple):
    """Of the errors e of a block in one term: V and C (p, 2) of those examples that were drawn twice, all or some, and
    how many columns of the errors of the others are collapsed, the first ones."""

    known: Tensor = torch.zeros(0, 2, dtype=torch.float64)
    columns: int = 0

    def averaged(self, share: float) -> Collapsed:
        """Where other draws have got a share of the average."""
        return Collapsed((1 - share) ** 2 * self.known, self.columns)


class Ratio(NamedTuple):
    """R, and the degrees of freedom of a variance that is multiplied by it."""

    value: float
    freedom: float


def errors(y: Tensor) -> Tensor:
    """Errors (b, ⌈n/2⌉) of examples with one draw in each of n strata, (b, n): contrasts of two neighbours, and of
    three where n is odd, whose squares add up to the variance of the mean if these strata are alike."""
    n = y.shape[1]
    if n == 1:
        return y
    even = n - 3 * (n % 2)
    pairs = (y[:, 0:even:2] - y[:, 1:even:2]) / n
    if n % 2 == 0:
        return pairs
    a, b, c = y[:, -3:].unbind(1)
    return torch.cat([pairs, torch.stack([math.sqrt(3) * (a - b), a + b - 2 * c], 1) / (2 * n)], 1)


def of_strata(pairs: Tensor) -> Tensor:
    """V and C (b, 2) of a single draw in each of n strata, from two in each, (b, n, 2)."""
    V = (pairs[..., 0] - pairs[..., 1]).square().sum(1) / (2 * pairs.shape[1] ** 2)
    first, second = (errors(pairs[..., k]).square().sum(1) for k in (0, 1))
    return torch.stack([V, (first + second) / 2], 1)


def third_of_single(of_pairs: float) -> float:
    """The third cumulant of a sum of means of single draws, from that of means of pairs in the same strata: the mean of
    two draws has a quarter of a draw's."""
    return 4 * of_pairs


def of_one(distance: Tensor) -> Tensor:
    """V and C (b, 2) of one draw, from the distances from their fit of two or more, (b, n)."""
    return torch.stack([distance.var(1), distance.square().mean(1)], 1)


def ratio(groups: Sequence[tuple[Tensor, float]]) -> Ratio:
    """From V and C (p, 2) of the examples of every group that were drawn twice, and the number of others that each
    stands for. 1 where there are none, as after an interrupt: C is too large rather than too small."""
    groups = [(known[torch.isfinite(known).all(1)], weight) for known, weight in groups]
    square = torch.cat([torch.zeros(0).double(), *(known[:, 1] for known, _ in groups)])
    cap = CAP * float(square.median()) if len(square) else 0.0
    V = torch.cat([square[:0], *(weight * known[:, 0] for known, weight in groups)])
    C = torch.cat([square[:0], *(weight * known[:, 1].clamp_max(cap or math.inf) for known, weight in groups)])
    if not (float(V.sum()) > 0 and float(C.sum()) > 0):
        return Ratio(1.0, math.inf)
    value = float(V.sum() / C.sum())
    apart = float((V - value * C).square().sum() / V.sum() ** 2)
    return Ratio(value, 2 / apart if apart > 0 else math.inf)

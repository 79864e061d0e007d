"""Means and their variances from draws: of pairs in strata, or of a simple sample; in groups that are averaged.

A variance from few or skewed draws is itself a random number, and value ± 1.96 SE then covers less than 95 % although
the variance is right on average. It is therefore multiplied by 1 + 2.42/ν, with ν its degrees of freedom: about what
Student's t in place of the normal would do. ν comes from the scatter of the squares c_j that add up to the variance,

    pairs           3 (Σ c)²/Σ c²               for normal differences E c² = 3 (E c)², and ν is their number
    simple sample   2n/(n Σ c²/(Σ c)² − 1)      the variance of a sample variance by the kurtosis, at most n

(Satterthwaite 1946, with fourth moments in place of assumed normality), at least FREEDOM. Where a few draws make up the
variance, more of their kind are missing than the factor can make good, and the variance is not to be relied on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDENING = 2.42
"""(t²/z² − 1) ν at 95 % of Student's t, to 3 % for ν ≥ 10."""
FREEDOM = 4.0
"""Fewest degrees of freedom that an error bar is taken to have."""
ALIKE = 6
"""Examples as many whose strata are independent, that are added to those that show how the draws of a strand go
together."""
ENOUGH = 48.0
"""Degrees of freedom from which a variance is relied on."""


class Mean(NamedTuple):
    """A mean, its variance, and the degrees of freedom of the latter."""

    value: float
    variance: float
    freedom: float


def together(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """The degrees of freedom of a sum of independent variances."""
    total = sum(variances)
    share = sum((v / total) ** 2 / f for v, f in zip(variances, freedoms, strict=True)) if 0 < total < math.inf else 0.0
    return 1 / share if share > 0 else math.inf


def of_pairs(groups: list[Tensor], strata: list[int], shares: list[float]) -> Mean:
    """Σ share · mean and its variance, from pairs (h, 2) of every group, one pair a stratum.

    Where an interrupt left fewer strata than there are, the pairs' means are taken as a simple sample.
    """
    if not any(strata):
        return Mean(0.0, 0.0, math.inf)
    if any(len(pairs) < n for pairs, n in zip(groups, strata, strict=True)):
        return of_draws([pairs.mean(1) for pairs in groups], shares)
    value = sum(share * float(pairs.mean()) for pairs, share in zip(groups, shares, strict=True))
    squares = [
        share**2 * (pairs[:, 0] - pairs[:, 1]).square() / (4 * len(pairs) ** 2)
        for pairs, share in zip(groups, shares, strict=True)
    ]
    return Mean(value, *of_squares(torch.cat(squares)))


def of_draws(groups: list[Tensor], shares: list[float]) -> Mean:
    """Σ share · mean and its variance, from independent draws (n,) of every group, at least two of each."""
    if any(len(group) < 2 for group in groups):
        return Mean(0.0, math.inf, FREEDOM)
    value = sum(share * float(group.mean()) for group, share in zip(groups, shares, strict=True))
    c = torch.cat(
        [
            share**2 * (group - group.mean()).square() / (len(group) * (len(group) - 1))
            for group, share in zip(groups, shares, strict=True)
        ]
    )
    n, variance, fourth = len(c), float(c.sum()), float(c.square().sum())
    kurtosis = n * fourth / variance**2 if variance > 0 else 3.0
    freedom = min(n, 2 * n / max(kurtosis - 1, 1e-9))
    return Mean(value, variance * widening(freedom), freedom)


def of_squares(c: Tensor, freedom: int | Tensor = 1) -> tuple[float, float]:
    """The widened sum of independent squares c (h,) of `freedom` degrees each, and its own degrees; 1: squared
    differences of pairs."""
    variance, fourth = float(c.sum()), float((c.square() / (freedom + 2)).sum())
    of_sum = variance**2 / fourth if fourth > 0 else math.inf
    return variance * widening(of_sum), of_sum


def of_strands(errors: Tensor) -> float:
    """The factor of errors (n, k) of single strata, where draws of other strata of a strand depend on them.

    The difference of an example's two strands, whose square has the variance of its value as mean, is the sum of its
    errors: the mean square of that sum, over the mean sum of squares, is the factor of the variance. It is taken with
    `ALIKE` more examples in which strata are independent.
    """
    finite = errors[torch.isfinite(errors).all(1) & errors.any(1)]
    apart = float(finite.square().sum())
    if not apart > 0:
        return 1.0
    n = len(finite)
    return math.sqrt((n * float(finite.sum(1).square().sum()) / apart + ALIKE) / (n + ALIKE))


def with_freedom(mean: Mean, freedom: float) -> Mean:
    """`mean`, whose variance has been multiplied by an estimate of `freedom` degrees of freedom."""
    both = 1 / (1 / max(FREEDOM, mean.freedom) + 1 / max(FREEDOM, freedom))
    return Mean(mean.value, mean.variance * widening(both) / widening(mean.freedom), both)


def widening(freedom: float) -> float:
    """1 + 2.42/ν."""
    return 1 + WIDENING / max(FREEDOM, freedom)

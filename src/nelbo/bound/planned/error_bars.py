"""Means and their variances from draws: of pairs in strata, or of a simple sample; in groups that are averaged.

A variance from few or skewed draws is itself a random number, and value ± 1.96 SE then covers less than 95 % although
the variance is right on average. It is therefore multiplied by 1 + 2.42/ν, with ν its degrees of freedom: about what
Student's t in place of the normal would do. ν comes from the scatter of the squares c_j that add up to the variance,

    pairs           3 (Σ c)²/Σ c²               for normal differences E c² = 3 (E c)², and ν is their number
    simple sample   2n/(n Σ c²/(Σ c)² − 1)      the variance of a sample variance by the kurtosis, at most n

(Satterthwaite 1946, with fourth moments in place of assumed normality), at least FREEDOM.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDENING = 2.42
"""(t²/z² − 1) ν at 95 % of Student's t, to 3 % for ν ≥ 10."""
FREEDOM = 4.0
"""Fewest degrees of freedom that an error bar is taken to have."""


def of_pairs(groups: list[Tensor], strata: list[int], shares: list[float]) -> tuple[float, float]:
    """Σ share · mean and its variance, from pairs (h, 2) of every group, one pair a stratum.

    Where an interrupt left fewer strata than there are, the pairs' means are taken as a simple sample.
    """
    if not any(strata):
        return 0.0, 0.0
    if any(len(pairs) < n for pairs, n in zip(groups, strata, strict=True)):
        return of_draws([pairs.mean(1) for pairs in groups], shares)
    value = sum(share * float(pairs.mean()) for pairs, share in zip(groups, shares, strict=True))
    squares = [
        share**2 * (pairs[:, 0] - pairs[:, 1]).square() / (4 * len(pairs) ** 2)
        for pairs, share in zip(groups, shares, strict=True)
    ]
    return value, of_squares(torch.cat(squares))


def of_draws(groups: list[Tensor], shares: list[float]) -> tuple[float, float]:
    """Σ share · mean and its variance, from independent draws (n,) of every group, at least two of each."""
    if any(len(group) < 2 for group in groups):
        return 0.0, math.inf
    value = sum(share * float(group.mean()) for group, share in zip(groups, shares, strict=True))
    c = torch.cat(
        [
            share**2 * (group - group.mean()).square() / (len(group) * (len(group) - 1))
            for group, share in zip(groups, shares, strict=True)
        ]
    )
    n, variance, fourth = len(c), float(c.sum()), float(c.square().sum())
    kurtosis = n * fourth / variance**2 if variance > 0 else 3.0
    return value, variance * widening(min(n, 2 * n / max(kurtosis - 1, 1e-9)))


def of_squares(c: Tensor, freedom: int | Tensor = 1) -> float:
    """The widened sum of independent squares c (h,) of `freedom` degrees each; 1: squared differences of pairs."""
    variance, fourth = float(c.sum()), float((c.square() / (freedom + 2)).sum())
    return variance * widening(variance**2 / fourth if fourth > 0 else math.inf)


def widening(freedom: float) -> float:
    """1 + 2.42/ν."""
    return 1 + WIDENING / max(FREEDOM, freedom)

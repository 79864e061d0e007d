"""Means and their variances from draws: of pairs in strata, or of a simple sample; in groups that are averaged.

A variance from few or skewed draws is itself a random number, and value ± 1.96 SE then covers less than 95 % although
the variance is right on average. It is therefore multiplied by

    1 + max(2.42/ν, 2.42/n + 2.16 γ²)

First, with ν its degrees of freedom, about what Student's t in place of the normal would do. ν comes from the scatter
of the squares c_j that add up to the variance,

    pairs           3 (Σ c)²/Σ c²               for normal differences E c² = 3 (E c)², and ν is their number
    simple sample   2n/(n Σ c²/(Σ c)² − 1)      the variance of a sample variance by the kurtosis, at most n

(Satterthwaite 1946, with fourth moments in place of assumed normality), at least FREEDOM. Second, with γ the skewness
of the mean of n draws, K₃/V^{3/2} by its third cumulant: what a skewed sample covers less, to order 1/n (Hall 1992,
section 2.6, the expansion of a studentized mean at 1.96, of which 2.16 γ² is the larger part). Where a few draws make
up the variance, more of their kind are missing than the factor can make good, and the variance is not to be relied on.

Draws that stop when the variance is small enough stop too early where skewed errors have not shown yet. By Wald's
identity E[n (mean − μ)] = 0, with n as the variance seen, this leaves a bias of −K₃/V, to first order; it is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDENING = 2.42
"""(t²/z² − 1) ν at 95 % of Student's t, to 3 % for ν ≥ 10."""
OF_SKEWNESS = 2.16
"""Share of the variance that γ² = 1 asks for."""
FREEDOM = 4.0
"""Fewest degrees of freedom that an error bar is taken to have."""
ALIKE = 6
"""Examples as many whose strata are independent, that are added to those that show how the draws of a strand go
together."""
ENOUGH = 48.0
"""Degrees of freedom from which a variance is relied on."""
_LEAST_SHARE = 0.25
"""Share of them below which it is not, however small it is."""
TOLD = 24.0
"""Differences of draws that cannot be alike from which they tell an error bar: widened, it covers then."""

_TRACE = 1e-90
"""Variance that is none: its powers would vanish."""
REMEDY = "leave estimator='auto', or give more draws, or a larger max_nfe"


class Mean(NamedTuple):
    """A mean, its variance, the degrees of freedom of the latter, and the third cumulant K₃ of the mean."""

    value: float
    variance: float
    freedom: float
    third: float = 0.0


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
    c = torch.cat(squares)
    third = _third([pairs.flatten() for pairs in groups], shares)
    freedom = of_squares(c)[1]
    return Mean(value, float(c.sum()) * widening(freedom, 2 * len(c), _square(third, float(c.sum()))), freedom, third)


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
    return _of_parts(value, c, _third(groups, shares))


def of_samples(y: Tensor, share: float) -> Mean:
    """`of_draws` of many groups that have equal numbers of draws and equal shares, y (d, groups)."""
    d = len(y)
    if not y.numel():  # of a chain without cells
        return Mean(0.0, 0.0, math.inf)
    apart = y - y.mean(0)
    third = share**3 * float(apart.pow(3).sum()) / d**3
    return _of_parts(share * float(y.mean(0).sum()), share**2 * apart.square().flatten() / (d * (d - 1)), third)


def _of_parts(value: float, c: Tensor, third: float) -> Mean:
    """From the parts c (n,), one a draw, that add up to the variance, and the third cumulant of the mean."""
    n, variance, fourth = len(c), float(c.sum()), float(c.square().sum())
    kurtosis = n * fourth / variance**2 if variance > _TRACE else 3.0
    freedom = min(n, 2 * n / max(kurtosis - 1, 1e-9))
    return Mean(value, variance * widening(freedom, n, _square(third, variance)), freedom, third)


def of_squares(c: Tensor, freedom: int | Tensor = 1) -> tuple[float, float]:
    """The widened sum of independent squares c (h,) of `freedom` degrees each, and its own degrees; 1: squared
    differences of pairs."""
    return of_sums(sums_of(c, freedom))


def sums_of(c: Tensor, freedom: int | Tensor = 1) -> Tensor:
    """Of squares c (h,) of f degrees each h, Σ c, Σ c², Σ c²/(f + 2), Σ f and Σ 1/f: those of parts may be added."""
    f = torch.as_tensor(freedom, dtype=torch.float64).expand(len(c))
    square = c.square()
    return torch.stack([torch.ones_like(f), c, square, square / (f + 2), f, 1 / f]).sum(1)


def of_sums(sums: Tensor) -> tuple[float, float]:
    """`of_squares` from the sums of `sums_of`.

    Squares do not tell the skewness. It is taken to be as large as their scatter allows, that of rare events: of n with
    probability p, Σ c²/(Σ c)² and γ² are both 1/(n p).
    """
    n, variance, square, fourth, degrees, inverse = sums.tolist()
    if not variance > _TRACE:
        return variance, math.inf
    of_sum = variance**2 / fourth
    normal = (1 + 2 * inverse / n) / n
    return variance * widening(of_sum, degrees + n, max(0.0, square / variance**2 - normal)), of_sum


def enough(variance: float, freedom: float, target: float) -> bool:
    """Whether a standard error of `target` is reached: by a variance of `ENOUGH` degrees of freedom, or of a share of
    them, down to a quarter, that is smaller than asked for by the fourth power of that share."""
    share = min(1.0, max(freedom, FREEDOM) / ENOUGH)
    return share >= _LEAST_SHARE and variance <= target**2 * share**4


def of_few(differences: float, alike: bool = True, remedy: str = REMEDY) -> str | None:
    """A note on an error bar of so few differences of draws; None of enough. alike: whether draws can be equal by
    chance (`Problem.alike`)."""
    needed = ENOUGH if alike else TOLD
    if differences >= needed:
        return None
    how = "which may agree by chance: it may be far too short, or 0" if alike else "which tell it only roughly"
    return f"the error bar is of {differences:g} differences of draws, {how}; {needed:g} would tell it: {remedy}"


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
    return Mean(mean.value, mean.variance * widening(both) / widening(mean.freedom), both, mean.third)


def with_more(mean: Mean, variance: float) -> Mean:
    """`mean` with `variance` that its draws have not shown, of errors as skewed as those that they have."""
    if not (0 < mean.variance < math.inf and variance > 0):
        return mean
    grown = 1 + variance / mean.variance
    return mean._replace(variance=mean.variance * grown, third=mean.third * grown)


def widening(freedom: float, draws: float = math.inf, skewness: float = 0.0) -> float:
    """1 + max(2.42/ν, 2.42/n + 2.16 γ²), from ν, n and γ², which counts up to 1."""
    return 1 + max(WIDENING / max(FREEDOM, freedom), WIDENING / draws + OF_SKEWNESS * min(1.0, skewness))


def _third(groups: list[Tensor], shares: list[float]) -> float:
    """K₃ of Σ share · mean of independent draws (n,) of every group."""
    parts = zip(groups, shares, strict=True)
    return sum(s**3 * float((g - g.mean()).pow(3).sum()) / len(g) ** 3 for g, s in parts if len(g))


def _square(third: float, variance: float) -> float:
    """γ² from K₃ and the variance."""
    return third**2 / variance**3 if variance > _TRACE else 0.0

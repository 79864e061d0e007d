"""The fit corrected by the estimate's own draws, so that it costs nothing, and without bias: cross-fitting.

The examples are split into folds, fixed by the seed. Fold k's mean is estimated from draws of its own examples with a
fit that was corrected by the draws of the *other* folds: given the split, these are independent, so that

    E[ mean of fit over fold k + mean of (y − fit − a·n)/(p q) over draws of fold k ] = mean of the bound over fold k

whatever the correction says, and the folds' means add up to the mean over all examples. The correction of

    y − fit − a·n  by  |m| (b_0 + e b_1 + F·W b_2 + F·b) + c·n,    b_0, b_1, b_2, b, c smooth along the chain,

with e the expected error of the example at the draw's cell, F its features and F·W what the pilot's fit foretells by
them, is ridge regression of what the estimate averages, residuals over p q. Curves are sums of cosines, of which the
k-th is held back by (1 + k)². Features take many coefficients and say little where e says all: they have fewer cosines,
and are left out, or held back, where that is better. This and the strength of the ridge are chosen by leave-one-out,
and no correction is among the choices. (Chernozhukov et al. 2018, section 3, call the scheme DML1.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.planned.regression import Features, TermFit
from nelbo.maths.keys import Purpose

FOLDS = 4
"""Three quarters of the draws correct each fold's fit; more folds would cost as many regressions more."""
LEAST = 8
"""Fewest examples of a fold; where there are not so many, the pilot's fit is used as it is."""
CURVES = 8
"""Most cosines of a correction along the chain."""
FEATURE_CURVES = 3
"""Most cosines of the features' part."""
DRAWS_A_COEFFICIENT = 3
"""Draws that a further coefficient takes."""
HELD = (0.1, 0.3, 1.0)
"""Factors of the features' part, relative to the rest, in a common ridge."""
LEAST_DRAWS = 60
"""Fewest draws that a correction is fitted to. Where the variance is made up of few of them, so many count alone: from
fewer, skewed ones, the folds' errors would go together."""
RARE = 0.12
"""Least share of draws that make up the variance: where it is less, errors are rare events, and are not fitted."""
MOST = 4096
"""Most draws that a correction is fitted to."""
_RIDGES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths of the ridge to choose from, of regressors of mean square 1."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Draws of one term that were made: example (n,), cell (n,), columns (n, 1 + C), weight 1/(p N q) (n,), and the lap
    (n,) through its fold that drew the example, 0 where none did."""

    examples: Tensor
    cells: Tensor
    columns: Tensor
    weight: Tensor
    laps: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Observations:
        parts = (self.examples, self.cells, self.columns, self.weight, self.laps)
        return Observations(*(part[rows] for part in parts))


def split(seed: int, N: int, features: int) -> Tensor:
    """The fold of every example (N,), from 0: FOLDS of them, alike in size, or one where there are no features to fit
    to or few examples."""
    folds = min(FOLDS, N // LEAST) if features else 1
    fold = torch.empty(N, dtype=torch.long)
    fold[Purpose.FOLDS.permutation(seed, N)] = torch.arange(N) % max(1, folds)
    return fold


def crossfit(
    fit: TermFit, along: Tensor, features: Features, fold: Tensor, draws: Sequence[Observations]
) -> list[TermFit]:
    """The fit of every fold, corrected by those of `draws` that are of other folds.

    along (M,): places of the cells in [0, 1]. fold (N,): −1 of examples that are in none of them.
    Draws that an interrupt left out (NaN) are passed over.
    """
    examples = torch.cat([d.examples for d in draws])
    cells = torch.cat([d.cells for d in draws])
    columns = torch.cat([d.columns for d in draws])
    weight = torch.cat([d.weight for d in draws])
    made = torch.isfinite(columns).all(1)
    fits = []
    for k in range(int(fold.max()) + 1):
        rows = (made & (fold[examples] != k)).nonzero()[:MOST, 0]
        fits.append(corrected(fit, along, features[examples[rows]], cells[rows], columns[rows], weight[rows]))
    return fits


def corrected(fit: TermFit, along: Tensor, F: Tensor, cells: Tensor, columns: Tensor, weight: Tensor) -> TermFit:
    """`fit` corrected by draws with features F (n, q + E) in `cells` (n,), columns (n, 1 + C) and weights (n,)."""
    E = fit.near.shape[1]
    own, q = F[:, : F.shape[1] - E], F.shape[1] - E
    residual = columns[:, 0] - fit.predict(cells, F) - fit.control(cells, columns[:, 1:])
    n = effective(residual * weight)
    if n < LEAST_DRAWS:
        return fit
    size = fit.size[cells, None]
    expected = (F[:, q:] * fit.near[cells]).sum(1, keepdim=True)
    piloted = (own * fit.weights[cells, :q]).sum(1, keepdim=True)
    regressors = torch.cat([size, size * expected, size * piloted, columns[:, 1:]], 1)
    width = regressors.shape[1]
    basis, shares = _curves(along, min(CURVES, n // (DRAWS_A_COEFFICIENT * width)), width)
    main = _products(basis[cells], regressors) * weight[:, None]
    few, of_few = _curves(along, min(FEATURE_CURVES, n // (DRAWS_A_COEFFICIENT * max(1, q))), q)
    of_features = _products(few[cells], size * own) * weight[:, None]
    best, coefficients = _ridge(main, shares, residual * weight, float("inf"))
    for held in HELD if q and n >= DRAWS_A_COEFFICIENT * q else ():
        both = torch.cat([main, of_features], 1), torch.cat([shares, held * of_few])
        score, solution = _ridge(*both, residual * weight, best)
        if solution is not None:
            best, coefficients = score, solution
    if coefficients is None:
        return fit
    b = basis @ coefficients[: main.shape[1]].reshape(basis.shape[1], width)
    weights = fit.weights.clone()
    weights[:, q:] += b[:, 1:2] * fit.near
    weights[:, :q] *= 1 + b[:, 2:3]
    if len(coefficients) > main.shape[1]:
        weights[:, :q] += few @ coefficients[main.shape[1] :].reshape(few.shape[1], q)
    mean, controls = fit.mean + fit.size * b[:, 0], fit.controls + b[:, 3:]
    return replace(fit, mean=mean, weights=weights, controls=controls)


def effective(errors: Tensor) -> int:
    """The number of draws that make up the variance of errors (n,): n of normal ones, 3 (Σ e²)²/Σ e⁴ at most; 0 where
    that is less than RARE of them."""
    square = errors.square()
    fourth, n = float(square.square().sum()), len(errors)
    made_up = min(n, round(3 * float(square.sum()) ** 2 / fourth)) if fourth > 0 else n
    return made_up if made_up >= RARE * n else 0


def _products(basis: Tensor, regressors: Tensor) -> Tensor:
    """Every function of the basis (n, H) times every regressor (n, m), (n, H·m)."""
    return (basis[:, :, None] * regressors[:, None, :]).reshape(len(basis), -1)


def _curves(along: Tensor, number: int, width: int) -> tuple[Tensor, Tensor]:
    """cos πku, k < number, at u `along` (M,), at least the constant, (M, H); and what each of `width` coefficients is
    taken to vary by, (H·width,)."""
    k = torch.arange(max(1, number) if len(along) > 1 else 1, dtype=torch.float64)
    return (math.pi * k * along[:, None]).cos(), (1 + k).pow(-2).repeat_interleave(width)


def hats(along: Tensor, knots: int) -> Tensor:
    """Piecewise linear functions with even knots on [0, 1], (M, knots); a constant where there is one knot."""
    if knots < 2 or len(along) < 2:
        return torch.ones(len(along), 1, dtype=torch.float64)
    at = along * (knots - 1)
    return (1 - (at[:, None] - torch.arange(knots, dtype=torch.float64)).abs()).clamp_min(0)


def _ridge(A: Tensor, shares: Tensor, b: Tensor, bound: float) -> tuple[float, Tensor | None]:
    """Squared error out of sample and coefficients of the ridge regression of b (n,) on the columns of A (n, h) that
    leaves the least of it; coefficients, of columns of the same size, are taken to vary by `shares` (h,). None where it
    is not below `bound`, nor below that of no regression."""
    n = len(b)
    scale = A.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)) / shares
    A = A / scale
    # by the eigenvectors of AᵀA: a tenth of the time of A's singular vectors, and the least ridge is far above rounding
    s2, V = torch.linalg.eigh(A.mT @ A)
    s2 = s2.clamp_min(0)
    U = A @ V  # times the singular values
    target = U.mT @ b
    squares = U.square()
    best, kept = min(bound, float(b.square().sum())), None
    for ridge in _RIDGES:
        shrunk = 1 / (s2 + ridge * n)
        leverage = (squares @ shrunk).clamp_max(0.9)
        error = (b - U @ (shrunk * target)) / (1 - leverage)
        if float(error.square().sum()) < best:
            best, kept = float(error.square().sum()), shrunk
    return best, None if kept is None else V @ (kept * target) / scale

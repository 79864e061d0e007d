"""The fit corrected by the estimate's own draws, so that it costs nothing, and without bias: cross-fitting.

The examples are split into folds, fixed by the seed. Fold k's mean is estimated from draws of its own examples with a
fit that was corrected by the draws of the *other* folds: given the split, these are independent, so that

    E[ mean of fit over fold k + mean of (y − fit − a·n)/(p q) over draws of fold k ] = mean of the bound over fold k

whatever the correction says, and the folds' means add up to the mean over all examples. The correction of

    y − fit − a·n  by  |m| (b_0 + F·b) + c·n,    b_0, b, c piecewise linear along the chain,

is ridge regression of what the estimate averages, residuals over p q; its strength is chosen by leave-one-out, and no
correction is among the choices. (Chernozhukov et al. 2018, section 3, call the scheme DML1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.planned.regression import Features, TermFit
from nelbo.maths.keys import Purpose

FOLDS = 4
"""Three quarters of the draws correct each fold's fit; more folds would cost as many regressions more."""
LEAST = 8
"""Fewest examples of a fold; where there are not so many, the pilot's fit is used as it is."""
KNOTS = 6
"""Most knots of a correction along the chain."""
DRAWS_A_KNOT = 90
"""Draws that a further knot takes: about four for each of the q + 1 + C = 23 coefficients that it has on images."""
LEAST_DRAWS = 300
"""Fewest draws that a correction is fitted to: from fewer, skewed ones, the folds' errors would go together."""
MOST = 4096
"""Most draws that a correction is fitted to."""
_RIDGES = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths of the ridge to choose from, of regressors of mean square 1."""


@dataclass(frozen=True, eq=False)
class Observations:
    """Draws of one term that were made: example (n,), cell (n,), columns (n, 1 + C), weight 1/(p N q) (n,)."""

    examples: Tensor
    cells: Tensor
    columns: Tensor
    weight: Tensor


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
    """`fit` corrected by draws with features F (n, q) in `cells` (n,), columns (n, 1 + C) and weights (n,)."""
    n, q = F.shape
    if n < LEAST_DRAWS:
        return fit
    basis = _hats(along, max(1, min(KNOTS, n // DRAWS_A_KNOT)))
    residual = columns[:, 0] - fit.predict(cells, F) - fit.control(cells, columns[:, 1:])
    size = fit.size[cells, None]
    regressors = torch.cat([size, size * F, columns[:, 1:]], 1)
    H = basis.shape[1]
    A = (basis[cells, :, None] * regressors[:, None, :]).reshape(n, -1) * weight[:, None]
    coefficients = _ridge(A, residual * weight)
    if coefficients is None:
        return fit
    b = basis @ coefficients.reshape(H, regressors.shape[1])
    return TermFit(
        mean=fit.mean + fit.size * b[:, 0],
        size=fit.size,
        weights=fit.weights + b[:, 1 : q + 1],
        controls=fit.controls + b[:, q + 1 :],
        raw=fit.raw,
        residual=fit.residual,
        noise=fit.noise,
    )


def _hats(along: Tensor, knots: int) -> Tensor:
    """Piecewise linear functions with even knots on [0, 1], (M, knots); a constant where there is one knot."""
    if knots < 2 or len(along) < 2:
        return torch.ones(len(along), 1, dtype=torch.float64)
    at = along * (knots - 1)
    return (1 - (at[:, None] - torch.arange(knots, dtype=torch.float64)).abs()).clamp_min(0)


def _ridge(A: Tensor, b: Tensor) -> Tensor | None:
    """Coefficients of the ridge regression of b (n,) on A (n, m) that leaves the least out of sample; None if none."""
    n = len(b)
    scale = A.square().mean(0).sqrt()
    A = A / torch.where(scale > 0, scale, torch.ones_like(scale))
    # by the eigenvectors of AᵀA: a tenth of the time of A's singular vectors, and the least ridge is far above rounding
    s2, V = torch.linalg.eigh(A.mT @ A)
    s2 = s2.clamp_min(0)
    U = A @ V  # times the singular values
    target = U.mT @ b
    squares = U.square()
    best, kept = float(b.square().sum()), None
    for ridge in _RIDGES:
        shrunk = 1 / (s2 + ridge * n)
        leverage = (squares @ shrunk).clamp_max(0.9)
        error = (b - U @ (shrunk * target)) / (1 - leverage)
        if float(error.square().sum()) < best:
            best, kept = float(error.square().sum()), shrunk
    if kept is None:
        return None
    return V @ (kept * target) / torch.where(scale > 0, scale, torch.ones_like(scale))

"""What the draws along a chain have not shown yet and may still be there: errors that are rare with little noise.

The less noise, the rarer and the larger are a denoiser's mistakes: with probability exp(−a SNR) and size ∝ SNR they
make up most of the variance where a ≈ 2/SNR, and vanish soon after. A bin next to that place may have errors that its
draws show once in hundreds of times, and the draws that a tolerance pays show none. So where a bin has less than a
share LEAST of the variance, relative to the scale of its cells, of its neighbour with more noise, it is taken to have

    SHARE/n  of it, at most MOST                                                n the number of its draws

and in proportion between. Averaged over where the levels may lie, with no mistake in n draws, that law has 0.26 of the
neighbour's variance at n = 50 and 0.06 at n = 300, about 15/n; the half of it covers. Where errors change less from
bin to bin, nothing is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound.planned import laps
from nelbo.bound.planned.crossfit import Observations
from nelbo.bound.planned.laps import Folds
from nelbo.bound.planned.summary import BINS, bin_of_cells
from nelbo.bound.problem import Problem

LEAST = 0.09
"""Variance of a bin, of its neighbour's with more noise, from which it has shown its errors."""
SHARE, MOST = 6.0, 0.25
"""Variance of a bin without errors, of its neighbour's: SHARE over its draws, and most."""


def shown(problem: Problem, cells: Tensor, errors: Tensor, weights: Tensor) -> Tensor:
    """Of every bin of BINS the number of draws, Σ e, Σ e² and Σ (a c)², (BINS, 4), from draws in `cells` (n,) of scales
    c, with `errors` e = a r (n,), NaN where an interrupt left a draw out, and `weights` a (n,) in the estimate."""
    made = torch.isfinite(errors)
    cells, e = cells[made], errors[made]
    columns = torch.stack([torch.ones_like(e), e, e.square(), (weights[made] * problem.cells.scale[cells]).square()], 1)
    return torch.zeros(BINS, 4, dtype=torch.float64).index_add(0, bin_of_cells(problem)[cells], columns)


def scaled(shown: Tensor, share: float) -> Tensor:
    """The same where the draws get `share` of the weight."""
    return shown * torch.tensor([1.0, share, share**2, share**2], dtype=torch.float64)


def of_folds(problem: Problem, folds: Folds, draws: list[Observations], residuals: list[Tensor]) -> float:
    """`missing` of the draws of folds, with their `residuals`, (y − fit − a·n)/(p N q)."""
    together, residual = laps.together(draws), torch.cat(residuals)
    fold = folds.fold[together.examples]
    made = torch.bincount(fold[torch.isfinite(residual)], minlength=len(folds)).clamp_min(1)
    share = (torch.tensor(folds.shares, dtype=torch.float64) / made)[fold]
    return missing(shown(problem, together.cells, residual * share, together.weight * share))


def missing(shown: Tensor) -> float:
    """The variance to be added for what bins from data to noise have not shown, from `shown` (BINS, 4)."""
    n, total, square, scale = shown[shown[:, 0] > 0].T
    variance = (square - total.square() / n).clamp_min(0) * n / (n - 1).clamp_min(1)
    neighbour = variance[1:] / scale[1:].clamp_min(1e-300) * scale[:-1]
    absent = (1 - variance[:-1] / (LEAST * neighbour).clamp_min(1e-300)).clamp_min(0)
    return float(((SHARE / n[:-1]).clamp_max(MOST) * neighbour * absent).sum())

"""Designs: how the draws of a stage are spread over examples and cells, and what they say.

Both designs (`pooled.py`, `per_example.py`) estimate, from draws independent of the fit,

    mean of the bound = mean prior + mean of the fit over all examples (closed form) + mean of (y − fit − a·n)/(p N q),

and both put two independent draws in every stratum of the cells, so that half their squared difference is an unbiased
estimate of the stratum's variance. `Pooled` draws examples at random, with probabilities q: cheapest for a coarse
answer. `PerExample` (q = 1/N) gives every example its own strata, so that differences between examples cost nothing:
cheapest for a fine one. Both correct the fit by their own draws (`refit.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.features import Features
from nelbo.bound.fit import Fit
from nelbo.bound.problem import Problem

BINS = 16
"""Strata of the chain that results report."""


@dataclass(frozen=True, eq=False)
class Density:
    """Probabilities p (M,) of the cells and their cumulative sum with a leading 0, (M + 1,)."""

    p: Tensor
    cumulative: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Density:
        """Proportional to `weight` (M,), all positive."""
        p = weight / weight.sum()
        return cls(p, torch.cat([torch.zeros(1, dtype=p.dtype), p.cumsum(0)]))

    def place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The cells that u (n,) in (0, 1) falls in, and the fraction of the cell that lies before it."""
        u = u * self.cumulative[-1]
        cells = (torch.searchsorted(self.cumulative, u.contiguous(), right=True) - 1).clamp(0, len(self.p) - 1)
        return cells, ((u - self.cumulative[cells]) / self.p[cells]).clamp(0, 1)


def neyman(fit: Fit, relative: Tensor) -> Density:
    """p ∝ the cell's standard deviation, |m|·`relative`, with a tenth for its mean and a fiftieth for all cells alike:
    the pilot is small, and a cell that it took for empty must not get a weight without bound."""
    spread, mean = fit.size * relative, fit.size
    parts = [(0.88, spread), (0.10, mean), (0.02, torch.ones_like(mean))]
    return Density.of(sum(share * part / part.sum().clamp_min(1e-300) for share, part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Rows:
    """Per-example values (N,) of the two random terms, and their errors (N, k): e such that the Monte Carlo variance of
    an example's value is ‖e‖². Errors are linear in the draws: those of a difference are the difference of errors."""

    diffusion: Tensor
    reconstruction: Tensor
    diffusion_errors: Tensor
    reconstruction_errors: Tensor


@dataclass(frozen=True, eq=False)
class Said:
    """What all draws so far say of the mean over examples, in nats: values and Monte Carlo variances of the two random
    terms, contributions (value, variance, draws) of BINS stretches of cells, and per-example rows or None."""

    diffusion: tuple[float, float]
    reconstruction: tuple[float, float]
    bins: Tensor
    examples: Rows | None

    @property
    def value(self) -> float:
        """Both terms."""
        return self.diffusion[0] + self.reconstruction[0]

    @property
    def variance(self) -> float:
        """Of both terms; their draws are independent."""
        return self.diffusion[1] + self.reconstruction[1]


def residual_of(fit: Fit, features: Features, who: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """y − fit − a·n of draws, (n,)."""
    return columns[:, 0] - fit.predict(cells, features[who]) - fit.control(cells, columns[:, 1:])


def bins_of(problem: Problem, cells: Tensor, residual: Tensor, fit: Fit, features: Tensor, of: float = 1.0) -> Tensor:
    """(BINS, 3): value, variance and number of draws of each stretch of the chain, from weighted residuals (n,) of a
    fit for examples of mean `features` (q,).

    of: the share of the examples that these draws speak for, where several calls are added up.
    """
    n = max(1, len(residual))
    edge = bin_of_cells(problem)
    which = edge[cells]
    mean = fit.mean + fit.size * (fit.weights @ features)
    total = torch.zeros(BINS, dtype=torch.float64).index_add(0, edge, mean)
    first = torch.zeros(BINS, dtype=torch.float64).index_add(0, which, residual) / n
    second = torch.zeros(BINS, dtype=torch.float64).index_add(0, which, residual.square()) / n
    count = torch.zeros(BINS, dtype=torch.float64).index_add(0, which, torch.ones_like(residual))
    return torch.stack([of * (total + first), of**2 * (second - first.square()).clamp_min(0) / n, count], 1)


def bin_of_cells(problem: Problem) -> Tensor:
    """The stretch, 0..BINS−1, of every cell (M,): even in λ from the first level to the last."""
    cells = problem.cells
    if not len(cells):
        return torch.zeros(0, dtype=torch.long)
    top, bottom = cells.upper[0], cells.lower[-1]
    return ((top - cells.logsnr) / (top - bottom) * BINS).floor().long().clamp(0, BINS - 1)

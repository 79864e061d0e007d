"""The allocation of draws: to cells by their standard deviations, to the two terms and to examples by a pilot.

Neyman (1934): of independent parts with standard deviations s and costs c, draws ∝ s/√c leave the least variance.
Nothing here draws anything. Pooled designs are planned once; per-example ones block by block (`blocks_plan.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
LARGEST = 8192
"""Most examples of a block: what is planned at once must not grow with the data."""
MOST = 256
"""Most strata and pairs of first-level draws that are planned for an example."""
AT_ONCE = 2 * LARGEST * MOST
"""Most draws that are made at once: they are in memory together, a few hundred bytes each."""
FINER = 12
"""Evaluations an example from which strata of its own serve it better, and tell their variance better, than draws of
random examples."""
CORRECTED = 0.7
"""Cost of the pooled design over what the pilot expects, since its own draws correct the pilot's fit. That of the
per-example design is mostly its fewest strata."""
_CURVE, _DRAWS_A_KNOT = 8, 40
"""Most knots of the curve of standard deviations that draws have shown, and the draws that each takes."""
_LEAST_RATIO = 0.1
"""Least of that curve, of its largest: what has shown no error yet may do so."""
FREE = 0.05
"""Cost, in draws of a cell, that a first-level draw without network is planned with: it is cheap, and not nothing."""
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
    cost_r = relative_cost(problem)
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


def relative_cost(problem: Problem) -> float:
    """The cost of a first-level draw in draws of a cell."""
    return max(problem.first_cost / max(1, problem.cell_cost), FREE)

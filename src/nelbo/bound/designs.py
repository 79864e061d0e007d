"""Designs: how the draws of a stage are spread over examples and cells, and what they say.

Both designs estimate, from draws independent of the fit,

    mean of the bound = mean prior + mean of the fit over all examples (closed form) + mean of (y − fit − a·n)/(p N q),

and both put two independent draws in every stratum of the cells, so that half their squared difference is an unbiased
estimate of the stratum's variance. `pooled` (pooled.py) draws examples at random, with probabilities q, and corrects
the fit by its own draws: cheapest for a coarse answer. `per_example` (q = 1/N) gives every example its own strata, so
that differences between examples cost nothing: cheapest for a fine one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import errorbar, refit
from nelbo.bound.pilot import Fit, Pilot
from nelbo.bound.problem import Problem
from nelbo.bound.refit import Draws
from nelbo.maths import random

BINS = 16
"""Strata of the chain that results report."""
FALL = 1.4
"""The variance of a per-example stage falls about as its strata to the power −FALL; stages are weighted by that."""
_REFIT = 1000
"""Fewest draws of a block of the per-example design that correct its fit."""
_BLOCK = 8192
"""Examples a block of the per-example design: what is planned at once must not grow with the data."""


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
class Stage:
    """What one stage of draws says of the mean over examples, in nats: values and Monte Carlo variances of the two
    random terms, contributions (value, variance, draws) of BINS stretches of cells, and per-example rows or None."""

    diffusion: tuple[float, float]
    reconstruction: tuple[float, float]
    bins: Tensor
    examples: Rows | None
    weight: float
    draws: tuple[Draws, Draws] | None = None
    """Of the reconstruction and of the diffusion term, for the fit of later stages."""
    between: float = 0.0
    """N times what the draws save, as far as is known, by not repeating examples (`Pilot.between_by`), nats²."""

    @property
    def value(self) -> float:
        """Both terms."""
        return self.diffusion[0] + self.reconstruction[0]

    @property
    def variance(self) -> float:
        """Of both terms; their draws are independent."""
        return self.diffusion[1] + self.reconstruction[1]


def per_example(
    problem: Problem, pilot: Pilot, density: Density, strata: int, reconstructions: int, offset: int
) -> Stage:
    """For every example two draws in each of `strata` strata of the cells, and 2·`reconstructions` first-level draws.

    Interrupted, it speaks for the examples that were finished, and the fit for the others.
    """
    N, M = problem.examples, len(problem.cells)
    values = torch.full((N,), float("nan")).double()
    r_values = values.clone()
    errors = torch.zeros(N, strata, dtype=torch.float64)
    r_errors = torch.zeros(N, 2 * reconstructions, dtype=torch.float64)
    order = random.permutation(problem.seed, N, draw=2)
    bins, spoken_for = torch.zeros(BINS, 3, dtype=torch.float64), 0.0
    both = 2 * reconstructions
    zero = torch.zeros(1, dtype=torch.long)
    for block in order.split(_BLOCK):
        if problem.stopped:
            break
        b = len(block)
        who = block.repeat_interleave(both)
        draws = offset + torch.arange(both).repeat(b)
        columns = problem.reconstruction_columns(who, draws, pilot.surrogate, partial=True)
        cell = zero.expand(len(who))
        y = columns[:, 0] - pilot.reconstruction.control(cell, columns[:, 1:])
        y = y.reshape(b, both)
        r_values[block] = y.mean(1)
        r_errors[block] = (y - y.mean(1, keepdim=True)) / math.sqrt(both * (both - 1))
        if problem.stopped:
            break
        if not M:
            values[block] = 0.0
            continue
        draws = torch.arange(2 * strata)
        who, number = block.repeat_interleave(2 * strata), draws.repeat(b)
        inside = random.uniform(problem.seed, who, 1, offset + number, stream=random.Stream.TIME)
        cells, inner = density.place((number // 2 + inside) / strata)
        columns = problem.cell_columns(who, cells, inner, cells + 1, offset + number, pilot.surrogate, partial=True)
        weight = 1 / density.p[cells]
        along = (density.cumulative[1:] + density.cumulative[:-1]) / 2
        enough = len(who) >= _REFIT
        own = refit.split(problem.seed, b, pilot.features) if enough else torch.zeros(b, dtype=torch.long)
        fold = torch.zeros(N, dtype=torch.long)
        fold[block] = own
        fits = refit.crossfit(pilot.diffusion, along, pilot.features, fold, [Draws(who, cells, columns, weight)])
        for k, fit in enumerate(fits):
            mine = (own == k).repeat_interleave(2 * strata)
            rows = block[own == k]
            residual = residual_of(fit, pilot.features, who[mine], cells[mine], columns[mine]) * weight[mine]
            pairs = residual.reshape(len(rows), strata, 2)
            values[rows] = fit.mean.sum() + pilot.features[rows] @ fit.total_weights + pairs.mean((1, 2))
            errors[rows] = (pairs[..., 0] - pairs[..., 1]) / (2 * strata)
            done = torch.isfinite(residual)
            features = pilot.features[rows].mean(0)
            bins += bins_of(problem, cells[mine][done], residual[done], fit, features, of=len(rows) / N)
        spoken_for += b / N
    if problem.stopped and spoken_for:
        bins /= torch.tensor([spoken_for, spoken_for**2, 1.0], dtype=torch.float64)
    done = torch.isfinite(values) & torch.isfinite(r_values)
    r_squares = r_errors.square().sum(1, keepdim=True)
    return Stage(
        diffusion=_mean(pilot.diffusion, pilot, done, values[done], errors[done].square(), 1),
        reconstruction=_mean(pilot.reconstruction, pilot, done, r_values[done], r_squares[done], both - 1),
        bins=bins,
        examples=Rows(values, r_values, errors, r_errors) if bool(done.all()) else None,
        weight=float(strata) ** FALL * float(done.double().mean()),
    )


def residual_of(fit: Fit, features: Tensor, who: Tensor, cells: Tensor, columns: Tensor) -> Tensor:
    """y − fit − a·n of draws, (n,)."""
    return columns[:, 0] - fit.predict(cells, features[who]) - fit.control(cells, columns[:, 1:])


def _mean(fit: Fit, pilot: Pilot, done: Tensor, values: Tensor, squares: Tensor, freedom: int) -> tuple[float, float]:
    """Mean over all examples and its variance, where `done` (N,) of them have values (n,) and squared errors (n, k) of
    `freedom` degrees each."""
    n, N = len(values), len(done)
    if n == N:
        return float(values.mean()), errorbar.of_squares(squares.flatten() / N**2, freedom)
    if n < 2:
        return 0.0, math.inf
    fitted = fit.mean.sum() + pilot.features @ fit.total_weights
    left, variance = errorbar.of_draws([values - fitted[done]], [1.0])
    return float(fitted.mean() + left), variance


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

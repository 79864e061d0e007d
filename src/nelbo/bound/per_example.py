"""The per-example design: strata of its own for every example. Cheapest for a fine answer, and one for each example.

The examples are cut into blocks in random order, and every block has as many strata as the planner wants for it: the
mean over all examples is the sum of the blocks' means by their fixed shares, so that a block's number of strata may
follow from what the blocks before it have shown and the estimate stays unbiased. A block that is drawn again is
averaged with what it had, by weights that follow from the numbers of strata.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound import errorbar, refit
from nelbo.bound.designs import BINS, Density, Rows, Said, bins_of, residual_of
from nelbo.bound.fit import Fit
from nelbo.bound.pilot import Pilot
from nelbo.bound.problem import Problem
from nelbo.bound.refit import Draws
from nelbo.maths import random

FALL = 1.4
"""The variance of an example falls about as its strata to the power −FALL; draws of a block are weighted by that."""
LARGEST = 8192
"""Most examples of a block: what is planned at once must not grow with the data."""
_REFIT = 2000
"""Fewest draws, of a block and of those before it, that correct a fit."""


@dataclass(eq=False)
class Block:
    """Examples that are drawn together: their rows, the strata and first-level draws they had, where along the chain
    their values lie (BINS, 3)."""

    rows: Tensor
    weight: float = 0.0
    draws: int = 0
    strata: int = 0
    bins: Tensor = field(default_factory=lambda: torch.zeros(BINS, 3, dtype=torch.float64))


class PerExample:
    """The draws of one estimate so far: blocks, and of every example its values and errors (see `Rows`)."""

    def __init__(self, problem: Problem, pilot: Pilot, density: Density):
        N = problem.examples
        self.problem, self.pilot, self.density = problem, pilot, density
        self.order = random.permutation(problem.seed, N, draw=2)
        self.blocks: list[Block] = []
        self.offset = 0
        self.values = torch.full((N,), math.nan, dtype=torch.float64)
        self.r_values = self.values.clone()
        self.errors = torch.zeros(N, 0, dtype=torch.float64)
        self.r_errors = torch.zeros(N, 0, dtype=torch.float64)
        self.r_freedom = torch.zeros(N, dtype=torch.float64)
        self._past: list[Draws] = []

    name = "per_example"

    @staticmethod
    def least(problem: Problem) -> int:
        """Evaluations of the smallest estimate."""
        return problem.examples * 2 * (bool(len(problem.cells)) + problem.decoder_cost)

    def cost(self, examples: float, strata: float, reconstructions: float) -> float:
        """Evaluations of `examples` with two draws in each of `strata` and 2·`reconstructions` at the first level."""
        cells, decoder = bool(len(self.problem.cells)), self.problem.decoder_cost
        return examples * 2 * (strata * cells + reconstructions * decoder)

    @property
    def complete(self) -> bool:
        """Whether every example has its draws."""
        return sum(len(b.rows) for b in self.blocks if b.strata) == self.problem.examples

    def new(self, examples: int) -> Block:
        """The next `examples` of the random order as a block."""
        done = sum(len(b.rows) for b in self.blocks)
        self.blocks.append(Block(self.order[done : done + examples]))
        return self.blocks[-1]

    def draw(self, block: Block, strata: int, reconstructions: int) -> None:
        """Two draws in each of `strata` strata for every example of a block, 2·`reconstructions` at the first level.

        Interrupted, what was not finished is left out.
        """
        self.offset, offset = self.offset + 2 * max(strata, reconstructions), self.offset
        if reconstructions:
            self._reconstruction(block, 2 * reconstructions, offset)
        if strata and not self.problem.stopped:
            self._diffusion(block, strata, offset)

    def _reconstruction(self, block: Block, n: int, offset: int) -> None:
        rows, b = block.rows, len(block.rows)
        who, draws = rows.repeat_interleave(n), offset + torch.arange(n).repeat(b)
        columns = self.problem.reconstruction_columns(who, draws, self.pilot.surrogate, partial=True)
        y = columns[:, 0] - self.pilot.reconstruction.control(torch.zeros_like(who), columns[:, 1:])
        y = y.reshape(b, n)
        if block.draws and self.problem.stopped:
            return
        share = n / (block.draws + n)
        errors = (y - y.mean(1, keepdim=True)) / math.sqrt(n * (n - 1))
        self.r_values[rows] = _merged(self.r_values[rows], y.mean(1), share)
        self.r_errors = _beside(self.r_errors, rows, block.draws, errors, share)
        self.r_freedom[rows] += n - 1
        block.draws += n

    def _diffusion(self, block: Block, strata: int, offset: int) -> None:
        problem, pilot, density = self.problem, self.pilot, self.density
        rows, b, n = block.rows, len(block.rows), 2 * strata
        if not len(problem.cells):
            self.values[rows] = 0.0
            return
        who, number = rows.repeat_interleave(n), torch.arange(n).repeat(b)
        inside = random.uniform(problem.seed, who, 1, offset + number, stream=random.Stream.TIME)
        cells, inner = density.place((number // 2 + inside) / strata)
        columns = problem.cell_columns(who, cells, inner, cells + 1, offset + number, pilot.surrogate, partial=True)
        if block.strata and problem.stopped:
            return
        weight = 1 / density.p[cells]
        drawn = Draws(who, cells, columns, weight)
        fold, fits = self._fits(block, drawn)
        share = strata**FALL / (block.weight + strata**FALL)
        values, errors = torch.empty(b).double(), torch.empty(b, strata).double()
        bins = torch.zeros_like(block.bins)
        for k, fit in enumerate(fits):
            mine, own = fold == k, rows[fold == k]
            of = mine.repeat_interleave(n)
            residual = residual_of(fit, pilot.features, who[of], cells[of], columns[of]) * weight[of]
            pairs = residual.reshape(len(own), strata, 2)
            values[mine] = fit.mean.sum() + pilot.features.times(fit.total_weights, own) + pairs.mean((1, 2))
            errors[mine] = (pairs[..., 0] - pairs[..., 1]) / n
            done = torch.isfinite(residual)
            mean = pilot.features[own].mean(0)
            bins += bins_of(problem, cells[of][done], residual[done], fit, mean, of=len(own) / problem.examples)
        self.values[rows] = _merged(self.values[rows], values, share)
        self.errors = _beside(self.errors, rows, block.strata, errors, share)
        kept = torch.tensor([[1 - share, (1 - share) ** 2, 1.0], [share, share**2, 1.0]], dtype=torch.float64)
        block.bins = block.bins * kept[0] + bins * kept[1]
        block.strata += strata
        block.weight += strata**FALL
        if not problem.stopped and sum(len(d.who) for d in self._past) < refit.MOST:
            self._past.append(drawn)

    def _fits(self, block: Block, drawn: Draws) -> tuple[Tensor, list[Fit]]:
        """The fold of every example of a block, and the fit of every fold: by the draws of the others and those of
        other blocks before."""
        pilot, density, rows = self.pilot, self.density, block.rows
        known = [] if block.strata else self._past
        if not pilot.features.number or sum(len(d.who) for d in known) + len(drawn.who) < _REFIT:
            return torch.zeros(len(rows), dtype=torch.long), [pilot.diffusion]
        fold = refit.split(self.problem.seed, len(rows), pilot.features.number)
        everyone = torch.full((self.problem.examples,), -1, dtype=torch.long)
        everyone[rows] = fold
        along = (density.cumulative[1:] + density.cumulative[:-1]) / 2
        return fold, refit.crossfit(pilot.diffusion, along, pilot.features, everyone, [drawn, *known])

    def scatter(self) -> tuple[float, float, float, float]:
        """Of the examples that are done: their variances' sum, in nats²; the mean variance of the diffusion term at one
        stratum and of the reconstruction at two draws; the factor that error bars have for being uncertain."""
        own = A = B = n = 0.0
        for b in self.blocks:
            if b.strata:
                errors = float(self.errors[b.rows].square().sum())
                r_errors = float(self.r_errors[b.rows].square().sum())
                own, n = own + errors + r_errors, n + len(b.rows)
                A, B = A + errors * b.weight, B + r_errors * b.draws / 2
        said = self.said()
        spoken = n / self.problem.examples
        wide = said.variance * self.problem.examples**2 / own if own and spoken == 1 else 1.0
        return own, A / n, B / n, wide

    def said(self) -> Said:
        """What the draws so far say; of the examples that have none the fit speaks."""
        pilot = self.pilot
        done = torch.isfinite(self.values) & torch.isfinite(self.r_values)
        finished = float(done.double().mean())
        bins = sum((b.bins for b in self.blocks), torch.zeros(BINS, 3, dtype=torch.float64))
        spoken = sum(len(b.rows) for b in self.blocks if b.strata) / len(done)
        if 0 < spoken < 1:
            bins = bins / torch.tensor([spoken, spoken**2, 1.0], dtype=torch.float64)
        r_squares = self.r_errors[done].square().sum(1)
        whole = finished == 1
        return Said(
            diffusion=_mean(pilot.diffusion, pilot, done, self.values[done], self.errors[done].square().flatten(), 1),
            reconstruction=_mean(
                pilot.reconstruction, pilot, done, self.r_values[done], r_squares, self.r_freedom[done]
            ),
            bins=bins,
            examples=Rows(self.values, self.r_values, self.errors, self.r_errors) if whole else None,
        )

    def between(self, prior: Tensor) -> list[float]:
        """As of `Pooled`, by the pilot's fits: for an interrupt, before which not every example had its draws."""
        pilot, d, r = self.pilot, self.pilot.diffusion, self.pilot.reconstruction
        if len(prior) < 2:
            return [math.nan] * 3
        told, r_told = pilot.features.times(d.total_weights), pilot.features.times(r.total_weights)
        return [
            float(told.var()) + pilot.between_by(None, d),
            float(r_told.var()) + pilot.between_by(r, None),
            float((prior + told + r_told).var()) + pilot.between_by(r, d),
        ]


def _merged(old: Tensor, new: Tensor, share: float) -> Tensor:
    return new if share == 1 else old + share * (new - old)


def _beside(all_errors: Tensor, rows: Tensor, had: int, errors: Tensor, share: float) -> Tensor:
    """`all_errors` (N, k) with those of `rows`, which `had` columns, averaged with `errors` (n, m) by 1 − share."""
    missing = had + errors.shape[1] - all_errors.shape[1]
    if missing > 0:
        all_errors = torch.cat([all_errors, all_errors.new_zeros(len(all_errors), missing)], 1)
    all_errors[rows, :had] *= 1 - share
    all_errors[rows, had : had + errors.shape[1]] = share * errors
    return all_errors


def _mean(
    fit: Fit, pilot: Pilot, done: Tensor, values: Tensor, squares: Tensor, freedom: int | Tensor
) -> tuple[float, float]:
    """Mean over all examples and its variance, where `done` (N,) of them have values (n,) and squared errors of
    `freedom` degrees each."""
    n, N = len(values), len(done)
    if n == N:
        return float(values.mean()), errorbar.of_squares(squares / N**2, freedom)
    if n < 2:
        return 0.0, math.inf
    fitted = fit.mean.sum() + pilot.features.times(fit.total_weights)
    left, variance = errorbar.of_draws([values - fitted[done]], [1.0])
    return float(fitted.mean() + left), variance

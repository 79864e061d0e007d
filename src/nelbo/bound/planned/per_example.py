"""The per-example design: strata of its own for every example. Cheapest for a fine answer, and one for each example.

The examples are cut into blocks in random order, and every block has as many strata as the planner wants for it: the
mean over all examples is the sum of the blocks' means by their fixed shares, so that a block's number of strata may
follow from what the blocks before it have shown and the estimate stays unbiased. A block that is drawn again is
averaged with what it had, by weights that follow from the numbers of strata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nelbo.bound.estimate import Spread
from nelbo.bound.planned import allocation, crossfit, error_bars, unseen
from nelbo.bound.planned.allocation import FALL, LEAST_STRATA, CellDensity, DesignPlan, Scatter
from nelbo.bound.planned.blocks import Block, merged, third_of_pairs, with_errors
from nelbo.bound.planned.crossfit import Observations
from nelbo.bound.planned.error_bars import Mean
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.planned.regression import TermFit
from nelbo.bound.planned.summary import BINS, ExampleValues, Summary, binned, residuals
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.maths.keys import Purpose

AGAIN = 40
"""Most times that a block of examples is drawn again because the variance is more than what was planned for."""
_REFIT = 2000
"""Fewest draws, of a block and of those before it, that correct a fit."""


class PerExampleDesign:
    """The draws of one estimate so far: blocks, and of every example its values and errors (see `ExampleValues`)."""

    name = "per_example"

    def __init__(self, problem: Problem, runner: Runner, pilot: Pilot, density: CellDensity):
        N = problem.examples
        self.problem, self.runner, self.pilot, self.density = problem, runner, pilot, density
        self.order = Purpose.PER_EXAMPLE_ORDER.permutation(problem.seed, N)
        self.blocks: list[Block] = []
        self.offset = 0
        self.values = torch.full((N,), math.nan, dtype=torch.float64)
        self.r_values = self.values.clone()
        self.errors = torch.zeros(N, 0, dtype=torch.float64)
        self.r_errors = torch.zeros(N, 0, dtype=torch.float64)
        self.r_freedom = torch.zeros(N, dtype=torch.float64)
        self._past: list[Observations] = []
        self.made: list[tuple[int, int, int, int]] = []  # block, strata, pairs at the first level, first number

    @staticmethod
    def least(problem: Problem) -> int:
        """Evaluations of the smallest estimate."""
        return int(allocation.per_example_cost(problem, problem.examples, 1, 1))

    def run(
        self,
        plan: DesignPlan,
        target: Callable[[], float],
        remaining: Callable[[], float],
        strata: int | None = None,
    ) -> Iterator[int]:
        """Draw block after block of examples, then such blocks again as were too rough for a standard error of `target`
        nats, within the `remaining` evaluations. Before each, yields what it takes and the examples that are left need
        at least. With `strata` every example has as many, and that is all."""
        problem, N = self.problem, self.problem.examples
        k, m = (
            allocation.first_block(plan, N) if strata is None else (float(strata), float(round(plan.reconstructions)))
        )
        left = N
        for examples in [N] if strata is not None else allocation.parts(N, k):
            if left < N:
                k, m = allocation.next_block(problem, self.scatter(), target(), left, plan)
            k, m = allocation.within(problem, k, m, remaining() / left)
            yield math.ceil(allocation.per_example_cost(problem, left, k, m))
            for rows, whole, pairs in allocation.whole_numbers(examples, k, m):
                self.draw(self.new(rows), whole, pairs)
                if self.runner.stopped:
                    return
            left -= examples
        if strata is not None:
            return
        yield 0
        for _ in range(AGAIN):
            block, *more = self.roughest(target())
            cost = round(allocation.per_example_cost(problem, len(block.rows), *more))
            if cost > remaining():
                return
            yield cost
            self.draw(block, *more)

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
        problem, runner, controls = self.problem, self.runner, self.pilot.controls
        rows, offset = block.rows, self.offset
        self.made.append((self.blocks.index(block), strata, reconstructions, offset))
        self.offset += 2 * max(strata, reconstructions)
        if reconstructions:
            n = 2 * reconstructions
            draws = Draws.first_level(rows.repeat_interleave(n), offset + torch.arange(n).repeat(len(rows)))
            columns = runner.columns(problem, draws, controls, partial=True)
            if not (block.draws and runner.stopped):
                self._add_reconstruction(block, columns)
        if not strata or runner.stopped:
            return
        if not len(problem.cells):
            self.values[rows] = 0.0
            return
        examples, number = rows.repeat_interleave(2 * strata), torch.arange(2 * strata).repeat(len(rows))
        inside = Purpose.PER_EXAMPLE_PLACE.uniform(problem.seed, examples, 0, offset + number)
        cells, inner = self.density.place((number // 2 + inside) / strata)
        together = 2 * strata if problem.strands else 0
        draws = Draws(examples, cells + 1, offset + number, cells, inner, together=together)
        columns = runner.columns(problem, draws, controls, partial=True)
        if not (block.strata and runner.stopped):
            self._add_diffusion(
                block, strata, Observations(examples, cells, columns, 1 / self.density.p[cells], 0 * cells)
            )

    def _add_reconstruction(self, block: Block, columns: Tensor) -> None:
        rows, b, n = block.rows, len(block.rows), len(columns) // len(block.rows)
        one_cell = torch.zeros(len(columns), dtype=torch.long)
        y = (columns[:, 0] - self.pilot.reconstruction.control(one_cell, columns[:, 1:])).reshape(b, n)
        share = n / (block.draws + n)
        errors = (y - y.mean(1, keepdim=True)) / math.sqrt(n * (n - 1))
        self.r_values[rows] = merged(self.r_values[rows], y.mean(1), share)
        self.r_errors = with_errors(self.r_errors, rows, block.draws, errors, share)
        self.r_freedom[rows] += n - 1
        block.draws += n

    def _add_diffusion(self, block: Block, strata: int, observed: Observations) -> None:
        problem, pilot = self.problem, self.pilot
        rows, b, n = block.rows, len(block.rows), 2 * strata
        fold, fits = self._fits(block, observed)
        share = strata**FALL / (block.weight + strata**FALL)
        values, errors = torch.empty(b).double(), torch.empty(b, strata).double()
        bins, shown, third = torch.zeros_like(block.bins), torch.zeros_like(block.shown), 0.0
        for k, fit in enumerate(fits):
            mine, own = fold == k, rows[fold == k]
            of = mine.repeat_interleave(n)
            examples, cells, columns = observed.examples[of], observed.cells[of], observed.columns[of]
            residual = residuals(fit, pilot.features, examples, cells, columns) * observed.weight[of]
            pairs = residual.reshape(len(own), strata, 2)
            values[mine] = fit.mean.sum() + pilot.features.times(fit.total_weights, own) + pairs.mean((1, 2))
            errors[mine] = (pairs[..., 0] - pairs[..., 1]) / n
            third += third_of_pairs(pairs)
            made = torch.isfinite(residual)
            mean = pilot.features[own].mean(0)
            bins += binned(problem, cells[made], residual[made], fit, mean, len(own) / problem.examples)
            whole = n * problem.examples
            shown += unseen.shown(problem, cells, residual / whole, observed.weight[of] / whole)
        self.values[rows] = merged(self.values[rows], values, share)
        self.errors = with_errors(self.errors, rows, block.strata, errors, share)
        kept = torch.tensor([[1 - share, (1 - share) ** 2, 1.0], [share, share**2, 1.0]], dtype=torch.float64)
        block.bins = block.bins * kept[0] + bins * kept[1]
        block.shown = unseen.scaled(block.shown, 1 - share) + unseen.scaled(shown, share)
        block.third = block.third * (1 - share) ** 3 + third * share**3
        block.strata += strata
        block.weight += strata**FALL
        if not self.runner.stopped and sum(len(d.examples) for d in self._past) < crossfit.MOST:
            self._past.append(observed)

    def _fits(self, block: Block, observed: Observations) -> tuple[Tensor, list[TermFit]]:
        """The fold of every example of a block, and the fit of every fold: by the draws of the others and those of
        other blocks before."""
        pilot, rows = self.pilot, block.rows
        known = [] if block.strata else self._past
        if not pilot.features.number or sum(len(d.examples) for d in (observed, *known)) < _REFIT:
            return torch.zeros(len(rows), dtype=torch.long), [pilot.diffusion]
        fold = crossfit.split(self.problem.seed, len(rows), pilot.features.number)
        of_all = torch.full((self.problem.examples,), -1, dtype=torch.long)
        of_all[rows] = fold
        along = self.density.middles
        return fold, crossfit.crossfit(pilot.diffusion, along, pilot.features, of_all, [observed, *known])

    def scatter(self) -> Scatter:
        """The variances that the examples have shown that are done."""
        own = A = B = n = 0.0
        together = self._together**2
        for b in self.blocks:
            if b.strata:
                errors = together * float(self.errors[b.rows].square().sum())
                r_errors = float(self.r_errors[b.rows].square().sum())
                own, n = own + errors + r_errors, n + len(b.rows)
                A, B = A + errors * b.weight, B + r_errors * b.draws / 2
        whole = n == self.problem.examples
        widening = self.summary().variance * self.problem.examples**2 / own if own and whole else 1.0
        return Scatter(own, A / n, B / n, widening)

    def roughest(self, target: float) -> tuple[Block, int, int]:
        """The block to be drawn again, strata and pairs of first-level draws: the one that has least of what it lacks.

        All examples are alike before they are drawn, so equal strata are the cheapest; and a block is not chosen by the
        variance that it showed, which would favour samples whose skewed tail has not shown yet.
        """
        N, scatter = self.problem.examples, self.scatter()
        A, B, goal = scatter.diffusion, scatter.reconstruction, scatter.goal(target, N)
        k, m = allocation.cheapest(self.problem, scatter, goal / N)
        excess = scatter.total - goal
        late = list(reversed(self.blocks))
        rough, few = min(late, key=lambda b: b.weight), min(late, key=lambda b: b.draws)
        if B and m / (few.draws / 2) > (k / rough.weight ** (1 / FALL) if A else 0):
            pairs = few.draws / 2
            share = len(few.rows) * B / pairs
            most = allocation.AT_ONCE / (2 * len(few.rows))
            return few, 0, max(1, math.ceil(min(m - pairs, pairs * _more(excess / share), most)))
        share = len(rough.rows) * A / rough.weight if A else math.inf
        more = min(k**FALL - rough.weight, rough.weight * _more(excess / share))
        most = allocation.AT_ONCE / (2 * len(rough.rows))
        return rough, max(LEAST_STRATA, math.ceil(min(max(0.0, more) ** (1 / FALL), most))), 0

    @property
    def _together(self) -> float:
        """The factor of errors for draws of a strand that depend on each other."""
        return error_bars.of_strands(self.errors) if self.problem.strands else 1.0

    def summary(self) -> Summary:
        """The result of the draws so far; for the examples that have none, the fit stands."""
        pilot = self.pilot
        done = torch.isfinite(self.values) & torch.isfinite(self.r_values)
        bins = sum((b.bins for b in self.blocks), torch.zeros(BINS, 3, dtype=torch.float64))
        share = sum(len(b.rows) for b in self.blocks if b.strata) / len(done)
        if 0 < share < 1:
            bins = bins / torch.tensor([share, share**2, 1.0], dtype=torch.float64)
        r_squares = self.r_errors[done].square().sum(1)
        whole = bool(done.all())
        errors = self._together * self.errors
        squares, freedom = errors[done].square().flatten(), self.r_freedom[done]
        of_cells = _mean(pilot.diffusion, pilot, done, self.values[done], squares, 1)
        of_cells = of_cells._replace(third=sum(b.third for b in self.blocks) / len(done) ** 3)
        if self.problem.strands and math.isfinite(of_cells.variance):
            of_cells = error_bars.with_freedom(of_cells, len(squares) / max(1, self.errors.shape[1]) + error_bars.ALIKE)
        if whole:
            missing = unseen.missing(sum((b.shown for b in self.blocks), torch.zeros(BINS, 4, dtype=torch.float64)))
            of_cells = error_bars.with_more(of_cells, missing)
        parts = (
            of_cells,
            _mean(pilot.reconstruction, pilot, done, self.r_values[done], r_squares, freedom),
        )
        return Summary(
            diffusion=parts[0][:2],
            reconstruction=parts[1][:2],
            bins=bins,
            examples=ExampleValues(self.values, self.r_values, errors, self.r_errors) if whole else None,
            freedom=error_bars.together([p.variance for p in parts], [p.freedom for p in parts]),
            third=(of_cells.third, 0.0),
        )

    def spreads(self, prior: Tensor) -> list[Spread]:
        """As of `PooledDesign`, by the pilot's fits: for an interrupt before every example had its draws."""
        pilot, d, r = self.pilot, self.pilot.diffusion, self.pilot.reconstruction
        of_cells, of_first = pilot.features.times(d.total_weights), pilot.features.times(r.total_weights)
        return [
            Spread(of_cells, pilot.between_by(None, d)),
            Spread(of_first, pilot.between_by(r, None)),
            Spread(prior + of_cells + of_first, pilot.between_by(r, d)),
        ]


def _more(part: float) -> float:
    """The weight, of what there is, that takes `part` of a variance away; at most all but a thousandth of it."""
    part = min(max(part, 0.0), 0.999)
    return part / (1 - part)


def _mean(fit: TermFit, pilot: Pilot, done: Tensor, values: Tensor, squares: Tensor, freedom: int | Tensor) -> Mean:
    """Mean over all examples and its variance, where `done` (N,) of them have values (n,) and squared errors of
    `freedom` degrees each."""
    n, N = len(values), len(done)
    if n == N:
        return Mean(float(values.mean()), *error_bars.of_squares(squares / N**2, freedom))
    if n < 2:
        return Mean(0.0, math.inf, error_bars.FREEDOM)
    fitted = fit.mean.sum() + pilot.features.times(fit.total_weights)
    residual = error_bars.of_draws([values - fitted[done]], [1.0])
    return residual._replace(value=float(fitted.mean() + residual.value))

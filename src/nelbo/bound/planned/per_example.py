"""The per-example design: strata of its own for every example. Cheapest for a fine answer, and one for each example.

The examples are cut into blocks in random order, and every block has as many strata as the planner wants for it: the
mean over all examples is the sum of the blocks' means by their fixed shares, so that a block's number of strata may
follow from what the blocks before it have shown and the estimate stays unbiased. A block that is drawn again is
averaged with what it had, by weights that follow from the numbers of strata.

Of few examples each has two draws in every stratum. Of many so has the first block and a random part of the others,
and the rest have one draw in each of more strata (`collapsed.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nelbo.bound.estimate import Spread
from nelbo.bound.planned import blocks_plan, collapsed, crossfit, error_bars, unseen
from nelbo.bound.planned.allocation import CellDensity, DesignPlan
from nelbo.bound.planned.blocks import Block, mean_of, merged, third_of_pairs, with_errors, with_ratio
from nelbo.bound.planned.blocks_plan import FALL, Scatter
from nelbo.bound.planned.collapsed import Collapsed
from nelbo.bound.planned.crossfit import Observations
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
        self.offset, self.twice = 0, 1.0
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
        return int(blocks_plan.cost_of(problem, problem.examples, 1, 1))

    def run(
        self,
        plan: DesignPlan,
        target: Callable[[], float],
        remaining: Callable[[], float],
        strata: int | None = None,
    ) -> Iterator[int]:
        """Draw block after block of examples, then such blocks again as were too rough for a standard error of `target`
        nats, within the `remaining` evaluations. Before each, yields what it takes and the examples that are left need
        at least. With `strata` every example has two draws in as many, and that is all."""
        problem, N = self.problem, self.problem.examples
        k, m = (
            blocks_plan.first_block(plan, N) if strata is None else (float(strata), float(round(plan.reconstructions)))
        )
        left = N
        for examples in [N] if strata is not None else blocks_plan.parts(N, k):
            if left < N:
                k, m = blocks_plan.next_block(problem, self.scatter(), target(), left, plan)
                self.twice = plan.twice
            k, m = blocks_plan.within(problem, k, m, remaining() / left, self.twice)
            yield math.ceil(blocks_plan.cost_of(problem, left, k, m, self.twice))
            for rows, whole, pairs in blocks_plan.whole_numbers(examples, k, m):
                self.draw(self.new(rows), whole, pairs)
                if self.runner.stopped:
                    return
            left -= examples
        if strata is not None:
            return
        yield 0
        for _ in range(AGAIN):
            block, *more = blocks_plan.roughest(problem, self.blocks, self.scatter(), target(), self.twice)
            cost = round(blocks_plan.cost_of(problem, len(block.rows), *more))
            if cost > remaining():
                return
            yield cost
            self.draw(block, *more)

    @property
    def complete(self) -> bool:
        """Whether every example has its draws."""
        return sum(len(b.rows) for b in self.blocks if b.strata) == self.problem.examples

    def new(self, examples: int) -> Block:
        """The next `examples` of the random order as a block, of which a part `twice` is to have two draws in every
        stratum, and the others one."""
        done = sum(len(b.rows) for b in self.blocks)
        rows = self.order[done : done + examples]
        both = math.ceil(self.twice * len(rows))
        self.blocks.append(Block(rows[:both]))
        if both < len(rows):
            self.blocks.append(Block(rows[both:], twice=self.blocks[-1]))
        return self.blocks[-1]

    def draw(self, block: Block, strata: int, reconstructions: int) -> None:
        """Two draws in each of `strata` strata for every example of a block, 2·`reconstructions` at the first level.
        The first time, half as many of a block of single draws, together with the examples that are drawn twice.

        Interrupted, what was not finished is left out.
        """
        problem, runner, controls = self.problem, self.runner, self.pilot.controls
        offset, parts = self.offset, block.parts
        self.made.append((self.blocks.index(block), strata, reconstructions, offset))
        self.offset += 2 * max(strata, reconstructions)
        rows, sizes = torch.cat([b.rows for b in parts]), [len(b.rows) for b in parts]
        copies = torch.tensor([2, 1][: len(parts)]).repeat_interleave(torch.tensor(sizes))
        if reconstructions:
            n = copies * reconstructions
            draws = Draws.first_level(rows.repeat_interleave(n), offset + _counted(n))
            columns = runner.columns(problem, draws, controls, partial=True)
            if not (block.draws and runner.stopped):
                each = [int(part.sum()) for part in n.split(sizes)]
                for b, own in zip(parts, columns.split(each), strict=True):
                    self._add_reconstruction(b, own)
        if not strata or runner.stopped:
            return
        if not len(problem.cells):
            self.values[rows] = 0.0
            return
        n = copies * strata
        examples, number = rows.repeat_interleave(n), _counted(n) * (2 / copies).long().repeat_interleave(n)
        inside = Purpose.PER_EXAMPLE_PLACE.uniform(problem.seed, examples, 0, offset + number)
        cells, inner = self.density.place((number // 2 + inside) / strata)
        together = 2 * strata if problem.strands else 0
        draws = Draws(examples, cells + 1, offset + number, cells, inner, together=together)
        columns = runner.columns(problem, draws, controls, partial=True)
        if block.strata and runner.stopped:
            return
        observed = Observations(examples, cells, columns, 1 / self.density.p[cells], 0 * cells)
        fold, fits = self._fits(rows, observed, again=bool(block.strata))
        each, start = [int(part.sum()) for part in n.split(sizes)], 0
        for b, own, size in zip(parts, fold.split(sizes), each, strict=True):
            self._add_diffusion(b, strata, own, fits, observed[start : start + size])
            start += size
        if not runner.stopped and sum(len(d.examples) for d in self._past) < crossfit.MOST:
            self._past.append(observed)

    def _add_reconstruction(self, block: Block, columns: Tensor) -> None:
        rows, n = block.rows, len(columns) // len(block.rows)
        of_first, fit = torch.zeros(len(columns), dtype=torch.long), self.pilot.reconstruction
        y = (columns[:, 0] - fit.control(of_first, columns[:, 1:])).reshape(len(rows), n)
        distance = y - fit.predict(of_first[: len(rows)], self.pilot.features[rows])[:, None]
        share = n / (block.draws + n)
        errors = (y - y.mean(1, keepdim=True)) / math.sqrt(n * (n - 1)) if n > 1 else distance
        self.r_values[rows] = merged(self.r_values[rows], y.mean(1), share)
        self.r_errors = with_errors(self.r_errors, rows, block.draws, errors, share)
        self.r_freedom[rows] += max(1, n - 1)
        if block.draws:
            block.of_reconstruction = block.of_reconstruction.averaged(share)
        elif n == 1 and block.twice is not None:
            block.of_reconstruction = Collapsed(block.twice.of_reconstruction.known, 1)
        else:
            block.of_reconstruction = Collapsed(collapsed.of_one(distance))
        block.draws += n

    def _add_diffusion(
        self, block: Block, strata: int, fold: Tensor, fits: list[TermFit], observed: Observations
    ) -> None:
        problem, pilot, rows = self.problem, self.pilot, block.rows
        b, n = len(rows), len(observed.examples) // len(rows)
        copies = n // strata
        weight = copies / 2 * strata**FALL
        share = weight / (block.weight + weight)
        values, residual = torch.empty(b).double(), torch.empty(b * n).double()
        bins, shown, third = torch.zeros_like(block.bins), torch.zeros_like(block.shown), 0.0
        for k, fit in enumerate(fits):
            mine, own = fold == k, rows[fold == k]
            of = mine.repeat_interleave(n)
            some = observed[of]
            left = residuals(fit, pilot.features, some.examples, some.cells, some.columns) * some.weight
            values[mine] = fit.mean.sum() + pilot.features.times(fit.total_weights, own) + left.reshape(-1, n).mean(1)
            residual[of], made = left, torch.isfinite(left)
            if copies == 2:
                third += third_of_pairs(left.reshape(-1, strata, 2))
            whole = n * problem.examples
            shown += unseen.shown(problem, some.cells, left / whole, some.weight / whole)
            if len(own):
                mean = pilot.features[own].mean(0)
                bins += binned(problem, some.cells[made], left[made], fit, mean, len(own) / problem.examples)
        draws = residual.reshape(b, strata, copies)
        if copies == 2:
            errors, known = (draws[..., 0] - draws[..., 1]) / n, Collapsed(collapsed.of_strata(draws))
        else:
            assert block.twice is not None
            errors = collapsed.errors(draws[..., 0])
            third = block.for_each * collapsed.third_of_single(block.twice.third)
            known = Collapsed(block.twice.of_diffusion.known, errors.shape[1])
        self.values[rows] = merged(self.values[rows], values, share)
        self.errors = with_errors(self.errors, rows, block.strata, errors, share)
        kept = torch.tensor([[1 - share, (1 - share) ** 2, 1.0], [share, share**2, 1.0]], dtype=torch.float64)
        block.bins = block.bins * kept[0] + bins * kept[1]
        block.shown = unseen.scaled(block.shown, 1 - share) + unseen.scaled(shown, share)
        block.third = block.third * (1 - share) ** 3 + third * share**3
        block.of_diffusion = block.of_diffusion.averaged(share) if block.strata else known
        block.strata += errors.shape[1]
        block.weight += weight

    def _fits(self, rows: Tensor, observed: Observations, again: bool) -> tuple[Tensor, list[TermFit]]:
        """The fold of each of the examples `rows`, and the fit of every fold: by the draws of the others and, the first
        time, those of other blocks before."""
        pilot = self.pilot
        known = [] if again else self._past
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
        both = [self._errors()[0].square().sum(1), self._r_errors()[0].square().sum(1)]
        for b in self.blocks:
            if b.strata:
                errors, r_errors = (float(squares[b.rows].sum()) for squares in both)
                own, n = own + errors + r_errors, n + len(b.rows)
                A, B = A + errors * b.weight, B + r_errors * b.draws / 2
        whole = n == self.problem.examples
        widening = self.summary().variance * self.problem.examples**2 / own if own and whole else 1.0
        return Scatter(own, A / n, B / n, widening)

    def _errors(self) -> tuple[Tensor, float]:
        """Errors (N, k) of the diffusion term, and the degrees of freedom of what they are multiplied by: the ratio of
        single draws, or a factor for draws of a strand that depend on each other."""
        if not self.problem.strands:
            return with_ratio(self.errors, self.blocks, "of_diffusion")
        done = int((torch.isfinite(self.values) & torch.isfinite(self.r_values)).sum())
        return error_bars.of_strands(self.errors) * self.errors, done + error_bars.ALIKE

    def _r_errors(self) -> tuple[Tensor, float]:
        """The same of the reconstruction."""
        return with_ratio(self.r_errors, self.blocks, "of_reconstruction")

    def summary(self) -> Summary:
        """The result of the draws so far; for the examples that have none, the fit stands."""
        pilot, F = self.pilot, self.pilot.features
        done = torch.isfinite(self.values) & torch.isfinite(self.r_values)
        bins = sum((b.bins for b in self.blocks), torch.zeros(BINS, 3, dtype=torch.float64))
        share = sum(len(b.rows) for b in self.blocks if b.strata) / len(done)
        if 0 < share < 1:
            bins = bins / torch.tensor([share, share**2, 1.0], dtype=torch.float64)
        whole, means = bool(done.all()), []
        (errors, common), (r_errors, r_common) = self._errors(), self._r_errors()
        squares, r_squares = errors[done].square().flatten(), r_errors[done].square().sum(1)
        of_cells = mean_of(pilot.diffusion, F, done, self.values, squares, 1)
        of_cells = of_cells._replace(third=sum(b.third for b in self.blocks) / len(done) ** 3)
        of_first = mean_of(pilot.reconstruction, F, done, self.r_values, r_squares, self.r_freedom[done])
        for mean, freedom in ((of_cells, common), (of_first, r_common)):
            known = math.isfinite(mean.variance) and math.isfinite(freedom)
            means.append(error_bars.with_freedom(mean, freedom) if known else mean)
        if whole:
            shown = sum((b.shown for b in self.blocks), torch.zeros(BINS, 4, dtype=torch.float64))
            means[0] = error_bars.with_more(means[0], unseen.missing(shown))
        return Summary(
            diffusion=means[0][:2],
            reconstruction=means[1][:2],
            bins=bins,
            examples=ExampleValues(self.values, self.r_values, errors, r_errors) if whole else None,
            freedom=error_bars.together([m.variance for m in means], [m.freedom for m in means]),
            third=(means[0].third, 0.0),
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


def _counted(n: Tensor) -> Tensor:
    """0, 1, … n_i − 1 for each of n (b,), one after the other."""
    return torch.arange(int(n.sum())) - (n.cumsum(0) - n).repeat_interleave(n)

"""The pooled design: every draw of another random example. Cheapest for a coarse answer about many examples.

The examples are split into folds (`crossfit.py`), and each fold is estimated by itself: its strata of cells, its own
draws of examples, its own corrected fit. The folds' means are averaged by their numbers of examples. Draws are made in
stages; the fits are then corrected again by all draws, and what was drawn together is averaged by numbers of draws.

Stages end at preset multiples of the plan: stopping at the first lucky look would favour samples whose skewed tail has
not shown yet, and the fewer the looks before enough is known, the less.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nelbo.bound.estimate import Spread
from nelbo.bound.planned import allocation, crossfit, error_bars, laps, unseen
from nelbo.bound.planned.allocation import AT_ONCE, CellDensity, DesignPlan
from nelbo.bound.planned.crossfit import Observations
from nelbo.bound.planned.laps import Folds
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.planned.regression import TermFit
from nelbo.bound.planned.stages import Stage, finished
from nelbo.bound.planned.summary import BINS, Summary, binned, residuals
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose

LOOKS = tuple(0.12 * 1.07**i for i in range(84))
"""Multiples of the plan, to 33, at which the error bar is looked at: 7 % apart, so that little is drawn in vain."""
FIRST = 64, 32
"""Pairs, and first-level draws, of the first stage, at least: fewer would not tell their own variance. Of first-level
draws that the pilot finds to vary hardly, _AS_PLANNED times as many as planned are enough."""
_AS_PLANNED = 4
LEAST = 16
"""Pairs, or first-level draws, of the smallest stage but the first."""
_LEAST_VARIANCE = 0.3
"""Least variance of a result, of that without the credit: the credit is known roughly."""
NEARLY = 1.1
"""Variance that is expected at a look, of the one that is asked for, above which the look is passed over."""
ALLOTTED = 200
"""Fewest draws, of those that make up the variance, by which the later ones are allotted."""
GROWTH = 1.4
"""Growth of the draws from which no look is passed over: what few draws foretell is uncertain, and fits get better."""
REFIT = 1.25
"""Growth of the draws from which fits are corrected again: what a few more say is not worth the time."""
_FIT_LESS = 0.9
"""Factor by which a stage is made smaller until the evaluations that remain allow it."""


class PooledDesign:
    """The draws of one estimate so far."""

    name = "pooled"
    complete = True

    def __init__(
        self,
        problem: Problem,
        runner: Runner,
        pilot: Pilot,
        density: CellDensity,
        fits: Sequence[list[TermFit]] | None = None,
    ):
        """fits: of both terms, one a fold, to use as they are; corrected by the draws where None."""
        self.problem, self.runner, self.pilot, self.density = problem, runner, pilot, density
        fold = crossfit.split(problem.seed, problem.examples, pilot.features.number)
        self.folds = Folds(problem.seed, fold, pilot.chance)
        self.stages: list[Stage] = []
        self._fits: tuple[list[TermFit], list[TermFit]] = ([], [])
        self.along, self._allotted = density.middles, 0
        self._known: tuple[int, Summary] | None = None
        self._corrected = [(0 if fits is None else sys.maxsize, of_term) for of_term in fits or ([], [])]
        self.offset = 0

    def cost(self, strata: int, reconstructions: int) -> int:
        """Evaluations of `draw`."""
        return 2 * strata * self.problem.cell_cost + reconstructions * self.problem.first_cost

    @staticmethod
    def least(problem: Problem) -> int:
        """Evaluations of the smallest estimate."""
        return 2 * FIRST[0] * problem.cell_cost + FIRST[1] * problem.first_cost

    def run(self, plan: DesignPlan, target: Callable[[], float], remaining: Callable[[], float]) -> Iterator[int]:
        """Draw the stages that end at the looks, as far as the `remaining` evaluations go; those are passed over at
        which a standard error of `target` nats is not to be expected. Before each, yields what it, or the rest of the
        plan, will take."""
        done = [0, 0]
        of_first = _AS_PLANNED * FIRST[0] * plan.reconstructions / plan.strata
        first = FIRST[0], max(2 * len(self.folds), min(FIRST[1], math.ceil(of_first)))
        for look in LOOKS:
            size = self._size(plan, look, done)
            if not done[0]:
                size = [max(least, n) for least, n in zip(first, size, strict=True)]
            elif max(size) < LEAST or (look < LOOKS[-1] and self._far(size, target())):
                continue
            size = [max(0, n) for n in size]
            last, smallest = self.cost(*size) > remaining(), 2 * len(self.folds)
            while self.cost(*size) > remaining():
                if max(size) <= smallest:
                    return
                size = [max(min(n, smallest), math.floor(_FIT_LESS * n)) for n in size]
            if 2 * size[0] + size[1] > AT_ONCE:
                raise UsageError(
                    f"a stage of {float(2 * size[0] + size[1]):.2g} draws of the pooled design, all in memory at once",
                    "give a larger tolerance=…, a smaller max_nfe=…, or leave estimator='auto'",
                )
            yield max(self.cost(*size), math.ceil(min(plan.cost - self.cost(*done), remaining())))
            self.draw(*size)
            if last:
                return
            done = [d + n for d, n in zip(done, size, strict=True)]

    def _size(self, plan: DesignPlan, look: float, done: list[int]) -> list[int]:
        """The draws of both terms that are missing at a `look`, where `done` are made: by Neyman's ratio as the draws
        have shown it, at most _AS_PLANNED times away from the pilot's, at the cost that is planned."""
        ratio, cell, first = plan.reconstructions / plan.strata, self.problem.cell_cost, self.problem.first_cost
        pairs = look * plan.strata
        if min(done) and cell and first:
            n, m = 2 * done[0], done[1]
            of_cells, of_first = self.summary().diffusion[1] * n * first, self.summary().reconstruction[1] * m * cell
            if math.isfinite(of_cells + of_first):  # not of an interrupted stage that tells too little
                seen = 2 * math.sqrt(of_first / max(of_cells, 1e-300))
                ratio = min(max(seen, ratio / _AS_PLANNED), ratio * _AS_PLANNED)
            pairs = look * plan.cost / (2 * cell + ratio * first)
        return [math.ceil(pairs) - done[0], math.ceil(pairs * ratio) - done[1]]

    def _far(self, size: list[int], target: float) -> bool:
        """Whether a further stage of `size` is small and not expected to bring the standard error to `target` nats."""
        made = sum(len(s.diffusion.examples) + len(s.reconstruction.examples) for s in self.stages)
        grown = made + 2 * size[0] + size[1]
        return grown < GROWTH * made and self.summary().variance * made > NEARLY * target**2 * grown

    def draw(self, strata: int, reconstructions: int) -> None:
        """2·`strata` diffusion draws and `reconstructions` first-level draws, each of another random example."""
        problem, folds, seed = self.problem, self.folds, self.problem.seed
        controls = self.pilot.controls
        self._allot()
        offset, self.offset = self.offset, self.offset + 2 * max(strata, reconstructions)

        order = Purpose.RECONSTRUCTION_ORDER.permutation(seed, reconstructions, draw=offset)
        past = [s.reconstruction for s in self.stages]
        examples, numbers, weight, lap = folds.draws(laps.even(reconstructions, len(folds)), 0, offset, order, past)
        draws = Draws.first_level(examples, numbers)
        columns = self.runner.columns(problem, draws, controls, partial=True)
        first = Observations(examples, draws.keys, columns, weight, lap)

        planned = laps.even(strata if len(problem.cells) else 0, len(folds))
        counts = [0] * len(planned) if self.runner.stopped else planned
        # in random order, so that an interrupt leaves a sample of the strata and not the first stretch of the chain
        pairs = Purpose.DIFFUSION_ORDER.permutation(seed, sum(counts), draw=offset)
        order = torch.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1)
        past = [s.diffusion for s in self.stages]
        examples, numbers, weight, lap = folds.draws([2 * n for n in counts], 1, offset, order, past)
        stratum = torch.cat([torch.arange(n).repeat_interleave(2) for n in counts])[order]
        fold = folds.fold[examples]
        inside = Purpose.POOLED_PLACE.uniform(seed, fold, 0, numbers)
        cells, inner = self.density.place((stratum + inside) / torch.tensor(counts).clamp_min(1)[fold])
        draws = Draws(examples, cells + 1, numbers, cells, inner)
        columns = self.runner.columns(problem, draws, controls, partial=True)
        second = Observations(examples, cells, columns, weight / self.density.p[cells], lap)
        self.stages.append(Stage(first, second, planned))

    def _allot(self) -> None:
        """Draw along the chain by what the draws have shown, and no longer by what the pilot foretold; not by what few
        of them show, since a place without an error yet would be drawn even less."""
        made, fits = self._corrected[1]
        if not fits or made == self._allotted:
            return
        self._allotted = made
        draws = laps.together([s.diffusion for s in self.stages])
        residual = torch.cat([self._residuals(fits, s.diffusion) for s in self.stages])
        done = torch.isfinite(residual)
        if crossfit.effective(residual[done]) < ALLOTTED:
            return
        bare = residual / draws.weight
        self.density = allocation.seen(
            self.pilot.diffusion, self.along, draws.cells[done], bare[done], draws.weight[done], self.problem.foretold
        )

    def summary(self) -> Summary:
        """The result of all draws. An interrupted stage that tells too little is left out, where others are there."""
        if self._known is not None and self._known[0] == len(self.stages):
            return self._known[1]
        self._fits, summary = self._summary(self.stages)
        if not math.isfinite(summary.variance) and len(self.stages) > 1:
            self._fits, summary = self._summary(self.stages[:-1])
        self._known = len(self.stages), summary
        return summary

    def _summary(self, stages: list[Stage]) -> tuple[tuple[list[TermFit], list[TermFit]], Summary]:
        """The fits of the reconstruction and of the diffusion term, one a fold, and the result by them."""
        pilot, folds = self.pilot, self.folds
        first = [s.reconstruction for s in stages]
        fits = self._refitted(0, pilot.reconstruction, torch.zeros(1, dtype=torch.float64), first)
        groups: list[list[Tensor]] = [[] for _ in folds.shares]
        of_stages = [self._residuals(fits, draws) for draws in first]
        for draws, residual in zip(first, of_stages, strict=True):
            for k, group in enumerate(groups):
                group.append(residual[(folds.fold[draws.examples] == k) & torch.isfinite(residual)])
        of_first = error_bars.of_draws([torch.cat(group) for group in groups], folds.shares)
        r_variance = self._credited(of_first.variance, first, of_stages, None)
        r_value = of_first.value + folds.fitted(fits, pilot)

        second = [s.diffusion for s in stages]
        d_fits = self._refitted(1, pilot.diffusion, self.along, second)
        pairs, planned, shares = [], [], []
        bins = torch.zeros(BINS, 3, dtype=torch.float64)
        of_stages = [self._residuals(d_fits, draws) for draws in second]
        for k, share in enumerate(folds.shares):
            of_fold = [finished(stage, r, folds.fold == k) for stage, r in zip(stages, of_stages, strict=True)]
            residual, cells = (torch.cat(parts) for parts in zip(*of_fold, strict=True))
            for (own, _), stage in zip(of_fold, stages, strict=True):
                if stage.strata[k]:
                    pairs.append(own)
                    planned.append(stage.strata[k])
                    shares.append(share * len(own) / max(1, len(residual)))
            mean = folds.mean(pilot, k)
            bins += binned(self.problem, cells.flatten(), residual.flatten(), d_fits[k], mean, share)
        of_cells = error_bars.of_pairs(pairs, planned, shares)
        if len(self.problem.cells):
            credited = self._credited(of_cells.variance, second, of_stages, d_fits)
            of_cells = error_bars.with_more(
                of_cells._replace(variance=credited), unseen.of_folds(self.problem, folds, second, of_stages)
            )
        diffusion = folds.fitted(d_fits, pilot) + of_cells.value, of_cells.variance
        freedom = error_bars.together([of_cells.variance, r_variance], [of_cells.freedom, of_first.freedom])
        third = of_cells.third, of_first.third
        return (fits, d_fits), Summary(diffusion, (r_value, r_variance), bins, None, freedom, third)

    def _refitted(self, term: int, fit: TermFit, along: Tensor, draws: list[Observations]) -> list[TermFit]:
        """The corrected fits of a term, corrected anew where it has a quarter more draws than at the last time."""
        n = sum(len(d.examples) for d in draws)
        before, fits = self._corrected[term]
        if n < REFIT * before:
            return fits
        fits = crossfit.crossfit(fit, along, self.pilot.features, self.folds.fold, draws)
        self._corrected[term] = n, fits
        return fits

    def _credited(
        self, variance: float, draws: list[Observations], residuals: list[Tensor], fits: list[TermFit] | None
    ) -> float:
        """The variance less what it saves to draw examples without replacement, by the draws, and of the diffusion term
        (`fits`) by the pilot as well; see `laps.py`."""
        if not math.isfinite(variance):
            return variance
        foretold = []
        if fits is not None:
            # of the same examples for every fold, so that their variances are not independent
            of_folds = torch.tensor([self.pilot.saved_by(None, fit) for fit in fits]).double()
            value, error = (torch.tensor(self.folds.shares).double() @ of_folds).tolist()
            foretold = [(value, error)]
        less = laps.credit(self.folds.repeated(draws, residuals), self.folds.shares, foretold)
        return max(variance - less, _LEAST_VARIANCE * variance)

    def fits(self) -> tuple[list[TermFit], list[TermFit]]:
        """The corrected fits of the reconstruction and of the diffusion term, one a fold."""
        self.summary()
        return self._fits

    def spreads(self, prior: Tensor) -> list[Spread]:
        """How examples differ in the diffusion term, in the reconstruction, and in the whole with the prior (N,): by
        what the fits, corrected by all draws, foretell, and by what they leave of the pilot's."""
        pilot, folds = self.pilot, self.folds
        reconstruction, diffusion = self._fits
        zero, spreads = torch.zeros_like(prior), []
        for fits_of, start in (([diffusion], zero), ([reconstruction], zero), ([reconstruction, diffusion], prior)):
            foretold, residual = start.clone(), 0.0
            for k, rows in enumerate(folds.members):
                for fits in fits_of:
                    foretold[rows] += fits[k].mean.sum() + pilot.features.times(fits[k].total_weights, rows)
                of_first = reconstruction[k] if reconstruction in fits_of else None
                of_cells = diffusion[k] if diffusion in fits_of else None
                residual += folds.shares[k] * pilot.between_by(of_first, of_cells)
            spreads.append(Spread(foretold, residual))
        return spreads

    def _residuals(self, fits: list[TermFit], draws: Observations) -> Tensor:
        """(y − fit − a·n)/(p N q) of every draw by the fit of its example's fold, (n,)."""
        residual = torch.empty(len(draws.examples), dtype=torch.float64)
        fold = self.folds.fold[draws.examples]
        for k, fit in enumerate(fits):
            rows = fold == k
            examples, cells, columns = draws.examples[rows], draws.cells[rows], draws.columns[rows]
            residual[rows] = residuals(fit, self.pilot.features, examples, cells, columns)
        return residual * draws.weight

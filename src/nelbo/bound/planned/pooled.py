"""The pooled design: every draw of another random example. Cheapest for a coarse answer about many examples.

The examples are split into folds (`crossfit.py`), and each fold is estimated by itself: its strata of cells, its own
draws of examples, its own corrected fit. The folds' means are averaged by their numbers of examples. Draws are made in
stages; the fits are then corrected again by all draws, and what was drawn together is averaged by numbers of draws.

Stages end at preset multiples of the plan: stopping at the first lucky look would favour samples whose skewed tail has
not shown yet, and the fewer the looks before enough is known, the less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.planned import crossfit, error_bars
from nelbo.bound.planned.allocation import AT_ONCE, CREDIT, MIN_DRAWS, CellDensity, DesignPlan
from nelbo.bound.planned.crossfit import Observations
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.planned.regression import TermFit
from nelbo.bound.planned.summary import BINS, Summary, binned, residuals
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose

LOOKS = tuple(0.5 * 1.07**i for i in range(64))
"""Multiples of the plan, to 35, at which the error bar is looked at: 7 % apart, so that little is drawn in vain."""
LEAST = 32
"""Pairs, and first-level draws, of the smallest stage but the first."""
_LEAST_VARIANCE = 0.4
"""Least variance of a result, of that without the credit: the credit is known roughly."""
_FIT_LESS = 0.9
"""Factor by which a stage is made smaller until the evaluations that remain allow it."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """Draws of both terms that were made together, and the strata of every fold."""

    reconstruction: Observations
    diffusion: Observations
    strata: list[int]


class PooledDesign:
    """The draws of one estimate so far."""

    name = "pooled"
    complete = True

    def __init__(self, problem: Problem, runner: Runner, pilot: Pilot, density: CellDensity):
        self.problem, self.runner, self.pilot, self.density = problem, runner, pilot, density
        fold = crossfit.split(problem.seed, problem.examples, pilot.features.number)
        self.folds = Folds(problem.seed, fold, pilot.chance)
        self.stages: list[_Stage] = []
        self._fits: tuple[list[TermFit], list[TermFit]] = ([], [])
        self.offset = 0

    def cost(self, strata: int, reconstructions: int) -> int:
        """Evaluations of `draw`."""
        return 2 * strata * self.problem.cell_cost + reconstructions * self.problem.first_cost

    @staticmethod
    def least(problem: Problem) -> int:
        """Evaluations of the smallest estimate."""
        return MIN_DRAWS // 4 * (2 * problem.cell_cost + problem.first_cost)

    def run(self, plan: DesignPlan, remaining: Callable[[], float]) -> Iterator[int]:
        """Draw the stages that end at the looks, as far as the `remaining` evaluations go. Before each, yields those
        that it, or the rest of the plan, will take."""
        done = [0, 0]
        for look in LOOKS:
            least = LEAST if done[0] else MIN_DRAWS // 4
            size = [math.ceil(n * look) - d for n, d in zip((plan.strata, plan.reconstructions), done, strict=True)]
            if done[0] and max(size) < least:
                continue
            size = [max(least, n) for n in size]
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

    def draw(self, strata: int, reconstructions: int) -> None:
        """2·`strata` diffusion draws and `reconstructions` first-level draws, each of another random example."""
        problem, folds, seed = self.problem, self.folds, self.problem.seed
        controls = self.pilot.controls
        offset, self.offset = self.offset, self.offset + 2 * max(strata, reconstructions)

        order = Purpose.RECONSTRUCTION_ORDER.permutation(seed, reconstructions, draw=offset)
        past = [s.reconstruction for s in self.stages]
        examples, numbers, weight = folds.draws(_even(reconstructions, len(folds)), 0, offset, order, past)
        draws = Draws.first_level(examples, numbers)
        columns = self.runner.columns(problem, draws, controls, partial=True)
        first = Observations(examples, draws.keys, columns, weight)

        planned = _even(strata if len(problem.cells) else 0, len(folds))
        counts = [0] * len(planned) if self.runner.stopped else planned
        # in random order, so that an interrupt leaves a sample of the strata and not the first stretch of the chain
        pairs = Purpose.DIFFUSION_ORDER.permutation(seed, sum(counts), draw=offset)
        order = torch.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1)
        past = [s.diffusion for s in self.stages]
        examples, numbers, weight = folds.draws([2 * n for n in counts], 1, offset, order, past)
        stratum = torch.cat([torch.arange(n).repeat_interleave(2) for n in counts])[order]
        fold = folds.fold[examples]
        inside = Purpose.POOLED_PLACE.uniform(seed, fold, 0, numbers)
        cells, inner = self.density.place((stratum + inside) / torch.tensor(counts).clamp_min(1)[fold])
        draws = Draws(examples, cells + 1, numbers, cells, inner)
        columns = self.runner.columns(problem, draws, controls, partial=True)
        second = Observations(examples, cells, columns, weight / self.density.p[cells])
        self.stages.append(_Stage(first, second, planned))

    def summary(self) -> Summary:
        """The result of all draws. An interrupted stage that tells too little is left out, where others are there."""
        self._fits, summary = self._summary(self.stages)
        if not math.isfinite(summary.variance) and len(self.stages) > 1:
            self._fits, summary = self._summary(self.stages[:-1])
        return summary

    def _summary(self, stages: list[_Stage]) -> tuple[tuple[list[TermFit], list[TermFit]], Summary]:
        """The fits of the reconstruction and of the diffusion term, one a fold, and the result by them."""
        pilot, folds = self.pilot, self.folds
        first = [s.reconstruction for s in stages]
        one_cell = torch.zeros(1, dtype=torch.float64)
        fits = crossfit.crossfit(pilot.reconstruction, one_cell, pilot.features, folds.fold, first)
        groups: list[list[Tensor]] = [[] for _ in folds.shares]
        for draws in first:
            residual = self._residuals(fits, draws)
            for k, group in enumerate(groups):
                group.append(residual[(folds.fold[draws.examples] == k) & torch.isfinite(residual)])
        value, r_variance = error_bars.of_draws([torch.cat(group) for group in groups], folds.shares)
        r_value = value + folds.fitted(fits, pilot)

        second = [s.diffusion for s in stages]
        d_fits = crossfit.crossfit(pilot.diffusion, self.density.middles, pilot.features, folds.fold, second)
        pairs, planned, shares, count = [], [], [], 0
        bins = torch.zeros(BINS, 3, dtype=torch.float64)
        of_stages = [self._residuals(d_fits, draws) for draws in second]
        for k, share in enumerate(folds.shares):
            finished, cells = [], []
            for stage, residual in zip(stages, of_stages, strict=True):
                rows = folds.fold[stage.diffusion.examples] == k
                both = residual[rows].reshape(-1, 2)
                made = torch.isfinite(both).all(1)
                finished.append(both[made])
                cells.append(stage.diffusion.cells[rows].reshape(-1, 2)[made].reshape(-1))
            n = max(1, sum(len(f) for f in finished))
            for f, stage in zip(finished, stages, strict=True):
                if stage.strata[k]:
                    pairs.append(f)
                    planned.append(stage.strata[k])
                    shares.append(share * len(f) / n)
            count += 2 * n
            residual, mean = torch.cat(finished).reshape(-1), folds.mean(pilot, k)
            bins += binned(self.problem, torch.cat(cells), residual, d_fits[k], mean, share)
        value, variance = error_bars.of_pairs(pairs, planned, shares)
        between = [pilot.between_by(r, d, credited=True) for r, d in zip(fits, d_fits, strict=True)]
        credit = sum(share * b for share, b in zip(folds.shares, between, strict=True))
        if len(self.problem.cells) and math.isfinite(variance):
            credit = CREDIT * credit * min(1 / self.problem.examples, 1 / max(1, count))
            variance = max(variance - credit, _LEAST_VARIANCE * variance)
        diffusion = folds.fitted(d_fits, pilot) + value, variance
        return (fits, d_fits), Summary(diffusion, (r_value, r_variance), bins, None)

    def between(self, prior: Tensor) -> list[float]:
        """Variances between examples of the diffusion term, of the reconstruction, and of the whole with the prior
        (N,), nats²: of what the fits, corrected by all draws, foretell, and of what they leave of the pilot's."""
        pilot, folds = self.pilot, self.folds
        reconstruction, diffusion = self._fits
        zero, variances = torch.zeros_like(prior), []
        for fits_of, start in (([diffusion], zero), ([reconstruction], zero), ([reconstruction, diffusion], prior)):
            foretold, residual = start.clone(), 0.0
            for k, rows in enumerate(folds.members):
                for fits in fits_of:
                    foretold[rows] += fits[k].mean.sum() + pilot.features.times(fits[k].total_weights, rows)
                of_first = reconstruction[k] if reconstruction in fits_of else None
                of_cells = diffusion[k] if diffusion in fits_of else None
                residual += folds.shares[k] * pilot.between_by(of_first, of_cells)
            variances.append(float(foretold.var()) + residual if len(foretold) > 1 else math.nan)
        return variances

    def _residuals(self, fits: list[TermFit], draws: Observations) -> Tensor:
        """(y − fit − a·n)/(p N q) of every draw by the fit of its example's fold, (n,)."""
        residual = torch.empty(len(draws.examples), dtype=torch.float64)
        fold = self.folds.fold[draws.examples]
        for k, fit in enumerate(fits):
            rows = fold == k
            examples, cells, columns = draws.examples[rows], draws.cells[rows], draws.columns[rows]
            residual[rows] = residuals(fit, self.pilot.features, examples, cells, columns)
        return residual * draws.weight


class Folds:
    """The folds of N examples: members, shares of N, and times N_k q_i, from probabilities `chance` (N,)."""

    def __init__(self, seed: int, fold: Tensor, chance: Tensor):
        self.seed, self.fold = seed, fold
        self.members = [(fold == k).nonzero()[:, 0] for k in range(int(fold.max()) + 1)]
        self.shares = [len(rows) / len(fold) for rows in self.members]
        self.chance = [chance[rows] / chance[rows].sum() for rows in self.members]
        self._means: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.members)

    def draws(
        self, counts: list[int], term: int, offset: int, order: Tensor, past: list[Observations]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Examples, draw numbers and weights 1/(N_k q) of `counts` draws of the folds, put into `order`.

        The laps go on where `past` draws of the same term left them; draws are numbered from `offset`.
        """
        examples, weight, number = [], [], []
        for k, (rows, q, n) in enumerate(zip(self.members, self.chance, counts, strict=True)):
            before = sum(int((self.fold[d.examples] == k).sum()) for d in past)
            own = random_examples(self.seed, q, 1 + 2 * k + term, before + torch.arange(n))
            examples.append(rows[own])
            weight.append(1 / (len(q) * q[own]))
            number.append(offset + torch.arange(n))
        return torch.cat(examples)[order], torch.cat(number)[order], torch.cat(weight)[order]

    def fitted(self, fits: list[TermFit], pilot: Pilot) -> float:
        """The folds' fits, each averaged over the examples of its fold."""
        totals = [fit.mean.sum() + self.mean(pilot, k) @ fit.total_weights for k, fit in enumerate(fits)]
        return sum(share * float(total) for share, total in zip(self.shares, totals, strict=True))

    def mean(self, pilot: Pilot, k: int) -> Tensor:
        """Mean features (q,) of the examples of fold k."""
        if not self._means:
            sums = [torch.stack([pilot.features[part].sum(0) for part in rows.split(4096)]) for rows in self.members]
            self._means = [total.sum(0) / len(rows) for total, rows in zip(sums, self.members, strict=True)]
        return self._means[k]


def random_examples(seed: int, chance: Tensor, sample: int, draws: Tensor) -> Tensor:
    """An example, 0..N−1, for every draw (n,), each by itself with the probabilities `chance` (N,).

    sample: which of the independent samples of `Purpose.LAP_ORDER`; 0 is that of `checks.precision_shift`.

    Laps of N draws, each a systematic sample of all examples in keyed random order: example i comes ⌊N q_i⌋ or
    ⌈N q_i⌉ times, so that n ≤ N draws with equal probabilities are of different examples. A lap is then shuffled, which
    makes every part of it a sample of the same kind.
    """
    N = len(chance)
    lap = draws // N
    parts = [draws[:0]]
    for k in torch.unique_consecutive(lap).tolist():
        order = Purpose.LAP_ORDER.permutation(seed, N, sample, k)
        if bool((chance != chance[0]).any()):
            edges = chance[order].cumsum(0)
            v = Purpose.LAP_START.uniform(seed, 0, sample, k)
            at = (torch.arange(N, dtype=torch.float64) + v) / N * edges[-1]
            order = order[torch.searchsorted(edges, at, right=True).clamp_max(N - 1)]
            order = order[Purpose.LAP_SHUFFLE.permutation(seed, N, sample, k)]
        parts.append(order[draws[lap == k] % N])
    return torch.cat(parts)


def _even(count: int, parts: int) -> list[int]:
    """`count` in `parts` that differ by at most one."""
    return [count // parts + (k < count % parts) for k in range(parts)]

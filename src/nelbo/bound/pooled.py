"""The pooled design: every draw of another random example. Cheapest for a coarse answer about many examples.

The examples are split into folds (`refit.py`), and each fold is estimated by itself: its strata of cells, its own draws
of examples, its own corrected fit. The folds' means are averaged by their numbers of examples. Draws may be added; the
fits are then corrected again by all of them, and what was drawn together is averaged by numbers of draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import errorbar, refit
from nelbo.bound.designs import BINS, Density, Said, bins_of, residual_of
from nelbo.bound.fit import Fit
from nelbo.bound.pilot import Pilot
from nelbo.bound.problem import Problem
from nelbo.bound.refit import Draws
from nelbo.maths import random

_KEYS = 8
"""Level keys of random numbers that a fold has to itself."""
MIN_DRAWS = 384
"""Draws of the first stage, or pairs of a per-example one: fewer would not tell their own variance."""
CREDIT = 0.5
"""Share of the variance between examples that the design is credited for drawing examples without replacement: it is
known roughly, and an error bar should rather be a little long."""


@dataclass(frozen=True, eq=False)
class _Stage:
    """Draws of both terms that were made together, and the strata of every fold."""

    reconstruction: Draws
    diffusion: Draws
    strata: list[int]


class Pooled:
    """The draws of one estimate so far."""

    def __init__(self, problem: Problem, pilot: Pilot, density: Density):
        self.problem, self.pilot, self.density = problem, pilot, density
        self.folds = Folds(
            problem.seed, refit.split(problem.seed, problem.examples, pilot.features.number), pilot.chance
        )
        self.stages: list[_Stage] = []
        self._fits: tuple[list[Fit], list[Fit]] = ([], [])
        self.offset = 0

    name = "pooled"
    complete = True

    def cost(self, strata: int, reconstructions: int) -> int:
        """Evaluations of `draw`."""
        return 2 * strata * bool(len(self.problem.cells)) + reconstructions * self.problem.decoder_cost

    @staticmethod
    def least(problem: Problem) -> int:
        """Evaluations of the smallest estimate."""
        return MIN_DRAWS // 4 * (2 * bool(len(problem.cells)) + problem.decoder_cost)

    def draw(self, strata: int, reconstructions: int) -> None:
        """2·`strata` diffusion draws and `reconstructions` first-level draws, each of another random example."""
        offset, self.offset = self.offset, self.offset + 2 * max(strata, reconstructions)
        first = _draw_reconstruction(
            self.problem, self.pilot, self.folds, reconstructions, offset, [s.reconstruction for s in self.stages]
        )
        planned = _even(strata if len(self.problem.cells) else 0, len(self.folds))
        counts = [0] * len(planned) if self.problem.stopped else planned
        second = _draw_diffusion(
            self.problem, self.pilot, self.folds, self.density, counts, offset, [s.diffusion for s in self.stages]
        )
        self.stages.append(_Stage(first, second, planned))

    def said(self) -> Said:
        """What all draws say. An interrupted stage that tells too little is left out, where others are there."""
        self._fits, found = self._said(self.stages)
        if not math.isfinite(found.variance) and len(self.stages) > 1:
            self._fits, found = self._said(self.stages[:-1])
        return found

    def _said(self, stages: list[_Stage]) -> tuple[tuple[list[Fit], list[Fit]], Said]:
        """The fits of the reconstruction and of the diffusion term, one a fold, and what the draws say by them."""
        pilot, density, folds = self.pilot, self.density, self.folds
        first = [s.reconstruction for s in stages]
        fits = refit.crossfit(pilot.reconstruction, torch.zeros(1).double(), pilot.features, folds.fold, first)
        groups: list[list[Tensor]] = [[] for _ in folds.shares]
        for draws in first:
            left = _residuals(fits, pilot, folds.fold, draws)
            for k, group in enumerate(groups):
                group.append(left[(folds.fold[draws.who] == k) & torch.isfinite(left)])
        value, r_variance = errorbar.of_draws([torch.cat(group) for group in groups], folds.shares)
        r_value = value + folds.fitted(fits, pilot)

        second = [s.diffusion for s in stages]
        along = (density.cumulative[1:] + density.cumulative[:-1]) / 2
        d_fits = refit.crossfit(pilot.diffusion, along, pilot.features, folds.fold, second)
        pairs, planned, shares, drawn = [], [], [], 0
        bins = torch.zeros(BINS, 3, dtype=torch.float64)
        lefts = [_residuals(d_fits, pilot, folds.fold, draws) for draws in second]
        for k, share in enumerate(folds.shares):
            found, cells = [], []
            for stage, left in zip(stages, lefts, strict=True):
                rows = folds.fold[stage.diffusion.who] == k
                both = left[rows].reshape(-1, 2)
                done = torch.isfinite(both).all(1)
                found.append(both[done])
                cells.append(stage.diffusion.cells[rows].reshape(-1, 2)[done].reshape(-1))
            n = max(1, sum(len(f) for f in found))
            for f, stage in zip(found, stages, strict=True):
                if stage.strata[k]:
                    pairs.append(f)
                    planned.append(stage.strata[k])
                    shares.append(share * len(f) / n)
            drawn += 2 * n
            mean = folds.mean(pilot, k)
            bins += bins_of(self.problem, torch.cat(cells), torch.cat(found).reshape(-1), d_fits[k], mean, share)
        value, variance = errorbar.of_pairs(pairs, planned, shares)
        between = [pilot.between_by(r, d, credited=True) for r, d in zip(fits, d_fits, strict=True)]
        credit = sum(share * b for share, b in zip(folds.shares, between, strict=True))
        if len(self.problem.cells) and math.isfinite(variance):
            N = self.problem.examples
            variance = max(variance - CREDIT * credit * min(1 / N, 1 / max(1, drawn)), 0.4 * variance)
        return (fits, d_fits), Said(
            diffusion=(folds.fitted(d_fits, pilot) + value, variance),
            reconstruction=(r_value, r_variance),
            bins=bins,
            examples=None,
        )

    def between(self, prior: Tensor) -> list[float]:
        """Variances between examples of the diffusion term, of the reconstruction, and of the whole with the prior
        (N,), nats²: of what the fits, corrected by all draws, foretell, and of what they leave of the pilot's."""
        pilot, folds = self.pilot, self.folds
        reconstruction, diffusion = self._fits
        zero, found = torch.zeros_like(prior), []
        for terms, told in (([diffusion], zero), ([reconstruction], zero), ([reconstruction, diffusion], prior)):
            told, left = told.clone(), 0.0
            for k, rows in enumerate(folds.members):
                for fits in terms:
                    told[rows] += fits[k].mean.sum() + pilot.features.times(fits[k].total_weights, rows)
                left += folds.shares[k] * pilot.between_by(
                    reconstruction[k] if reconstruction in terms else None, diffusion[k] if diffusion in terms else None
                )
            found.append(float(told.var()) + left if len(told) > 1 else math.nan)
        return found


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

    def anyone(
        self, counts: list[int], term: int, offset: int, order: Tensor, past: list[Draws]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Examples, draw numbers and weights 1/(N_k q) of `counts` draws of the folds, put into `order`.

        The laps go on where `past` draws of the same term left them; draws are numbered from `offset`.
        """
        who, weight, number = [], [], []
        for k, (rows, q, n) in enumerate(zip(self.members, self.chance, counts, strict=True)):
            had = sum(int((self.fold[d.who] == k).sum()) for d in past)
            own = anyone(self.seed, q, _KEYS * (k + 1) + term, had + torch.arange(n))
            who.append(rows[own])
            weight.append(1 / (len(q) * q[own]))
            number.append(offset + torch.arange(n))
        return torch.cat(who)[order], torch.cat(number)[order], torch.cat(weight)[order]

    def fitted(self, fits: list[Fit], pilot: Pilot) -> float:
        """The folds' fits, each averaged over the examples of its fold."""
        totals = [fit.mean.sum() + self.mean(pilot, k) @ fit.total_weights for k, fit in enumerate(fits)]
        return sum(share * float(total) for share, total in zip(self.shares, totals, strict=True))

    def mean(self, pilot: Pilot, k: int) -> Tensor:
        """Mean features (q,) of the examples of fold k."""
        if not self._means:
            ones = [torch.stack([pilot.features[part].sum(0) for part in rows.split(4096)]) for rows in self.members]
            self._means = [total.sum(0) / len(rows) for total, rows in zip(ones, self.members, strict=True)]
        return self._means[k]


def anyone(seed: int, chance: Tensor, level: int, draws: Tensor) -> Tensor:
    """An example, 0..N−1, for every draw (n,), each by itself with the probabilities `chance` (N,).

    Laps of N draws, each a systematic sample of all examples in keyed random order: example i comes ⌊N q_i⌋ or
    ⌈N q_i⌉ times, so that n ≤ N draws with equal probabilities are of different examples. A lap is then shuffled, which
    makes every part of it a sample of the same kind. Level keys `level` and `level` + 4 are used.
    """
    N = len(chance)
    lap = draws // N
    parts = [draws[:0]]
    for k in torch.unique_consecutive(lap).tolist():
        order = random.permutation(seed, N, level=level, draw=k)
        if bool((chance != chance[0]).any()):
            edges = chance[order].cumsum(0)
            v = random.uniform(seed, 0, level, k, stream=random.Stream.SELECT)
            at = (torch.arange(N, dtype=torch.float64) + v) / N * edges[-1]
            order = order[torch.searchsorted(edges, at, right=True).clamp_max(N - 1)]
            order = order[random.permutation(seed, N, level=level + 4, draw=k)]
        parts.append(order[draws[lap == k] % N])
    return torch.cat(parts)


def _draw_reconstruction(
    problem: Problem, pilot: Pilot, folds: Folds, draws: int, offset: int, past: list[Draws]
) -> Draws:
    order = random.permutation(problem.seed, draws, level=6, draw=offset)
    who, number, weight = folds.anyone(_even(draws, len(folds)), 0, offset, order, past)
    columns = problem.reconstruction_columns(who, number, pilot.surrogate, partial=True)
    return Draws(who, torch.zeros_like(who), columns, weight)


def _draw_diffusion(
    problem: Problem, pilot: Pilot, folds: Folds, density: Density, counts: list[int], offset: int, past: list[Draws]
) -> Draws:
    # in random order, so that an interrupt leaves a sample of the strata and not the first stretch of the chain
    pairs = random.permutation(problem.seed, sum(counts), level=2, draw=offset)
    order = torch.stack([2 * pairs, 2 * pairs + 1], 1).reshape(-1)
    who, number, weight = folds.anyone([2 * n for n in counts], 1, offset, order, past)
    stratum = torch.cat([torch.arange(n).repeat_interleave(2) for n in counts])[order]
    fold = folds.fold[who]
    inside = random.uniform(problem.seed, fold, 0, number, stream=random.Stream.TIME)
    cells, inner = density.place((stratum + inside) / torch.tensor(counts).clamp_min(1)[fold])
    columns = problem.cell_columns(who, cells, inner, cells + 1, number, pilot.surrogate, partial=True)
    return Draws(who, cells, columns, weight / density.p[cells])


def _residuals(fits: list[Fit], pilot: Pilot, fold: Tensor, draws: Draws) -> Tensor:
    """(y − fit − a·n)/(p N q) of every draw by the fit of its example's fold, (n,)."""
    left = torch.empty(len(draws.who), dtype=torch.float64)
    for k, fit in enumerate(fits):
        rows = fold[draws.who] == k
        left[rows] = residual_of(fit, pilot.features, draws.who[rows], draws.cells[rows], draws.columns[rows])
    return left * draws.weight


def _even(count: int, parts: int) -> list[int]:
    """`count` in `parts` that differ by at most one."""
    return [count // parts + (k < count % parts) for k in range(parts)]

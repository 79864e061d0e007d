"""The pooled design: every draw of another random example. Cheapest for a coarse answer about many examples.

The examples are split into folds (`refit.py`), and each fold is estimated by itself: its strata of cells, its own draws
of examples, its own corrected fit. The folds' means are averaged by their numbers of examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nelbo.bound import errorbar, refit
from nelbo.bound.designs import BINS, Density, Stage, bins_of, residual_of
from nelbo.bound.pilot import Fit, Pilot
from nelbo.bound.problem import Problem
from nelbo.bound.refit import Draws
from nelbo.maths import random

_KEYS = 8
"""Level keys of random numbers that a fold has to itself."""


def pooled(
    problem: Problem,
    pilot: Pilot,
    density: Density,
    strata: int,
    reconstructions: int,
    offset: int,
    past: Sequence[Stage] = (),
) -> Stage:
    """2·`strata` diffusion draws and `reconstructions` first-level draws, each of another random example.

    offset: number of the first draw, so that stages never share noise. past: earlier stages of the same estimate,
    whose draws help to correct the fit.
    """
    N, M = problem.examples, len(problem.cells)
    folds = Folds(problem.seed, refit.split(problem.seed, N, pilot.features), pilot.chance)

    drawn = [s.draws[0] for s in past if s.draws]
    first = _draw_reconstruction(problem, pilot, folds, reconstructions, offset, drawn)
    drawn.append(first)
    fits = refit.crossfit(pilot.reconstruction, torch.zeros(1).double(), pilot.features, folds.fold, drawn)
    left = _residuals(fits, pilot.features, folds.fold, first)
    groups = [r[torch.isfinite(r)] for r in (left[folds.fold[first.who] == k] for k in range(len(folds)))]
    value, r_variance = errorbar.of_draws(groups, folds.shares)
    r_value = value + folds.fitted(fits, pilot.features)

    planned = _even(strata if M else 0, len(folds))
    counts = [0] * len(folds) if problem.stopped else planned
    drawn = [s.draws[1] for s in past if s.draws]
    second = _draw_diffusion(problem, pilot, folds, density, counts, offset, drawn)
    drawn.append(second)
    along = (density.cumulative[1:] + density.cumulative[:-1]) / 2
    d_fits = refit.crossfit(pilot.diffusion, along, pilot.features, folds.fold, drawn)
    left = _residuals(d_fits, pilot.features, folds.fold, second)
    groups, bins = [], torch.zeros(BINS, 3, dtype=torch.float64)
    for k, share in enumerate(folds.shares):
        rows = folds.fold[second.who] == k
        pairs = left[rows].reshape(-1, 2)
        done = torch.isfinite(pairs).all(1)
        groups.append(pairs[done])
        cells, features = second.cells[rows].reshape(-1, 2)[done].reshape(-1), pilot.features[folds.members[k]]
        bins += bins_of(problem, cells, pairs[done].reshape(-1), d_fits[k], features.mean(0), share)
    value, variance = errorbar.of_pairs(groups, planned, folds.shares)
    between = [pilot.between_by(r, d, credited=True) for r, d in zip(fits, d_fits, strict=True)]
    return Stage(
        diffusion=(folds.fitted(d_fits, pilot.features) + value, variance),
        reconstruction=(r_value, r_variance),
        bins=bins,
        examples=None,
        weight=float(2 * sum(len(g) for g in groups) + int(torch.isfinite(first.columns).all(1).sum())),
        draws=(first, second),
        between=sum(share * b for share, b in zip(folds.shares, between, strict=True)),
    )


class Folds:
    """The folds of N examples: members, shares of N, and times N_k q_i, from probabilities `chance` (N,)."""

    def __init__(self, seed: int, fold: Tensor, chance: Tensor):
        self.seed, self.fold = seed, fold
        self.members = [(fold == k).nonzero()[:, 0] for k in range(int(fold.max()) + 1)]
        self.shares = [len(rows) / len(fold) for rows in self.members]
        self.chance = [chance[rows] / chance[rows].sum() for rows in self.members]

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

    def fitted(self, fits: list[Fit], features: Tensor) -> float:
        """The folds' fits, each averaged over the examples of its fold."""
        totals = [
            fit.mean.sum() + (features[rows] @ fit.total_weights).mean()
            for fit, rows in zip(fits, self.members, strict=True)
        ]
        return sum(share * float(total) for share, total in zip(self.shares, totals, strict=True))


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


def _residuals(fits: list[Fit], features: Tensor, fold: Tensor, draws: Draws) -> Tensor:
    """(y − fit − a·n)/(p N q) of every draw by the fit of its example's fold, (n,)."""
    left = torch.empty(len(draws.who), dtype=torch.float64)
    for k, fit in enumerate(fits):
        rows = fold[draws.who] == k
        left[rows] = residual_of(fit, features, draws.who[rows], draws.cells[rows], draws.columns[rows])
    return left * draws.weight


def _even(count: int, parts: int) -> list[int]:
    """`count` in `parts` that differ by at most one."""
    return [count // parts + (k < count % parts) for k in range(parts)]

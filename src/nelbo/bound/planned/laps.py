"""Random examples in laps: systematic samples of all examples, one after the other, and what they save.

A lap of N draws with probabilities q takes example i ⌊N q_i⌋ or ⌈N q_i⌉ times. Where values differ between examples,
the mean of such draws varies less than that of independent ones. With r = value/(N q), n_a draws in lap a and n in all,

    saved = B Σ_a n_a² / (N n²),     B = Σ_i min(1, 1/(N q_i)) (E r_i)² (N q_i)² / N     (r centred)

and B is seen in the draws themselves: draws of one example in two laps have independent noise, so that their product
has the mean (E r_i)². Of all folds together these products are one estimate of B; the examples of the pilot, which were
drawn at several places each, are another. They are averaged by their precisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound.planned.crossfit import Observations
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.planned.regression import TermFit
from nelbo.maths.keys import Purpose

LEAST_PAIRS = 10
"""Fewest pairs of draws of one example in two laps that are expected, in all folds, for B to be taken from them."""


AHEAD = 2048
"""Draws of a fold whose examples are made at once."""


class Repeats(NamedTuple):
    """Of a fold: the part of B that laps save of the variance of its mean; the expected number of pairs of draws of one
    example in two laps, the sum of the products of such draws and of their squares, and the square that is expected of
    a product of independent draws. Squares tell the variance of the products, and rather more."""

    part: float
    pairs: float
    products: float
    squares: float
    expected: float


class Folds:
    """The folds of N examples: members, shares of N, and times N_k q_i, from probabilities `chance` (N,)."""

    def __init__(self, seed: int, fold: Tensor, chance: Tensor):
        self.seed, self.fold = seed, fold
        self.members = [(fold == k).nonzero()[:, 0] for k in range(int(fold.max()) + 1)]
        self.shares = [len(rows) / len(fold) for rows in self.members]
        self.chance = [chance[rows] / chance[rows].sum() for rows in self.members]
        self.within = torch.empty_like(fold)
        for rows in self.members:
            self.within[rows] = torch.arange(len(rows))
        self._means: list[Tensor] = []
        self._laps: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.members)

    def draws(
        self, counts: list[int], term: int, offset: int, order: Tensor, past: list[Observations]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Examples, draw numbers, weights 1/(N_k q) and laps of `counts` draws of the folds, put into `order`.

        The laps go on where `past` draws of the same term left them; draws are numbered from `offset`.
        """
        examples, weight, number, laps = [], [], [], []
        for k, (rows, q, n) in enumerate(zip(self.members, self.chance, counts, strict=True)):
            before = sum(int((self.fold[d.examples] == k).sum()) for d in past)
            of_sample = before + torch.arange(n)
            own = self._own(k, term, of_sample)
            examples.append(rows[own])
            weight.append(1 / (len(q) * q[own]))
            number.append(offset + torch.arange(n))
            laps.append(of_sample // len(q))
        return (
            torch.cat(examples)[order],
            torch.cat(number)[order],
            torch.cat(weight)[order],
            torch.cat(laps)[order],
        )

    def _own(self, k: int, term: int, draws: Tensor) -> Tensor:
        """`random_examples` of fold k, from laps that are kept: many small stages share one."""
        q, sample = self.chance[k], 1 + 2 * k + term
        if not len(draws):
            return draws
        first, last = int(draws[0]) // len(q), int(draws[-1]) // len(q)
        start, kept = self._laps.get((k, term), (0, torch.empty(0, len(q), dtype=torch.long)))
        kept, start = kept[first - start :], first
        if last >= start + len(kept):
            new = torch.arange(start + len(kept), max(last + 1, start + len(kept) + AHEAD // len(q)))
            kept = torch.cat([kept, laps_of(self.seed, q, sample, new)])
        self._laps[k, term] = start, kept
        return kept[draws // len(q) - start, draws % len(q)]

    def repeated(self, draws: Sequence[Observations], residuals: Sequence[Tensor]) -> list[Repeats]:
        """`repeats` of every fold, of the residuals that were not left out (NaN) by an interrupt."""
        whole, residual = together(draws), torch.cat(list(residuals))
        fold, made = self.fold[whole.examples], torch.isfinite(residual)
        of_folds = [made & (fold == k) for k in range(len(self))]
        return [self.repeats(k, residual[r], whole.examples[r], whole.laps[r]) for k, r in enumerate(of_folds)]

    def repeats(self, k: int, residual: Tensor, examples: Tensor, laps: Tensor) -> Repeats:
        """Of `residual` (n,), of draws of `examples` (n,) of fold k in `laps` (n,)."""
        N, L = len(self.members[k]), int(laps.max()) + 1 if len(laps) else 1
        counts = torch.bincount(laps, minlength=L).double()
        n, squares = float(counts.sum()), float(counts.square().sum())
        if not n:
            return Repeats(0.0, 0.0, 0.0, 0.0, 0.0)
        place = laps * N + self.within[examples]
        apart, often = residual - residual.mean(), (N * self.chance[k]).clamp_min(1)
        s = torch.zeros(L * N, dtype=torch.float64).index_add(0, place, apart).reshape(L, N)
        products = (s.sum(0).square() - s.square().sum(0)) / 2 / often
        single = float((apart.square() / often[self.within[examples]]).mean())
        return Repeats(
            part=squares / (N * n**2),
            pairs=(n**2 - squares) / 2 / N,
            products=float(products.sum()),
            squares=float(products.square().sum()),
            expected=single**2,
        )

    def fitted(self, fits: list[TermFit], pilot: Pilot) -> float:
        """The folds' fits, each averaged over the examples of its fold."""
        totals = [fit.mean.sum() + self.mean(pilot, k) @ fit.total_weights for k, fit in enumerate(fits)]
        return sum(share * float(total) for share, total in zip(self.shares, totals, strict=True))

    def mean(self, pilot: Pilot, k: int) -> Tensor:
        """Mean features (q + E,) of the examples of fold k."""
        if not self._means:
            sums = [torch.stack([pilot.features[part].sum(0) for part in rows.split(4096)]) for rows in self.members]
            self._means = [total.sum(0) / len(rows) for total, rows in zip(sums, self.members, strict=True)]
        return self._means[k]


def together(draws: Sequence[Observations]) -> Observations:
    """All draws as one."""
    parts = zip(*((d.examples, d.cells, d.columns, d.weight, d.laps) for d in draws), strict=True)
    return Observations(*(torch.cat(part) for part in parts))


def credit(folds: Sequence[Repeats], shares: Sequence[float], foretold: Sequence[tuple[float, float]] = ()) -> float:
    """What laps save of the variance of the folds' average, by a B that is less than the estimate of it by its standard
    error: an error bar should rather be a little long. foretold: further estimates of B, and their variances."""
    estimates, pairs = list(foretold), sum(fold.pairs for fold in folds)
    if pairs >= LEAST_PAIRS:
        # of few products their own scatter may miss what is large and rare
        squares = max(sum(f.squares for f in folds), sum(f.pairs * f.expected for f in folds))
        estimates.append((sum(f.products for f in folds) / pairs, squares / pairs**2))
    precision = sum(1 / max(variance, 1e-300) for _, variance in estimates)
    if not precision:
        return 0.0
    B = sum(value / max(variance, 1e-300) for value, variance in estimates) / precision
    part = sum(share**2 * fold.part for fold, share in zip(folds, shares, strict=True))
    return part * max(0.0, B - 1 / math.sqrt(precision))


def random_examples(seed: int, chance: Tensor, sample: int, draws: Tensor) -> Tensor:
    """An example, 0..N−1, for every draw (n,), each by itself with the probabilities `chance` (N,).

    sample: which of the independent samples of `Purpose.LAP_ORDER`; 0 is that of `checks.precision_shift`.

    Laps of N draws, each a systematic sample of all examples in keyed random order: example i comes ⌊N q_i⌋ or
    ⌈N q_i⌉ times, so that n ≤ N draws with equal probabilities are of different examples. A lap is then shuffled, which
    makes every part of it a sample of the same kind.
    """
    N = len(chance)
    laps, of = torch.unique(draws // N, return_inverse=True)
    return laps_of(seed, chance, sample, laps)[of, draws % N]


def laps_of(seed: int, chance: Tensor, sample: int, laps: Tensor) -> Tensor:
    """The examples of whole `laps` (L,), as of `random_examples`, (L, N)."""
    N = len(chance)
    order = Purpose.LAP_ORDER.permutations(seed, N, sample, laps)
    if bool((chance != chance[0]).any()):
        edges = chance[order].cumsum(1)
        v = Purpose.LAP_START.uniform(seed, 0, sample, laps)[:, None]
        at = (torch.arange(N, dtype=torch.float64) + v) / N * edges[:, -1:]
        order = order.gather(1, torch.searchsorted(edges, at, right=True).clamp_max(N - 1))
        order = order.gather(1, Purpose.LAP_SHUFFLE.permutations(seed, N, sample, laps))
    return order


def even(count: int, parts: int) -> list[int]:
    """`count` in `parts` that differ by at most one."""
    return [count // parts + (k < count % parts) for k in range(parts)]

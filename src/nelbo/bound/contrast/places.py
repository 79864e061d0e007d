"""Where along the chain the draws of a contrast are made: where the differences of conditions vary, by a pilot.

The places are the first level, where its term depends on the condition, and the cells. With the probability p of a
place, a draw's value is y = term/p, and its mean over places and noise is the bound but for what all conditions share.
A draw is a pair of ε and −ε: the difference of two conditions, ½ ΔSNR ⟨x̂_c′ − x̂_c, 2x − x̂_c − x̂_c′⟩ of a step, is
mostly odd in ε, and its even part is what is left (`Alternatives.nats` of both, averaged). Masks and symbols have no
opposite; of a chain over them a draw is one, whose mask all conditions share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.bound.contrast.alternatives import Alternatives
from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.equation import equation
from nelbo.maths.keys import Purpose

PILOT_EXAMPLES, PILOT_STRATA = 12, 16
"""Examples of the pilot, and pairs of draws of each."""
PILOT_NUMBERS = 1 << 20
"""The first number of a pilot's draws."""
_BINS, _SMOOTH = 40, 2
"""Ranges of the chain's coordinate in which the pilot's squares are averaged, and neighbours that are added to each."""
_RIVALS = 3
"""Conditions of each example, next to the best, whose differences to it count."""
EVEN = 0.1
"""Share of the draws that goes to all places alike, whatever the pilot says."""
_FIRST_OF_PILOT = 1 / 16
"""Share of the pilot's draws at the first level."""


@dataclass(frozen=True, eq=False)
class Places:
    """density: over the first level, where `first` is 1, and the cells after it."""

    density: CellDensity
    first: int

    @classmethod
    def even(cls, alternatives: Alternatives) -> Places:
        """For the pilot: even along the chain, with a share for the first level."""
        length = alternatives.chain.cells.stop - alternatives.chain.cells.start
        first = torch.full((int(alternatives.first_differs),), _FIRST_OF_PILOT, dtype=torch.float64)
        along = length.double() / length.sum().clamp_min(1e-300) * (1 - first.sum())
        return cls(CellDensity.of(torch.cat([first, along])), len(first))

    def __len__(self) -> int:
        return len(self.density.p)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Values of n examples, S strata and C conditions, (n, S, C) nats: pairs of draws, divided by the probability of
    their places (n, S); nan of conditions that were not asked for."""

    values: Tensor
    places: Tensor


def draw(
    alternatives: Alternatives, runner: Runner, places: Places, examples: Tensor, left: Tensor, start: int, strata: int
) -> Drawn:
    """`strata` pairs of draws of every one of `examples` (n,), numbered from `start` on, under those conditions that
    are `left` (n, C)."""

    def nats(draws: Draws, of: Tensor) -> Tensor:
        return alternatives.nats(runner, draws, left[of])

    return drawn(alternatives.chain, places, examples, start, strata, left.shape[1], nats)


@equation("contrast-odd")
def drawn(
    chain: Problem,
    places: Places,
    examples: Tensor,
    start: int,
    strata: int,
    columns: int,
    nats: Callable[[Draws, Tensor], Tensor],
    *,
    opposite: bool = True,
) -> Drawn:
    """As `draw`, of any values. nats: of draws (m,) and the places (m,) of their examples in `examples`, (m, columns);
    its gradient is kept. opposite: pairs of ε and −ε, where noise has an opposite."""
    S = strata
    of = torch.arange(len(examples)).repeat_interleave(S)
    numbers = start + torch.arange(S).repeat(len(examples))
    inside = Purpose.CONTRAST_PLACE.uniform(chain.seed, examples[of], 0, numbers)
    u = (torch.arange(S).repeat(len(examples)) + inside) / S
    at, inner = places.density.place(u)
    values = torch.empty(len(of), columns, dtype=torch.float64)
    noise, pairs = Purpose.CONTRAST_NOISE, opposite and chain.signed
    each = 1 + int(pairs)
    for first in (True, False):
        rows = ((at < places.first) == first).nonzero()[:, 0]
        if not len(rows):
            continue
        signs = torch.tensor([1.0, -1.0]).repeat(len(rows)) if pairs else None
        rows = rows.repeat_interleave(each)
        keys = torch.full_like(rows, noise.value.levels[0] if first else noise.value.levels[1])
        where = (None, None) if first else (at[rows] - places.first, inner[rows])
        draws = Draws(examples[of[rows]], keys, noise.draw + numbers[rows], *where, signs=signs)
        means = nats(draws, of[rows]).reshape(-1, each, columns).mean(1)
        values[rows[::each]] = means / places.density.p[at[rows[::each]]][:, None]
    n = len(examples)
    return Drawn(values.reshape(n, S, -1), at.reshape(n, S))


def piloted(alternatives: Alternatives, runner: Runner, together: bool = False) -> Places:
    """The places for the examples of the chain, by a pilot on some of them, which the estimate does not see. together:
    the best condition is that of all examples, not of each.

    p is proportional to the root mean square of the differences between the best condition of an example and its
    rivals, those that are near weighing more: a cell's scale times a function of its coordinate that is averaged over
    neighbours; with a tenth for all places alike.
    """
    even = Places.even(alternatives)
    order, left = pilot_examples(alternatives)
    seen = draw(alternatives, runner, even, order, left, PILOT_NUMBERS, PILOT_STRATA)
    totals = seen.values.mean(1)
    return by_gaps(seen, totals.sum(0, keepdim=True).expand_as(totals) if together else totals, even, alternatives)


def pilot_examples(alternatives: Alternatives) -> tuple[Tensor, Tensor]:
    """The examples (n,) of a pilot, and all conditions for them, (n, C)."""
    order = Purpose.CONTRAST_EXAMPLES.permutation(alternatives.chain.seed, alternatives.chain.examples)
    order = order[:PILOT_EXAMPLES].sort().values
    return order, torch.ones(len(order), len(alternatives), dtype=torch.bool)


def gaps_of(values: Tensor, totals: Tensor, rivals: int) -> tuple[Tensor, Tensor]:
    """Of the conditions with these totals (n, C), values (n, S, C) of the nearest rivals of the best one less those of
    the best, (n, S, R), and by how much the rivals are worse, (n, R)."""
    nearest, order = (part[:, : rivals + 1] for part in totals.sort(1))
    values = values.gather(2, order[:, None].expand(-1, values.shape[1], -1))
    return values[..., 1:] - values[..., :1], nearest[:, 1:] - nearest[:, :1]


def by_gaps(
    seen: Drawn, totals: Tensor, where: Places, alternatives: Alternatives, rivals: int = _RIVALS, even: float = EVEN
) -> Places:
    """Places by the differences that were seen at even ones, `where`; totals (n, C) say which conditions are near."""
    gaps, worse = gaps_of(seen.values, totals, rivals)
    squares = (gaps.square() / (worse[:, None].square() + 1)).sum(2)
    squares = squares * where.density.p[seen.places].square()
    return by_squares(squares, seen.places, where, alternatives.chain, even)


def by_squares(squares: Tensor, seen: Tensor, even: Places, chain: Problem, share: float = EVEN) -> Places:
    """Places by the root mean square of what was seen, squares (n, S) at the places `seen` (n, S); a `share` of the
    draws goes to `even` ones."""
    cells = chain.cells
    scale = torch.cat([torch.ones(even.first, dtype=torch.float64), cells.scale.double()])
    squares = squares / scale[seen].square()
    along = squares[seen >= even.first], seen[seen >= even.first] - even.first
    weights = torch.zeros(len(even), dtype=torch.float64)
    if len(cells):
        weights[even.first :] = cells.scale.double() * _smooth(*along, cells.place.double()).sqrt()
    at_first = squares[seen < even.first]
    if even.first:
        weights[0] = at_first.mean().sqrt() if len(at_first) else weights.sum() * _FIRST_OF_PILOT
    weights = weights.clamp_min(1e-12 * float(weights.max().clamp_min(1e-300)))
    return Places(CellDensity.of(CellDensity.of(weights).p * (1 - share) + even.density.p * share), even.first)


def _smooth(squares: Tensor, cells: Tensor, place: Tensor) -> Tensor:
    """Of every cell, the mean of the squares of draws in ranges of the coordinate around it, (M,)."""
    low, high = float(place.min()), float(place.max())
    bins = ((place - low) / max(high - low, 1e-300) * _BINS).long().clamp(0, _BINS - 1)
    sums, counts = (torch.zeros(_BINS, dtype=torch.float64) for _ in range(2))
    sums.index_add_(0, bins[cells], squares)
    counts.index_add_(0, bins[cells], torch.ones_like(squares))
    window = torch.ones(1, 1, 2 * _SMOOTH + 1, dtype=torch.float64)
    sums, counts = (torch.nn.functional.conv1d(v[None, None], window, padding=_SMOOTH)[0, 0] for v in (sums, counts))
    known = (counts > 0).nonzero()[:, 0]
    if not len(known):
        return torch.ones_like(place)
    means = (sums / counts.clamp_min(1))[known]
    return torch.from_numpy(np.interp(np.arange(_BINS), known.numpy(), means.numpy()))[bins]

"""Grids: the levels z_1 … z_L that a chain visits, or the whole interval between two of them.

Levels run from little noise (the first, where the decoder sits) to much (the last, where the prior sits). A chain
of L levels has L − 1 steps; `steps` = K counts network evaluations of one pass: K = L − 1, plus 1 where the decoder
calls the network. Respacing is another grid on the same schedule, never a stride: the previous level of a level is
the one before it on its own grid.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.parts import Part
from nelbo.process.levels import Levels
from nelbo.process.schedule import MOST, Schedule, Table


class Grid(Part, family="grid"):
    """Which levels of a schedule the chain uses."""

    continuous: bool = False
    limits: ClassVar[dict[str, int]] = {"steps": 1 << 20, "first": 1 << 20}

    @abstractmethod
    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        """The levels (L,), first to last; for the continuous grid its two ends (2,)."""


@numbers
@dataclass(frozen=True, eq=False)
class Full(Grid, kind="full"):
    """Every level of a table, from index `first` on (0 = DDPM's step 1)."""

    first: int = 0

    def __post_init__(self):
        _check_first(self.first)

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        table = _table(schedule, "a full grid")
        _check_index(self.first, table)
        return table.at_index(torch.arange(self.first, len(table.table)))


@numbers
@dataclass(frozen=True, eq=False)
class Even(Grid, kind="even"):
    """K = `steps` network evaluations a pass, evenly spaced in t with both ends kept.

    On a table the spacing is in its index, rounded to the nearest level (from index `first` on); on a law it is in t.
    """

    steps: int
    first: int = 0

    def __post_init__(self):
        if not 1 <= self.steps <= MOST:
            raise UsageError(f"a grid of {self.steps} steps was asked for", f"steps is a whole number, 1 to {MOST:,}")
        _check_first(self.first)

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        count = self.steps + 1 - int(decoder_calls_network)
        if not isinstance(schedule, Table):
            if self.first:
                _table(schedule, f"an even grid from table position {self.first} on")
            if count == 1:
                return schedule.at(torch.ones(1, dtype=torch.float64))
            return schedule.at(torch.arange(count, dtype=torch.float64) / (count - 1))
        _check_index(self.first, schedule)
        last = len(schedule.table) - 1
        available = last - self.first + 1
        if count > available:
            raise UsageError(
                f"{self.steps} steps need {count} levels, but the schedule {schedule.name!r} has {available} "
                f"from index {self.first} on",
                f"ask for at most {available - 1 + int(decoder_calls_network)} steps",
            )
        if count == 1:
            return schedule.at_index(torch.tensor([last]))
        exact = self.first + torch.arange(count, dtype=torch.float64) * (last - self.first) / (count - 1)
        return schedule.at_index(exact.round().long())


@numbers
@dataclass(frozen=True, eq=False)
class Subset(Grid, kind="subset"):
    """Chosen positions of a table, rising, 0..T−1."""

    indices: tuple[int, ...]

    def __post_init__(self):
        indices = self.indices
        if not indices or any(b <= a for a, b in itertools.pairwise(indices)) or indices[0] < 0:
            raise UsageError(f"a grid of the table positions {list(indices)[:8]}", "give rising positions 0..T−1")

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        table = _table(schedule, "a subset grid")
        _check_index(self.indices[-1], table)
        return table.at_index(torch.tensor(self.indices))


@numbers
@dataclass(frozen=True, eq=False)
class Times(Grid, kind="times"):
    """Chosen unit times of a law, rising in [0, 1]."""

    times: tuple[float, ...]

    def __post_init__(self):
        times = self.times
        rising = all(b > a for a, b in itertools.pairwise(times))
        if not times or not rising or not (times[0] >= 0 and times[-1] <= 1):
            raise UsageError(f"a grid of the times {list(times)[:8]}", "give rising unit times in [0, 1]")

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        return schedule.at(torch.tensor(self.times, dtype=torch.float64))


@numbers
@dataclass(frozen=True, eq=False)
class Continuous(Grid, kind="continuous"):
    """The interval between two times of a law: the limit of ever finer grids with the same ends."""

    t_first: float = 0.0
    t_last: float = 1.0
    continuous = True

    def __post_init__(self):
        if not 0 <= self.t_first < self.t_last <= 1:
            raise UsageError(f"a continuous grid from t = {self.t_first} to {self.t_last}", "need 0 ≤ first < last ≤ 1")

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        if isinstance(schedule, Table):
            raise UsageError(
                f"the continuous bound was asked of the schedule {schedule.name!r}, a table of {len(schedule.table)} "
                "levels",
                "use the full or an even grid, or a model whose schedule is schedule.interpolated()",
            )
        return schedule.at(torch.tensor([self.t_first, self.t_last], dtype=torch.float64))


def full(first: int = 0) -> Full:
    """Every level of a tabulated schedule, from index `first` on."""
    return Full(first)


def even(steps: int, first: int = 0) -> Even:
    """`steps` network evaluations a pass, evenly spaced with both ends kept."""
    return Even(steps, first)


def subset(indices) -> Subset:
    """The rising table positions `indices` (0 = DDPM's step 1)."""
    return Subset(tuple(int(i) for i in indices))


def times(values) -> Times:
    """The rising unit times `values` in [0, 1] of a law."""
    return Times(tuple(float(v) for v in values))


def continuous(t_first: float = 0.0, t_last: float = 1.0) -> Continuous:
    """The whole interval [t_first, t_last] of a law."""
    return Continuous(t_first, t_last)


def _table(schedule: Schedule, what: str) -> Table:
    if not isinstance(schedule, Table):
        raise UsageError(
            f"{what} was asked of a {schedule.kind!r} schedule, which is a law and has no table of levels",
            "use nelbo.grids.even(K), times(…) or continuous()",
        )
    return schedule


def _check_first(first: int) -> None:
    if first < 0:
        raise UsageError(f"a grid from first={first} on", "table positions count from 0, which is DDPM's step 1")


def _check_index(index: int, table: Table) -> None:
    if not 0 <= index < len(table.table):
        raise UsageError(
            f"table position {index} was asked of the schedule {table.name!r} with positions 0..{len(table.table) - 1}",
            "position i is DDPM's step i + 1",
        )

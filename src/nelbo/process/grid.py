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
from typing import Any

import torch
from torch import Tensor

from nelbo.errors import UnknownNameError, UsageError
from nelbo.parts import Part
from nelbo.process.levels import Levels
from nelbo.process.schedule import Interpolated, Schedule, Table


class Grid(Part, family="grid"):
    """Which levels of a schedule the chain uses."""

    continuous: bool = False

    @abstractmethod
    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        """The levels (L,), first to last; for the continuous grid its two ends (2,)."""


@dataclass(frozen=True, eq=False)
class Full(Grid, kind="full"):
    """Every level of a table, from index `first` on (0 = DDPM's step 1)."""

    first: int = 0

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        table = _table(schedule, "a full grid")
        _check_index(self.first, table)
        return table.at_index(torch.arange(self.first, len(table.table)))


@dataclass(frozen=True, eq=False)
class Even(Grid, kind="even"):
    """K = `steps` network evaluations a pass, evenly spaced in t with both ends kept.

    On a table the spacing is in its index, rounded to the nearest level (from index `first` on); on a law it is in t.
    """

    steps: int
    first: int = 0

    def __post_init__(self):
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise UsageError(f"a grid of {self.steps!r} steps was asked for", "steps is a whole number ≥ 1")

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


class Spaced(Grid):
    """Abstract: K = `steps` network evaluations a pass between the two ends of a schedule, spaced by a rule.

    On a table each level is the nearest free one (from index `first` on); on a law it is where the rule says.
    """

    steps: int
    first: int

    def __post_init__(self):
        Even(self.steps, self.first)

    @abstractmethod
    def times(self, u: Tensor, law: Schedule) -> Tensor:
        """Unit times of `law` at u ∈ [0, 1], both rising, (L,): the rule."""

    def levels(self, schedule: Schedule, decoder_calls_network: bool) -> Levels:
        evenly = Even(self.steps, self.first).levels(schedule, decoder_calls_network)
        if len(evenly) < 3:
            return evenly
        law = schedule
        if isinstance(schedule, Table):
            law = Interpolated(schedule.table[self.first :], schedule.name, schedule.path_name)
        u = torch.arange(len(evenly), dtype=torch.float64) / (len(evenly) - 1)
        t = self.times(u, law)
        t[0], t[-1] = 0, 1
        if not bool((t.diff() > 0).all()):
            raise UsageError(
                f"the grid {self.kind!r} of {self.steps} steps puts two of them in one place",
                "ask for fewer steps, or use grids.logsnr_uniform(steps)",
            )
        if not isinstance(schedule, Table):
            return schedule.at(t)
        return schedule.at_index(self.first + _distinct(t * (len(schedule.table) - 1 - self.first)))


@dataclass(frozen=True, eq=False)
class Quadratic(Spaced, kind="quadratic"):
    """t = u²: even in √t, finer towards the data (Song, Meng & Ermon 2021, app. D.2)."""

    steps: int
    first: int = 0

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        return u.square()


@dataclass(frozen=True, eq=False)
class Karras(Spaced, kind="karras"):
    """Even in ς^{1/ρ} with ς = σ/α = e^{−λ/2}, on any path (Karras et al. 2022, eq. 5; ρ = 7 there)."""

    steps: int
    rho: float = 7.0
    first: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.rho > 0:
            raise UsageError(f"a Karras grid with ρ = {self.rho}", "give rho > 0, such as 7")

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        a, b = (-law.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / (2 * self.rho)).exp()
        return law.time_of(-2 * self.rho * torch.log(a + (b - a) * u))


@dataclass(frozen=True, eq=False)
class LogSNRUniform(Spaced, kind="logsnr"):
    """Even in log-SNR λ (Lu et al. 2022, §4.3 with λ/2 for their λ)."""

    steps: int
    first: int = 0

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        a, b = law.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return law.time_of(a + (b - a) * u)


@dataclass(frozen=True, eq=False)
class Density(Spaced, kind="density"):
    """Equal shares of a density over λ between two neighbours: `shares` (M,) > 0 between the M + 1 falling `edges`."""

    steps: int
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    first: int = 0

    def __post_init__(self):
        super().__post_init__()
        falls = all(b < a for a, b in itertools.pairwise(self.edges))
        if not falls or len(self.edges) != len(self.shares) + 1 or not all(share > 0 for share in self.shares):
            raise UsageError(
                f"a density of {len(self.shares)} shares between {len(self.edges)} log-SNRs",
                "give M shares > 0 and M + 1 falling log-SNRs",
            )

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        edges, shares = (torch.tensor(v, dtype=torch.float64) for v in (self.edges, self.shares))
        high, low = law.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        total = torch.cat([torch.zeros(1, dtype=torch.float64), shares.cumsum(0)]) / shares.sum()
        # what of the density lies between the ends of the law
        start, stop = (_between(-end, -edges, total) for end in (high.reshape(1), low.reshape(1)))
        wanted = start + (stop - start) * u
        return law.time_of(_between(wanted, total, edges).clamp(float(low), float(high)))


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


def quadratic(steps: int, first: int = 0) -> Quadratic:
    """`steps` network evaluations a pass, evenly spaced in √t."""
    return Quadratic(steps, first)


def karras(steps: int, rho: float = 7.0, first: int = 0) -> Karras:
    """`steps` network evaluations a pass, evenly spaced in (σ/α)^{1/ρ}."""
    return Karras(steps, rho, first)


def logsnr_uniform(steps: int, first: int = 0) -> LogSNRUniform:
    """`steps` network evaluations a pass, evenly spaced in log-SNR."""
    return LogSNRUniform(steps, first)


def of_bound(bound: Any, steps: int, *, even_share: float = 0.1, first: int = 0) -> Density:
    """Where the bound sits: each step takes an equal share of the diffusion term of a `Bound`, by its levels.

    even_share: part of the density spread evenly over λ, so that levels that cost nothing are still visited.
    Errors: UsageError where the bound has no levels or even_share is outside (0, 1].

    >>> import nelbo
    >>> data = nelbo.exact.CategoricalData([[0.7, 0.2, 0.1]] * 4)
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(16))
    >>> grid = of_bound(nelbo.evaluate(model, data.sample(32), estimator="exhaustive"), 8)
    >>> len(grid.levels(model.schedule, True))
    8
    """
    levels = sorted(bound.levels, key=lambda level: -level.logsnr_s)
    if not levels or not 0 < even_share <= 1:
        raise UsageError(
            f"a grid of a bound with {len(levels)} levels and an even share of {even_share}",
            "give a nelbo.Bound and 0 < even_share ≤ 1",
        )
    edges = (levels[0].logsnr_s, *(level.logsnr_t for level in levels))
    costs = [max(level.bits_per_dim, 0.0) for level in levels]
    whole = sum(costs) or 1.0
    shares = tuple(
        (1 - even_share) * cost / whole + even_share * (above - below) / (edges[0] - edges[-1])
        for cost, (above, below) in zip(costs, itertools.pairwise(edges), strict=True)
    )
    return Density(steps, edges, shares, first)


NAMED = {"even": even, "quadratic": quadratic, "karras": karras, "logsnr": logsnr_uniform}
"""Grids of K steps by the names of `nelbo sample --grid`."""


def named(name: str, steps: int, first: int = 0) -> Grid:
    """The grid of `steps` evaluations called `name`. Errors: UnknownNameError listing the names."""
    if name not in NAMED:
        raise UnknownNameError.of("grid", name, NAMED)
    return NAMED[name](steps, first=first)


def _distinct(position: Tensor) -> Tensor:
    """Rising positions as rising whole numbers with the same ends, each as near as the others leave room."""
    whole = position.round().long()
    count = torch.arange(len(whole))
    above = torch.cummax(whole - count, 0).values + count
    return torch.minimum(above, above[-1].clamp(max=whole[-1]) - count.flip(0))


def _between(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through (xs, ys), xs rising, at x; at its ends constant."""
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    part = ((x - xs[right - 1]) / (xs[right] - xs[right - 1])).clamp(0, 1)
    return ys[right - 1] + part * (ys[right] - ys[right - 1])


def _table(schedule: Schedule, what: str) -> Table:
    if not isinstance(schedule, Table):
        raise UsageError(
            f"{what} was asked of a {schedule.kind!r} schedule, which is a law and has no table of levels",
            "use nelbo.grids.even(K), times(…) or continuous()",
        )
    return schedule


def _check_index(index: int, table: Table) -> None:
    if not 0 <= index < len(table.table):
        raise UsageError(
            f"table position {index} was asked of the schedule {table.name!r} with positions 0..{len(table.table) - 1}",
            "position i is DDPM's step i + 1",
        )

"""Grids that samplers use: K steps between the two ends of a schedule, spaced by a rule.

    quadratic   even in √t                                      Song, Meng & Ermon 2021
    karras      even in (σ/α)^{1/ρ}                             Karras et al. 2022
    logsnr      even in λ                                       Lu et al. 2022
    density     equal shares of a density over λ, such as where a bound sits

Any of them is a grid like the others, and a bound can be taken on it.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UnknownNameError, UsageError
from nelbo.process.grid import Even, Grid, even
from nelbo.process.levels import Levels
from nelbo.process.schedule import Interpolated, Schedule, Table


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


@numbers
@dataclass(frozen=True, eq=False)
class Quadratic(Spaced, kind="quadratic"):
    """t = u²: even in √t, finer towards the data (Song, Meng & Ermon 2021, app. D.2)."""

    steps: int
    first: int = 0

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        return u.square()


@numbers
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


@numbers
@dataclass(frozen=True, eq=False)
class LogSNRUniform(Spaced, kind="logsnr"):
    """Even in log-SNR λ (Lu et al. 2022, §4.3 with λ/2 for their λ)."""

    steps: int
    first: int = 0

    def times(self, u: Tensor, law: Schedule) -> Tensor:
        a, b = law.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return law.time_of(a + (b - a) * u)


@numbers
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


def quadratic(steps: int, first: int = 0) -> Quadratic:
    """`steps` network evaluations a pass, evenly spaced in √t."""
    return Quadratic(steps, first)


def karras(steps: int, rho: float = 7.0, first: int = 0) -> Karras:
    """`steps` network evaluations a pass, evenly spaced in (σ/α)^{1/ρ}."""
    return Karras(steps, rho, first)


def logsnr_uniform(steps: int, first: int = 0) -> LogSNRUniform:
    """`steps` network evaluations a pass, evenly spaced in log-SNR."""
    return LogSNRUniform(steps, first)


@numbers
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
    if name not in [*NAMED]:
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

"""The levels of a chain over symbols that a grid means: counts of hidden places, or levels of a law or table."""

from __future__ import annotations

import torch

from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.process.grid import Continuous, Even, Full, Grid, Subset
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Kernel, Steps
from nelbo.process.tokens.levels import TokenLevels
from nelbo.process.tokens.survival import AlphaTable, Survival


@equation("token-steps-of-many")
def counts_of(grid: Grid, n: int) -> list[int]:
    """Counts l_1 < … < l_K = n of hidden places. Errors: UsageError where the grid has none for n places."""
    if isinstance(grid, Full) and not grid.first:
        return list(range(1, n + 1))
    if isinstance(grid, Even) and not grid.first:
        if grid.steps > n:
            raise UsageError(f"{grid.steps} steps for {n} places", f"ask for at most {n}: each step reveals a place")
        return counts.even(n, grid.steps)
    if isinstance(grid, Subset):
        chosen = [i + 1 for i in grid.indices]
        if chosen[-1] != n:
            raise UsageError(
                f"counts up to {chosen[-1]} of {n} places", f"the last position is {n - 1}, where all are hidden"
            )
        return chosen
    raise UsageError(
        f"a grid {grid.kind!r} for a network that is not told the time",
        "its chain runs over counts of hidden places: use nelbo.grids.full(), even(K) or subset(positions)",
    )


def levels_of(grid: Grid, kernel: Kernel, schedule: Survival | None) -> tuple[TokenLevels, Kernel]:
    """The levels z_1 … z_K of a grid, of a continuous one its two ends, and the kernel whose steps lead from each to
    the next. Errors: UsageError."""
    if isinstance(kernel, Steps):
        return _of_table(grid, kernel)
    assert schedule is not None  # checked by the model
    if isinstance(grid, Continuous):
        if isinstance(schedule, AlphaTable):
            raise UsageError("the continuous bound of a table of survivals", "use nelbo.grids.full() or even(K)")
        levels = schedule.at(torch.tensor([grid.t_first, grid.t_last], dtype=torch.float64))
        if not kernel.absorbing and float(levels.noise[0]) == 0:
            raise UsageError(
                f"a continuous chain of the kernel {kernel.kind!r} that begins without any noise",
                "begin where there is some: nelbo.grids.continuous(t_first=1e-3), say; nothing is dropped, the first "
                "level is decoded",
            )
        return levels, kernel
    T = len(schedule.alphas) if isinstance(schedule, AlphaTable) else None
    return schedule.at(_positions(grid, T).double()), kernel


def _of_table(grid: Grid, kernel: Steps) -> tuple[TokenLevels, Kernel]:
    T = len(kernel.matrices)
    if isinstance(grid, Continuous):
        kernel.rates(torch.zeros(1, 1, dtype=torch.long), 2)  # says why not
    t = _positions(grid, T)
    index = (t * T).round().long()
    unknown = torch.full_like(t, float("nan"))
    levels = TokenLevels(t, unknown, unknown, torch.arange(1, len(t) + 1))
    return levels, kernel if len(t) == T else kernel.respaced(index.tolist())


def _positions(grid: Grid, T: int | None) -> torch.Tensor:
    """Unit times of the levels 1 … K, of a law where T is None."""
    if isinstance(grid, Even) and not grid.first and (T is None or grid.steps <= T):
        k = torch.arange(1, grid.steps + 1, dtype=torch.float64) / grid.steps
        return k if T is None else (k * T).round() / T
    if T is not None and isinstance(grid, Full) and not grid.first:
        return torch.arange(1, T + 1, dtype=torch.float64) / T
    if T is not None and isinstance(grid, Subset) and grid.indices[-1] < T:
        return (torch.tensor(grid.indices, dtype=torch.float64) + 1) / T
    what = "a law, which has no table" if T is None else f"a table of {T} levels"
    raise UsageError(
        f"a grid {grid.kind!r} of {what}",
        "use nelbo.grids.even(K) or continuous()" if T is None else f"use nelbo.grids.full() or even(K), K ≤ {T}",
    )

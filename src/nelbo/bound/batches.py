"""Draws in batches: shared among workers, recalled from the state of an interrupted run, counted as they are done.

Between two exchanges of values, and two writes of the state, lies a round of batches that takes about `SECONDS`: so
often does Ctrl-C reach every worker, and no more than that is computed twice after a kill. The length of a round
follows the clock, and no value depends on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from nelbo.process.levels import Levels
from nelbo.typing import Condition

if TYPE_CHECKING:
    from nelbo.bound.problem import Problem

SECONDS = 1.0
COLUMNS = 3
_LONGEST = 1024
"""Batches of the longest round."""


class Work(Protocol):
    """Rows to be computed: how many, how many numbers each, and the evaluations of one (0: counted elsewhere)."""

    @property
    def columns(self) -> int: ...
    @property
    def cost(self) -> int: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Draws:
    """n draws of one term: examples, level keys and draw numbers (n,), and what belongs to some rows of them: `levels`
    says where, `term` (rows, data, x, z, levels, condition) → values in nats. cost: evaluations of one draw."""

    examples: Tensor
    keys: Tensor
    draws: Tensor
    levels: Callable[[Tensor], Levels]
    term: Callable[[Tensor, Tensor, Tensor, Tensor, Levels, Condition], Tensor]
    cost: int
    what: str
    columns: int = COLUMNS

    def __len__(self) -> int:
        return len(self.examples)


def computed(problem: Problem, draws: Work, batch: Callable[[Tensor], Tensor], partial: bool) -> Tensor:
    """`batch` of all rows, (n, columns), on the CPU and on every worker.

    With `partial`, an interrupt leaves the rows not computed as NaN and sets `problem.stopped`; else it goes through.
    """
    call, problem.calls = problem.calls, problem.calls + 1
    n, workers = len(draws), problem.workers
    W = workers.size
    out = torch.full((n, draws.columns), float("nan"), dtype=torch.float64)
    known = _recalled(problem, call, out)
    _count(problem, draws.cost * int(known.sum()))
    size = problem.batch_size if W == 1 else _even(n, problem.batch_size, W)
    chunks = [rows for rows in torch.arange(n).split(size) if not bool(known[rows].all())]
    start = 0
    try:
        while start < len(chunks):
            shared = chunks[start : start + problem.round * W]
            start += len(shared)
            began, values = time.monotonic(), []
            for rows in shared[workers.rank :: W]:
                values.append(_fitting(problem, rows, batch))
                if W == 1:
                    out[rows] = values[-1]
                    _count(problem, draws.cost * len(rows))
            took = time.monotonic() - began
            if W > 1:
                took = _exchange(problem, shared, values, took, out)
                _count(problem, draws.cost * sum(len(rows) for rows in shared))
            if problem.store is not None and workers.rank == 0:
                first, last = int(shared[0][0]), int(shared[-1][-1]) + 1
                problem.store.keep(call, first, out[first:last])
            if workers.stopping:
                raise KeyboardInterrupt
            if len(shared) == problem.round * W:
                wanted = problem.round * SECONDS / max(took, 1e-9)
                problem.round = max(1, min(int(wanted), 2 * problem.round, _LONGEST))
    except KeyboardInterrupt:
        if not partial:
            raise
        problem.stopped = True
    return out


def _even(n: int, largest: int, workers: int) -> int:
    """Rows a batch, at most `largest`, such that every one of several workers gets as many batches."""
    batches = workers * math.ceil(n / (largest * workers))
    return max(1, math.ceil(n / max(1, batches)))


def _exchange(problem: Problem, shared: list[Tensor], values: list[Tensor], took: float, out: Tensor) -> float:
    """Fill `out` with every worker's values of a round; the longest time that one of them took, the same for all."""
    clock = torch.full((1, out.shape[1]), took, dtype=torch.float64)
    W = problem.workers.size
    for rank, theirs in enumerate(problem.workers.gather(torch.cat([clock, *values]))):
        took = max(took, float(theirs[0, 0]))
        mine = shared[rank::W]
        if mine:
            out[torch.cat(mine)] = theirs[1:]
    return took


def _fitting(problem: Problem, rows: Tensor, batch: Callable[[Tensor], Tensor]) -> Tensor:
    """`batch` of rows, in halves where the whole does not fit into this worker's memory."""
    if len(rows) > problem.fits:
        return torch.cat([_fitting(problem, part, batch) for part in rows.split(problem.fits)])
    try:
        return batch(rows)
    except (MemoryError, RuntimeError) as error:
        if len(rows) == 1 or not (isinstance(error, MemoryError) or "memory" in str(error)):
            raise
        problem.fits = len(rows) // 2
    return _fitting(problem, rows, batch)  # not inside `except`, where the error still holds what did not fit


def _recalled(problem: Problem, call: int, out: Tensor) -> Tensor:
    """Fill `out` with what the state knows of a call, on every worker; the mask (n,) of those rows."""
    known = torch.zeros(len(out), dtype=torch.bool)
    if not problem.resumable:
        return known
    if problem.store is not None:
        known = problem.store.recall(call, out)
    if problem.workers.size > 1:
        mine = torch.cat([known[:, None].double(), out], 1)
        rows = problem.workers.gather(mine if problem.store is not None else mine[:0])[0]
        known = rows[:, 0] > 0
        out[known] = rows[known, 1:]
    return known


def _count(problem: Problem, evaluations: int) -> None:
    problem.nfe += evaluations
    if evaluations:
        problem.advance(evaluations)

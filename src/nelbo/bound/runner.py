"""The runner computes draws: in batches, shared among workers, recalled from a state file, counted as they are done.

Between two exchanges of values, and two writes of the state, lies a round of batches that takes about `SECONDS`: so
often does Ctrl-C reach every worker, and no more than that is computed twice after a kill. The length of a round
follows the clock, and no value depends on it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nelbo.bound.problem import Draws, Problem
from nelbo.bound.state import StateFile
from nelbo.errors import UsageError
from nelbo.progress import tell
from nelbo.typing import Json
from nelbo.workers import Run

SECONDS = 1.0
ANNOUNCED = 10.0
"""Seconds from which a planned estimate is announced: a shorter one is done before the line is read."""
_LONGEST = 1024
"""Batches of the longest round."""


class Runner:
    """How the draws of an estimate are computed, and what was spent on them.

    nfe: network evaluations so far. planned: those that the whole estimate will take, as far as is known; 0 where it is
    not. stopped: whether the user interrupted it, so that some draws are missing.
    """

    def __init__(self, run: Run, dimensions: int, watch: Callable[[float, float], None] | None = None):
        if run.batch_size is not None and run.batch_size < 1:
            raise UsageError(f"a batch of {run.batch_size} examples was asked for", "batch_size is a whole number ≥ 1")
        self.workers = run.workers
        self.batch_size = run.batch_size or _default_batch(dimensions)
        self.nfe = 0
        self.planned = 0
        self.stopped = False
        self._progress, self._watch, self._message = run.progress, watch, run.message
        self._computed, self._seconds = 0, 0.0  # evaluations that were not recalled, and the time they took
        self._path, self._state = run.state, None
        self._calls = 0
        self._fits = self.batch_size  # examples that fit into this worker's memory; the batches that all plan stay
        self._round = 1  # batches a worker computes between two exchanges of values

    def open_state(self, identity: Json) -> None:
        """Keep values in the run's state file, and recall those it holds; only the worker of rank 0 has it.

        Errors: UsageError where the file is the state of something else.
        """
        if self._path is not None and self.workers.rank == 0:
            self._state = StateFile(self._path, identity)

    def close(self) -> None:
        """Close the state file, which stays."""
        if self._state is not None:
            self._state.close()

    def columns(self, problem: Problem, draws: Draws, controls: object = None, *, partial: bool = False) -> Tensor:
        """The term of every draw and its C control columns, (n, 1 + C), all in nats; see `rows` for partial."""
        cost = problem.first_cost if draws.cells is None else problem.cell_cost
        compute = functools.partial(problem.columns, draws, controls)
        C, observed = problem.control_columns, problem.observed(draws)
        columns = self.rows(len(draws), 1 + C + observed, cost, compute, partial=partial)
        columns, values = columns[:, : 1 + C], columns[:, 1 + C :]
        if draws.cells is not None:
            columns[:, 1:] *= problem.cells.scale[draws.cells][:, None]
        if observed:
            problem.observe(draws, values, columns)
        return columns

    def nats(self, problem: Problem, draws: Draws) -> Tensor:
        """The term of every draw, (n,) nats."""
        return self.columns(problem, draws)[:, 0]

    def rows(
        self, n: int, columns: int, cost: int, compute: Callable[[Tensor], Tensor], *, partial: bool = False
    ) -> Tensor:
        """`compute` of the rows 0..n−1, (n, columns) on the CPU, the same on every worker.

        compute (b,) → (b, columns): the rows of a batch, whose values must not depend on the batch. cost: evaluations a
        row; 0 where they are counted otherwise. With `partial`, an interrupt leaves the rows that were not computed as
        NaN and sets `stopped`; else it is raised.
        """
        call, self._calls = self._calls, self._calls + 1
        workers, W = self.workers, self.workers.size
        out = torch.full((n, columns), float("nan"), dtype=torch.float64)
        known = self._recalled(call, out)
        self.count(cost * int(known.sum()))
        size = self.batch_size if W == 1 else _even(n, self.batch_size, W)
        batches = [rows for rows in torch.arange(n).split(size) if not bool(known[rows].all())]
        start = 0
        try:
            while start < len(batches):
                shared = batches[start : start + self._round * W]
                start += len(shared)
                began, values = time.monotonic(), []
                for batch in shared[workers.rank :: W]:
                    parts, rest = [], batch
                    while len(rest):
                        rows, rest = rest[: self._fits], rest[self._fits :]
                        try:
                            parts.append(compute(rows))
                        except (MemoryError, RuntimeError) as error:
                            if len(rows) == 1 or not (isinstance(error, MemoryError) or "memory" in str(error)):
                                raise
                            self._fits, rest = len(rows) // 2, torch.cat([rows, rest])
                    values.append(torch.cat(parts))
                    if W == 1:
                        out[batch] = values[-1]
                        self.count(cost * len(batch))
                took = time.monotonic() - began
                if W > 1:
                    took = self._exchange(shared, values, took, out)
                    self.count(cost * sum(len(batch) for batch in shared))
                if cost:
                    self._computed += cost * sum(len(batch) for batch in shared)
                    self._seconds += took
                if self._state is not None:
                    first, last = int(shared[0][0]), int(shared[-1][-1]) + 1
                    self._state.keep(call, first, out[first:last])
                if workers.stopping:
                    raise KeyboardInterrupt
                if len(shared) == self._round * W:
                    wanted = self._round * SECONDS / max(took, 1e-9)
                    self._round = max(1, min(int(wanted), 2 * self._round, _LONGEST))
        except KeyboardInterrupt:
            if not partial:
                raise
            self.stop()
        return out

    def count(self, evaluations: int) -> None:
        """Add to the evaluations done, and tell of the progress."""
        self.nfe += evaluations
        if evaluations and self._progress is not None:
            self._progress(self.nfe, max(self.planned, self.nfe) if self.planned else 0)

    def plan(self, evaluations: int) -> None:
        """Set the evaluations that the whole will take."""
        self.planned = evaluations

    def seconds_for(self, evaluations: float) -> float:
        """The time that so many evaluations take at the speed so far, in seconds; nan where none was computed."""
        return evaluations * self._seconds / self._computed if self._computed else math.nan

    def announce(self, evaluations: int, cost: str) -> None:
        """Tell the user, once, that the whole is planned to take so many evaluations; `cost` says it in words."""
        self.plan(evaluations)
        if self._progress is not None:
            self._progress(self.nfe, max(evaluations, self.nfe))
        if self._message is not None and self.seconds_for(evaluations - self.nfe) >= ANNOUNCED:
            self._message(f"planned: {cost}")

    def report(self, nats: float, standard_error: float) -> None:
        """Tell those who watch what is known of the result so far."""
        if self._watch is not None:
            self._watch(nats, standard_error)

    def tell(self, text: str) -> None:
        """Tell what is known of a result that is no single bound, for the display of progress."""
        tell(self._progress, text)

    def stop(self) -> None:
        """The user interrupted: no more draws are made."""
        self.stopped = True

    def _exchange(self, shared: list[Tensor], values: list[Tensor], took: float, out: Tensor) -> float:
        """Fill `out` with every worker's values of a round; the longest time that one of them took, the same for
        all."""
        clock = torch.full((1, out.shape[1]), took, dtype=torch.float64)
        W = self.workers.size
        for rank, theirs in enumerate(self.workers.gather(torch.cat([clock, *values]))):
            took = max(took, float(theirs[0, 0]))
            mine = shared[rank::W]
            if mine:
                out[torch.cat(mine)] = theirs[1:]
        return took

    def _recalled(self, call: int, out: Tensor) -> Tensor:
        """Fill `out` with what the state knows of a call, on every worker; the mask (n,) of those rows."""
        known = torch.zeros(len(out), dtype=torch.bool)
        if self._path is None:
            return known
        if self._state is not None:
            known = self._state.recall(call, out)
        if self.workers.size > 1:
            mine = torch.cat([known[:, None].double(), out], 1)
            rows = self.workers.gather(mine if self._state is not None else mine[:0])[0]
            known = rows[:, 0] > 0
            out[known] = rows[known, 1:]
        return known


class Again:
    """A runner's answers once more, of other terms at the same draws: `columns`, in the order of the calls. stopped:
    whether an interrupt left draws of the last ones out."""

    def __init__(self, columns: Sequence[Tensor], stopped: bool):
        self._columns, self._stopped = list(columns), stopped

    @property
    def stopped(self) -> bool:
        """Whether it has come to the interrupt."""
        return self._stopped and not self.left

    @property
    def left(self) -> int:
        """Calls that are not answered yet."""
        return len(self._columns)

    def columns(self, *_: object, **__: object) -> Tensor:
        """The columns of the next call."""
        return self._columns.pop(0)

    def nats(self, *_: object) -> Tensor:
        """The term alone."""
        return self._columns.pop(0)[:, 0]


def _even(n: int, largest: int, workers: int) -> int:
    """Rows a batch, at most `largest`, such that every one of several workers gets as many batches."""
    batches = workers * math.ceil(n / (largest * workers))
    return max(1, math.ceil(n / max(1, batches)))


def _default_batch(dimensions: int) -> int:
    """Examples a batch: large for small inputs, so that the network and not its launch is what is paid for."""
    return max(16, min(1024, 65536 // dimensions * 4))

"""The problem an estimator solves: N examples, the levels of a chain, and network evaluations to be spent.

`Problem` computes single terms at keyed noise, in batches, and counts every evaluation. Which (example, position,
draw) are computed, and how they are weighted, is the estimator's business. The noise of a term depends on
(seed, example, level key, draw) alone, so batch size, order and number of workers change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.cells import Cells
from nelbo.bound.store import Store
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.bound.workers import Alone, Workers
from nelbo.errors import NumericalError
from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels

Condition = dict[str, Tensor]
Term = Callable[[Tensor, Tensor, Tensor, Tensor, Condition], Tensor]
"""(rows, x, target, eps, condition) of one batch → its values, (b,) or (b, columns)."""

ROUND = 32
"""Batches a worker computes between two exchanges of values and two writes of the state."""


@dataclass(eq=False)
class Problem:
    """A model on its grid and checked data (N, *shape): codes of any integer type, or real values."""

    model: DiffusionModel
    data: Tensor
    condition: Condition
    seed: int
    batch_size: int
    device: torch.device
    advance: Callable[[int], None] = lambda evaluations: None
    watch: Callable[[float, float], None] = lambda nats, standard_error: None
    workers: Workers = field(default_factory=Alone)
    resumable: bool = False
    release: Callable[[], None] = lambda: None
    """Gives back the memory of examples that were read from a mapped file."""
    store: Store | None = None
    """Of the worker of rank 0, where the evaluation is resumable."""
    nfe: int = 0
    calls: int = 0
    planned: int = 0
    """Network evaluations that the whole estimate will take, as far as is known; 0 where it is not."""
    stopped: bool = False

    def __post_init__(self):
        self.levels: Levels = self.model.levels().to(device=self.device)
        self.continuous: bool = self.model.grid.continuous
        self.cells: Cells = Cells.of(self.model)
        self._fits: int = self.batch_size
        """Examples that fit into this worker's memory at once; the batches that all workers plan stay as they are."""

    @property
    def examples(self) -> int:
        """N."""
        return len(self.data)

    @property
    def transitions(self) -> int | None:
        """L − 1, the number of KL terms between levels; None where the grid is continuous."""
        return None if self.continuous else len(self.levels) - 1

    @property
    def decoder_cost(self) -> int:
        """Network evaluations of one draw of the reconstruction term: 0 or 1."""
        return int(self.model.decoder.calls_network)

    def values(self, rows: Tensor) -> Tensor:
        """x of the examples `rows` (n,), float64, (n, *shape), on the device."""
        return self._batch(rows)[0]

    def prior(self) -> Tensor:
        """KL(q(z_L | x) ‖ p(z_L)) of every example, (N,) float64 on the CPU; exact, no evaluation."""
        nats = torch.empty(self.examples, dtype=torch.float64)
        for rows in torch.arange(self.examples).split(1024):
            nats[rows] = terms.prior(self.model, self.values(rows), self.levels[-1:]).cpu()
        return nats

    def reconstruction(self, examples: Tensor, draws: Tensor) -> Tensor:
        """−log p(x | z_1) of `examples` (n,) at the noise of `draws` (n,); (n,) nats. Level key 0."""
        return self.reconstruction_columns(examples, draws, None)[:, 0]

    def reconstruction_columns(
        self, examples: Tensor, draws: Tensor, surrogate: GaussianSurrogate | None, partial: bool = False
    ) -> Tensor:
        """(n, 3): the reconstruction term, and two draws of mean zero: the surrogate's excess and ‖ε‖² − D."""

        def one(rows: Tensor, x: Tensor, target: Tensor, eps: Tensor, condition: Condition) -> Tensor:
            first = self.levels[:1].expand(len(x))
            y = terms.reconstruction(self.model, x, target, eps, first, condition)
            return _columns(y, x, eps, first.logsnr, surrogate)

        keys = torch.zeros_like(examples)
        return self._batched(one, examples, keys, draws, self.decoder_cost, "the reconstruction term", 3, partial)

    def diffusion(self, examples: Tensor, positions: Tensor, draws: Tensor) -> Tensor:
        """KL between levels j − 1 and j for `positions` j (n,), 1..L−1; (n,) nats. Level key j."""
        return self.cell_columns(examples, positions - 1, torch.zeros(len(examples)), positions, draws, None)[:, 0]

    def cell_columns(
        self,
        examples: Tensor,
        cells: Tensor,
        inner: Tensor,
        keys: Tensor,
        draws: Tensor,
        surrogate: GaussianSurrogate | None,
        partial: bool = False,
    ) -> Tensor:
        """(n, 3): the terms of diffusion `cells` (n,), 0..M−1, and two draws of mean zero as for the reconstruction.

        inner (n,) places a draw in its slice where the grid is continuous. The last two columns are multiplied by the
        cell's scale, so that they are in nats.
        """
        logsnr = self.cells.at(cells, inner.double())
        scale = self.cells.scale[cells]

        def one(rows: Tensor, x: Tensor, target: Tensor, eps: Tensor, condition: Condition) -> Tensor:
            c = scale[rows].to(self.device)
            if self.continuous:
                at = self.model.schedule.at(self.model.schedule.time_of(logsnr[rows].to(self.device)))
                y = terms.diffusion_rate(self.model, x, eps, at, -2 * c, condition)
            else:
                j = cells[rows].to(self.device) + 1
                at = self.levels[j]
                y = terms.diffusion(self.model, x, eps, self.levels[j - 1], at, condition)
            columns = _columns(y, x, eps, at.logsnr, surrogate)
            columns[:, 1:] *= c[:, None]
            return columns

        return self._batched(one, examples, keys, draws, 1, "the diffusion term", 3, partial)

    def diffusion_total(self, examples: Tensor, u: Tensor, keys: Tensor, draws: Tensor) -> Tensor:
        """A value whose mean over u ~ U(0, 1) is the whole diffusion term of its example; (n,) nats.

        M × the term of the cell that u falls in. Noise is keyed by `keys`, the caller's level keys (≥ 1).
        """
        M = len(self.cells)
        cells = (u * M).floor().long().clamp(max=M - 1)
        return M * self.cell_columns(examples, cells, u * M - cells, keys, draws, None)[:, 0]

    def place(self, u: float) -> tuple[float, float]:
        """(t, λ) at the fraction u ∈ [0, 1] of the cells, counted from the first level; interpolated between levels."""
        if self.continuous:
            edges = torch.cat([self.cells.upper, self.cells.lower[-1:]])
            logsnr = edges[0] + u * (edges[-1] - edges[0])
            return float(self.model.schedule.time_of(logsnr)), float(logsnr)
        levels = self.levels.to(device="cpu")
        position = u * (len(levels) - 1)
        left = min(int(position), len(levels) - 2)
        part = position - left
        return tuple(float(v[left] + part * (v[left + 1] - v[left])) for v in (levels.t, levels.logsnr))  # type: ignore

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        target = self.data[rows].to(self.device)
        self.release()
        if not self.model.domain.discrete:
            x = target.double()
            return x, x
        target = target.long()
        return self.model.domain.values(target), target

    def _batched(
        self,
        term: Term,
        examples: Tensor,
        keys: Tensor,
        draws: Tensor,
        cost: int,
        what: str,
        columns: int,
        partial: bool,
    ) -> Tensor:
        """`term` for every row, (n, columns), on the CPU: shared among workers, recalled from the state where known.

        With `partial`, an interrupt leaves the rows not computed as NaN and sets `stopped`; else it goes through.
        """
        call, self.calls = self.calls, self.calls + 1
        n, B, W = len(examples), self.batch_size, self.workers.size
        out = torch.full((n, columns), float("nan"), dtype=torch.float64)
        known = self._recalled(call, out)
        self._count(cost * int(known.sum()))
        chunks = [r for r in torch.arange(n).split(B) if not bool(known[r].all())]

        def compute(rows: Tensor) -> Tensor:
            if len(rows) > self._fits:
                return torch.cat([compute(part) for part in rows.split(self._fits)])
            try:
                return self._compute(term, rows, examples[rows], keys[rows], draws[rows], what)
            except (MemoryError, RuntimeError) as error:
                if len(rows) == 1 or not (isinstance(error, MemoryError) or "memory" in str(error)):
                    raise
                self._fits = len(rows) // 2
            return compute(rows)  # not inside `except`, where the error still holds what did not fit

        try:
            for start in range(0, len(chunks), ROUND * W):
                shared = chunks[start : start + ROUND * W]
                mine = shared[self.workers.rank :: W]
                values = []
                for rows in mine:
                    values.append(compute(rows))
                    if W == 1:
                        out[rows] = values[-1]
                        self._count(cost * len(rows))
                if W > 1:
                    width = torch.empty(0, columns, dtype=torch.float64)
                    for rank, theirs in enumerate(self.workers.gather(torch.cat(values) if values else width)):
                        rows = torch.cat([width[:, 0].long(), *shared[rank::W]])
                        out[rows] = theirs
                    self._count(cost * sum(len(r) for r in shared))
                if self.store is not None and self.workers.rank == 0:
                    first, last = int(shared[0][0]), int(shared[-1][-1]) + 1
                    self.store.keep(call, first, out[first:last])
                if self.workers.stopping:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not partial:
                raise
            self.stopped = True
        return out

    def _recalled(self, call: int, out: Tensor) -> Tensor:
        """Fill `out` with what the state knows of a call, on every worker; the mask (n,) of those rows."""
        known = torch.zeros(len(out), dtype=torch.bool)
        if not self.resumable:
            return known
        if self.store is not None:
            known = self.store.recall(call, out)
        if self.workers.size > 1:
            mine = torch.cat([known[:, None].double(), out], 1)
            rows = self.workers.gather(mine if self.store is not None else mine[:0])[0]
            known = rows[:, 0] > 0
            out[known] = rows[known, 1:]
        return known

    def _count(self, evaluations: int) -> None:
        self.nfe += evaluations
        if evaluations:
            self.advance(evaluations)

    def _compute(self, term: Term, rows: Tensor, examples: Tensor, keys: Tensor, draws: Tensor, what: str) -> Tensor:
        x, target = self._batch(examples)
        eps = random.normal(self.seed, examples, keys, draws, self.model.domain.shape, device=self.device)
        condition = {k: v[examples].to(self.device) for k, v in self.condition.items()}
        with torch.no_grad():
            value = term(rows, x, target, eps, condition)
        if not bool(torch.isfinite(value).all()):
            bad = int(examples[(~torch.isfinite(value)).any(1).cpu().nonzero()[0, 0]])
            raise NumericalError(
                f"{what} of example {bad} is not finite",
                "the network returned NaN or infinity there, or the example has zero probability under the "
                "model; check its weights, its precision and the declared output (eps, x0, v)",
            )
        return value.cpu()


def _columns(y: Tensor, x: Tensor, eps: Tensor, logsnr: Tensor, surrogate: GaussianSurrogate | None) -> Tensor:
    """(b, 3): y, the surrogate's excess, ‖ε‖² − D; zeros where there is no surrogate."""
    columns = torch.zeros(len(y), 3, dtype=torch.float64, device=y.device)
    columns[:, 0] = y
    if surrogate is not None:
        columns[:, 1] = surrogate.excess(x, eps, logsnr)
        columns[:, 2] = eps.flatten(1).square().sum(1) - eps[0].numel()
    return columns

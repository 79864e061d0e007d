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
from nelbo.bound.batches import Draws, computed
from nelbo.bound.cells import Cells
from nelbo.bound.store import Store
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.errors import NumericalError
from nelbo.maths import random, tiles
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.typing import Condition
from nelbo.workers import Alone, Workers

_AT_ONCE = 16
"""Examples read at once: every row of a mapped file may make a megabyte of it resident."""


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
    dtype: torch.dtype = torch.float32
    """What the surrogate's columns are computed in: float64 where all else is, so that batches change nothing."""
    mapped: bool = False
    """Whether the data lie in a mapped file, of which as little as possible is to be in memory at once."""
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
        self.fits: int = self.batch_size
        """Examples that fit into this worker's memory at once; the batches that all workers plan stay as they are."""
        self.round: int = 1
        """Batches a worker computes between two exchanges of values and two writes of the state: about a second's."""

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
        return self._values(self._rows(rows))

    def _rows(self, rows: Tensor) -> Tensor:
        """The examples `rows` (n,) as the data hold them, on the device; a few at a time."""
        parts = []
        for some in rows.split(_AT_ONCE if self.mapped else max(1, len(rows))):
            parts.append(self.data[some])
            self.release()
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(self.device)

    def _values(self, data: Tensor) -> Tensor:
        return self.model.domain.values(data)

    def prior(self) -> Tensor:
        """KL(q(z_L | x) ‖ p(z_L)) of every example, (N,) float64 on the CPU; exact, no evaluation."""
        nats = torch.empty(self.examples, dtype=torch.float64)
        for rows in torch.arange(self.examples).split(256):
            nats[rows] = terms.prior(self.model, self.values(rows), self.levels[-1:]).cpu()
        return nats

    def reconstruction(self, examples: Tensor, draws: Tensor) -> Tensor:
        """−log p(x | z_1) of `examples` (n,) at the noise of `draws` (n,); (n,) nats. Level key 0."""
        return self.reconstruction_columns(examples, draws, None)[:, 0]

    def reconstruction_columns(
        self, examples: Tensor, draws: Tensor, surrogate: GaussianSurrogate | None, partial: bool = False
    ) -> Tensor:
        """(n, 3): the reconstruction term, and two draws of mean zero: the surrogate's excess and ‖ε‖² − D."""

        def levels(rows: Tensor) -> Levels:
            return self.levels[:1].expand(len(rows))

        def term(rows: Tensor, data: Tensor, x: Tensor, z: Tensor, at: Levels, condition: Condition) -> Tensor:
            target = data.long() if self.model.domain.discrete else x
            return terms.reconstruction_at(self.model, target, z, at, condition)

        what = "the reconstruction term"
        keys = torch.zeros_like(examples)
        return self._columns(Draws(examples, keys, draws, levels, term, self.decoder_cost, what), surrogate, partial)

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

        def levels(rows: Tensor) -> Levels:
            if self.continuous:
                return self.model.schedule.at(self.model.schedule.time_of(logsnr[rows].to(self.device)))
            return self.levels[cells[rows].to(self.device) + 1]

        def term(rows: Tensor, data: Tensor, x: Tensor, z: Tensor, at: Levels, condition: Condition) -> Tensor:
            if self.continuous:
                c = scale[rows].to(self.device)
                return terms.diffusion_rate_at(self.model, x, z, at, -2 * c, condition)
            j = cells[rows].to(self.device) + 1
            return terms.diffusion_at(self.model, x, z, self.levels[j - 1], at, condition)

        columns = self._columns(Draws(examples, keys, draws, levels, term, 1, "the diffusion term"), surrogate, partial)
        columns[:, 1:] *= scale[:, None]
        return columns

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

    def _columns(self, draws: Draws, surrogate: GaussianSurrogate | None, partial: bool) -> Tensor:
        if surrogate is not None:
            surrogate = surrogate.in_precision(self.dtype)
        return computed(self, draws, lambda rows: self._batch(draws, rows, surrogate), partial)

    def _batch(self, all_draws: Draws, rows: Tensor, surrogate: GaussianSurrogate | None) -> Tensor:
        """The rows (b, 3) of one batch of draws: the term, the surrogate's excess and ‖ε‖² − D; CPU, float64.

        Everything before the network is done on a few examples after the other, see `tiles`.
        """
        examples, keys, draws = all_draws.examples[rows], all_draws.keys[rows], all_draws.draws[rows]
        shape, D = self.model.domain.shape, self.model.domain.dimensions
        at = all_draws.levels(rows)
        condition = {k: v[examples].to(self.device) for k, v in self.condition.items()}
        columns = torch.zeros(len(rows), 3, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            eps = random.normal(self.seed, examples, keys, draws, shape, device=self.device)
            x, z = torch.empty_like(eps), torch.empty_like(eps)
            data = self._rows(examples)
            for part in tiles.tiles(len(rows), D, self.device):
                x[part] = self._values(data[part])
                z[part] = forward.noised(x[part], eps[part], at[part])
                if surrogate is not None:
                    who, of, times = torch.unique_consecutive(examples[part], return_inverse=True, return_counts=True)
                    first, of = (times.cumsum(0) - times).to(self.device), of.to(self.device)
                    distinct, of = (x[part][first], of) if len(who) < len(of) else (x[part], None)
                    columns[part, 1] = surrogate.excess(distinct, eps[part], at.logsnr[part], of)
                    columns[part, 2] = tiles.squared_norm(eps[part]) - D
            del eps
            columns[:, 0] = all_draws.term(rows, data, x, z, at, condition)
        if not bool(torch.isfinite(columns).all()):
            bad = int(examples[(~torch.isfinite(columns)).any(1).cpu().nonzero()[0, 0]])
            raise NumericalError(
                f"{all_draws.what} of example {bad} is not finite",
                "the network returned NaN or infinity there, or the example has zero probability under the "
                "model; check its weights, its precision and the declared output (eps, x0, v)",
            )
        return columns.cpu()

"""Times of a batch: the t at which every example is trained, and the factor 1/p(t) that keeps the loss unbiased.

    uniform            t_i independent and uniform
    low_discrepancy    t_i = (u + i/B) mod 1, one uniform u a batch: every batch covers the whole chain
                       (Kingma et al. 2021, app. I.1)
    importance         the same u_i pushed through the inverse distribution function of a density p on K equal cells,
                       p_k ∝ √E[ℓ²] of the losses ℓ so far in cell k, mixed with a uniform share

    planned            the same with a p that is given, on K cells (`nelbo.monitoring.planned_times`)

p is made from earlier steps only, so that E[ℓ/p] is exact at every step, whatever p is (Nichol & Dhariwal 2021, eq. 18,
draws the steps of a table independently; here they stay stratified).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.equation import equation
from nelbo.maths.keys import Purpose
from nelbo.training.batches import BatchPart


class TimeSampling(enum.Enum):
    """How the times of a batch are drawn."""

    UNIFORM = "uniform"
    LOW_DISCREPANCY = "low_discrepancy"
    IMPORTANCE = "importance"
    PLANNED = "planned"


class TimeSampler(nn.Module):
    """Draws times; the statistics of importance sampling are buffers, so that a checkpoint holds them.

    cells: K. uniform_share: the least density, so that no weight 1/p exceeds 1/uniform_share. memory: the weight of the
    statistics of earlier steps, which are thus those of the last 1/(1 − memory) = 200 steps or so. The density of
    planned times is `fixed` (K,), of mean 1.
    """

    def __init__(
        self,
        sampling: TimeSampling = TimeSampling.LOW_DISCREPANCY,
        cells: int = 48,
        uniform_share: float = 0.1,
        memory: float = 0.995,
    ):
        super().__init__()
        self.sampling, self.cells, self.uniform_share, self.memory = sampling, cells, uniform_share, memory
        self.register_buffer("squares", torch.zeros(cells, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(cells, dtype=torch.float64))
        self.squares: Tensor
        self.counts: Tensor
        self.register_buffer("fixed", torch.ones(cells, dtype=torch.float64), persistent=False)
        self.fixed: Tensor
        self.register_buffer("_recent", torch.zeros(2, cells, dtype=torch.float64), persistent=False)
        self._recent: Tensor

    def draw(
        self, seed: int, step: int, part: BatchPart, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unit times t (b,) in [0, 1), float64, and 1/p(t), for this part of the batch of this step."""
        if self.sampling is TimeSampling.UNIFORM:
            unit = Purpose.INDEPENDENT_TIME.uniform(seed, part.positions, step, device=device)
            return unit, torch.ones_like(unit)
        u = Purpose.BATCH_TIME.uniform(seed, 0, step, device=device)
        unit = (u + part.positions.to(u.device) / part.batch_size) % 1
        if self.sampling is TimeSampling.LOW_DISCREPANCY:
            return unit, torch.ones_like(unit)
        return inverse_transform(unit, self.density())

    @equation("importance-sampled-t")
    def density(self) -> Tensor:
        """p on each of the K cells of [0, 1], (K,), mean 1: (1 − share) √E[ℓ²]/mean + share; 1 before the first step.

        E[ℓ²] is an exponentially weighted mean, to which the mean over all cells is added with the weight of a tenth of
        an example: it decides alone where a cell has had none lately.
        """
        if self.sampling is TimeSampling.PLANNED:
            return self.fixed
        overall = self.squares.sum() / self.counts.sum().clamp(min=1)
        if not bool(overall > 0):
            return torch.ones_like(self.squares)
        root = ((self.squares + 0.1 * overall) / (self.counts + 0.1)).sqrt()
        return (1 - self.uniform_share) * root / root.mean() + self.uniform_share

    @torch.no_grad()
    def observe(self, unit: Tensor, losses: Tensor) -> None:
        """Record losses ℓ (b,) at times t (b,), before any weight 1/p; `update` takes them into the density."""
        if self.sampling is TimeSampling.IMPORTANCE:
            cell = (unit * self.cells).long().clamp(0, self.cells - 1)
            self._recent[0].index_add_(0, cell, losses.detach().to(self._recent).square())
            self._recent[1].index_add_(0, cell, torch.ones_like(unit))

    @torch.no_grad()
    def update(self, total: Callable[[Tensor], Tensor] = lambda v: v) -> None:
        """Take the losses recorded since the last update into the density; once a step, after all its parts.

        total: sums a tensor over processes, so that all of them draw from one density.
        """
        if self.sampling is TimeSampling.IMPORTANCE:
            squares, counts = total(self._recent)
            self.squares.mul_(self.memory).add_(squares)
            self.counts.mul_(self.memory).add_(counts)
            self._recent.zero_()


@equation("importance-sampled-t")
def inverse_transform(unit: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform times (B,) mapped by the inverse distribution function of a density p (K,) of mean 1 on K equal cells of
    [0, 1], and the weights 1/p there, so that E[f(t)/p(t)] = ∫ f(t) dt."""
    K = len(density)
    share = (density / density.sum()).to(unit.device)
    upper = share.cumsum(0)
    cell = torch.searchsorted(upper, unit.contiguous(), right=True).clamp(max=K - 1)
    within = ((unit - (upper - share)[cell]) / share[cell]).clamp(0, 1 - 1e-12)  # t stays in its cell
    return (cell + within) / K, 1 / (K * share[cell])

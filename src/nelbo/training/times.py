"""Times of a batch: the t every example is trained at, and the factor 1/p(t) that keeps the loss's mean what it was.

    uniform            t_i independent and uniform
    low_discrepancy    t_i = (u + i/B) mod 1, one uniform u a batch: every batch sweeps the whole chain
                       (Kingma et al. 2021, app. I.1)
    importance         the same u_i pushed through the inverse distribution function of a density p on K equal cells,
                       p_k ∝ √E[ℓ²] of the losses ℓ seen in cell k so far, mixed with a uniform share

p is made of earlier steps alone, so that E[ℓ/p] is exact at every step, whatever p has learned (Nichol & Dhariwal
2021, eq. 18, draws the steps of a table independently; here they stay stratified).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.equation import equation
from nelbo.maths import random
from nelbo.training.batches import Places
from nelbo.typing import Choice


class Sampling(Choice, noun="sampling of times"):
    """How the times of a batch are drawn."""

    UNIFORM = "uniform"
    LOW_DISCREPANCY = "low_discrepancy"
    IMPORTANCE = "importance"


class Times(nn.Module):
    """Draws times; holds what importance sampling has learned as buffers, so that a checkpoint can carry it on."""

    def __init__(
        self,
        sampling: Sampling = Sampling.LOW_DISCREPANCY,
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
        self.register_buffer("_noted", torch.zeros(2, cells, dtype=torch.float64), persistent=False)
        self._noted: Tensor

    def draw(
        self, seed: int, step: int, places: Places, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unit times t (b,) in [0, 1), float64, and 1/p(t), for these places of the batch of this step."""
        if self.sampling is Sampling.UNIFORM:
            unit = random.uniform(seed, places.slots, step, 3, stream=random.Stream.BATCH, device=device)
            return unit, torch.ones_like(unit)
        u = random.uniform(seed, 0, step, 1, stream=random.Stream.BATCH, device=device)
        unit = (u + places.slots.to(u.device) / places.whole) % 1
        if self.sampling is Sampling.LOW_DISCREPANCY:
            return unit, torch.ones_like(unit)
        return warped(unit, self.density())

    @equation("importance-sampled-t")
    def density(self) -> Tensor:
        """p on each of the K cells of [0, 1], (K,), mean 1: (1 − share) √E[ℓ²]/mean + share; 1 before anything is seen.

        E[ℓ²] is a running mean that forgets; a cell not seen lately borrows from the mean of all.
        """
        whole = self.squares.sum() / self.counts.sum().clamp(min=1)
        if not bool(whole > 0):
            return torch.ones_like(self.squares)
        root = ((self.squares + 0.1 * whole) / (self.counts + 0.1)).sqrt()
        return (1 - self.uniform_share) * root / root.mean() + self.uniform_share

    @torch.no_grad()
    def observe(self, unit: Tensor, losses: Tensor) -> None:
        """Note losses ℓ (b,) at times t (b,), before any weight 1/p; they count from the next `learn` on."""
        if self.sampling is Sampling.IMPORTANCE:
            cell = (unit * self.cells).long().clamp(0, self.cells - 1)
            self._noted[0].index_add_(0, cell, losses.detach().to(self._noted).square())
            self._noted[1].index_add_(0, cell, torch.ones_like(unit))

    @torch.no_grad()
    def learn(self, total: Callable[[Tensor], Tensor] = lambda v: v) -> None:
        """Fold what was noted since the last time into the density; once a step, after all its parts.

        total: sums a tensor over processes, so that all of them go on to draw by one density.
        """
        if self.sampling is Sampling.IMPORTANCE:
            squares, counts = total(self._noted)
            self.squares.mul_(self.memory).add_(squares)
            self.counts.mul_(self.memory).add_(counts)
            self._noted.zero_()


@equation("importance-sampled-t")
def warped(unit: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform times (B,) pushed through the inverse distribution function of a density (K,) of mean 1 on K equal cells
    of [0, 1], and the weights 1/p there, so that E[f(t)/p(t)] = ∫ f(t) dt."""
    K = len(density)
    share = (density / density.sum()).to(unit.device)
    upper = share.cumsum(0)
    cell = torch.searchsorted(upper, unit.contiguous(), right=True).clamp(max=K - 1)
    within = ((unit - (upper - share)[cell]) / share[cell]).clamp(0, 1 - 1e-12)
    return (cell + within) / K, 1 / (K * share[cell])

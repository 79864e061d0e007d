"""The diffusion term cut into cells: the KLs of a finite chain, or thin slices of λ of the continuous bound.

Every cell has a scale c such that its term is about c E‖ε − ε̂‖² nats, a smooth function of λ times c: the pilot
interpolates the smooth part. Cells run from little noise to much.

    finite      cell j: KL between levels j and j + 1,   c = ½ expm1(λ_j − λ_{j+1}),   λ = λ_{j+1}
    continuous  cell j: λ in a slice of width Δ,         c = Δ/2,                      λ uniform in the slice

The continuous bound does not depend on the shape of the schedule, so its slices are in λ and not in t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels

SLICES = 256


@dataclass(frozen=True, eq=False)
class Cells:
    """Upper and lower log-SNR of every cell (M,), their scales (M,), and the levels they belong to."""

    upper: Tensor
    lower: Tensor
    scale: Tensor
    levels: Levels
    continuous: bool

    @classmethod
    @equation("snr-discrete-loss", "snr-eps-expm1", "snr-schedule-invariance", "loss-eps-weighted")
    def of(cls, model: DiffusionModel) -> Cells:
        """The cells of the model's grid; none where the chain has one level."""
        levels = model.levels()
        if model.grid.continuous:
            first, last = levels.logsnr
            edges = first + (last - first) * torch.arange(SLICES + 1, dtype=torch.float64) / SLICES
            return cls(edges[:-1], edges[1:], (edges[:-1] - edges[1:]) / 2, levels, True)
        upper, lower = levels.logsnr[:-1], levels.logsnr[1:]
        return cls(upper, lower, 0.5 * torch.expm1(upper - lower), levels, False)

    def __len__(self) -> int:
        return len(self.scale)

    @property
    def logsnr(self) -> Tensor:
        """The λ at which the network is asked: the noisier level of a finite cell, the middle of a slice. (M,)"""
        return (self.upper + self.lower) / 2 if self.continuous else self.lower

    def at(self, cells: Tensor, inner: Tensor) -> Tensor:
        """λ of draws in `cells` (n,) at the fraction `inner` (n,) of a slice; finite cells have one λ."""
        if self.continuous:
            return self.upper[cells] + inner * (self.lower[cells] - self.upper[cells])
        return self.lower[cells]

"""The cells of a Gaussian chain: the KLs of a finite one, or thin slices of λ of the continuous bound.

Cells run from little noise to much, and their coordinate is −λ. The scale c of a cell is such that its term is about
c E‖ε − ε̂‖² nats, a smooth function of λ times c:

    finite      cell j: KL between levels j and j + 1,   c = ½ expm1(λ_j − λ_{j+1}),   λ = λ_{j+1}
    continuous  cell j: λ in a slice of width Δ,         c = Δ/2,                      λ uniform in the slice

The continuous bound does not depend on the shape of the schedule, so its slices are in λ and not in t.
"""

from __future__ import annotations

import torch

from nelbo.bound.problem import Cells
from nelbo.equation import equation
from nelbo.model.diffusion import DiffusionModel

SLICES = 256
"""Cells of the continuous bound: thin enough that a term hardly changes within one; more would cost only memory."""


@equation("snr-discrete-loss", "snr-eps-expm1", "snr-schedule-invariance", "loss-eps-weighted")
def cells_of(model: DiffusionModel) -> Cells:
    """The cells of the model's grid; none where the chain has one level."""
    levels = model.levels()
    if model.grid.continuous:
        first, last = levels.logsnr
        edges = first + (last - first) * torch.arange(SLICES + 1, dtype=torch.float64) / SLICES
        upper, lower = edges[:-1], edges[1:]
        return Cells(-upper, -lower, -(upper + lower) / 2, (upper - lower) / 2, continuous=True)
    upper, lower = levels.logsnr[:-1], levels.logsnr[1:]
    return Cells(-upper, -lower, -lower, 0.5 * torch.expm1(upper - lower))

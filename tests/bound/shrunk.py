"""Linear-Gaussian models with a denoiser made worse on purpose, whose bound is a few lines of numpy.

x̂ = f g z, with g z the exact posterior mean, gives E‖x − x̂‖² = Σ (1 − f g α)² x² + (f g σ)².
"""

from __future__ import annotations

import dataclasses

import torch

import nelbo
from nelbo.model.denoiser import Denoiser
from nelbo.process.prediction import Prediction

D, FACTOR = 12, 0.92
SPECTRUM = torch.logspace(0, -2, D, dtype=torch.float64)
DATA = nelbo.exact.GaussianData(torch.zeros(D), torch.diag(SPECTRUM))
X = DATA.sample(120)


class Shrunk(Denoiser):
    """The exact denoiser of `data` times a factor."""

    def __init__(self, data: nelbo.exact.GaussianData, factor: float):
        super().__init__()
        self.exact, self.factor = data.denoiser(), factor

    def forward(self, z, t, condition=None):
        return Prediction(self.factor * self.exact(z, t).x0)


def model(continuous: bool = False) -> nelbo.DiffusionModel:
    """A model of DATA on a table of 200 betas, or its continuous bound."""
    if continuous:
        schedule, grid = nelbo.schedules.logsnr_linear(5.0, -7.0), nelbo.grids.continuous()
    else:
        schedule, grid = nelbo.schedules.linear(200, 5e-4, 0.1), nelbo.grids.full()
    return dataclasses.replace(DATA.model(schedule, grid, exact_ends=False), denoiser=Shrunk(DATA, FACTOR))

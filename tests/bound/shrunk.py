"""Linear-Gaussian models with a denoiser made worse on purpose, whose bound is a few lines of numpy.

x̂ = f g z, with g z the exact posterior mean, gives E‖x − x̂‖² = Σ (1 − f g α)² x² + (f g σ)².
"""

from __future__ import annotations

import dataclasses

import numpy as np
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


def model(continuous: bool = False, factor: float = FACTOR) -> nelbo.DiffusionModel:
    """A model of DATA on a table of 200 betas, or its continuous bound."""
    if continuous:
        schedule, grid = nelbo.schedules.logsnr_linear(5.0, -7.0), nelbo.grids.continuous()
    else:
        schedule, grid = nelbo.schedules.linear(200, 5e-4, 0.1), nelbo.grids.full()
    return dataclasses.replace(DATA.model(schedule, grid, exact_ends=False), denoiser=Shrunk(DATA, factor))


def half_mse(logsnr: np.ndarray, x: torch.Tensor, spectrum: torch.Tensor, factor: float) -> np.ndarray:
    """½ SNR E‖x − x̂‖² of every example at every level, (N, levels)."""
    snr = np.exp(logsnr)[None, :, None]
    c, x = spectrum.numpy(), x.numpy()[:, None, :]
    gain = factor * snr * c / (1 + snr * c)  # f g α
    return 0.5 * (snr * ((1 - gain) * x) ** 2 + gain**2).sum(-1)


def sum_over_steps(betas: np.ndarray, x: torch.Tensor, spectrum: torch.Tensor, factor: float) -> np.ndarray:
    """Diffusion term of every example in nats, (N,), on a table with the fixed variances β̃."""
    abar = np.cumprod(1 - betas)
    logsnr = np.log(abar / (1 - abar))
    return half_mse(logsnr[1:], x, spectrum, factor) @ np.expm1(logsnr[:-1] - logsnr[1:])


def exact_diffusion(continuous: bool = False, factor: float = FACTOR) -> np.ndarray:
    """Diffusion term of every example of X in nats, (N,)."""
    if continuous:
        nodes, weights = np.polynomial.legendre.leggauss(200)
        return half_mse(-1 + 6 * nodes, X, SPECTRUM, factor) @ weights * 6
    return sum_over_steps(np.linspace(5e-4, 0.1, 200), X, SPECTRUM, factor)


def exact_reconstruction(continuous: bool = False) -> float:
    """Nats of an example: −log N(x; z/α, σ²/α²) at the first level is ½‖ε‖² and a constant."""
    first = float(model(continuous).levels().logsnr[0])
    return 0.5 * D * (1 + np.log(2 * np.pi) - first)

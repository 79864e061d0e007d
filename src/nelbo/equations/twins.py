"""Tractable models twice: as the library's `DiffusionModel`, and as an oracle built from the same plain numbers.

An oracle uses nothing of the library, so a broken formula of the library makes the two disagree. Oracles are cached;
models are built anew at each call, so that a check always runs the library as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nelbo.equations.oracles.grid import GridChain, LineMixture
from nelbo.equations.oracles.linear import LinearChain, QuadraticForm, forward_law
from nelbo.equations.paths import PathDensities
from nelbo.model.decoder import ContinuousGaussian
from nelbo.model.denoiser import Denoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact.gaussian import GaussianData
from nelbo.model.exact.mixture import MixtureData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Reverse, parse_variance
from nelbo.process import grid, schedule

BETAS = (0.1, 0.2, 0.3, 0.35)
"""Four large steps: every formula is away from its limits, and ᾱ_4 = 0.328 leaves the prior term something to do."""

POINTS = (-1.3, 0.2, 1.7)
"""The x_0 at which statements given x_0 are checked."""

MIXTURE = LineMixture((0.3, 0.5, 0.2), (-1.5, 0.2, 1.8), (0.1, 0.2, 0.05))


class AffineNet:
    """A network that predicts x̂ = scale · g_t z + h_t; its time input is the table position."""

    def __init__(self, gains: np.ndarray, offsets: np.ndarray):
        self.gains, self.offsets = torch.from_numpy(np.asarray(gains)), torch.from_numpy(np.asarray(offsets))

    def __call__(self, z: Tensor, index: Tensor) -> Tensor:
        return self.gains[index][:, None] * z + self.offsets[index][:, None]


class GridNet:
    """The oracle's ε̂ as a network of the library."""

    def __init__(self, chain: GridChain):
        self.chain = chain

    def __call__(self, z: Tensor, index: Tensor) -> Tensor:
        return torch.from_numpy(self.chain.noise(z[:, 0].numpy(), index.numpy() + 1))[:, None]


@dataclass(frozen=True, eq=False)
class LinearTwin:
    """A linear-Gaussian chain and the library's model of it."""

    chain: LinearChain
    model: DiffusionModel

    @property
    def paths(self) -> PathDensities:
        """The library's densities along paths."""
        return PathDensities(self.model)

    def read(self, name: str, *args: int) -> QuadraticForm:
        """A method of `PathDensities` as a quadratic form, which it is for this model."""
        method = getattr(self.paths, name)
        return QuadraticForm.read(lambda x: method(x, *args).numpy(), self.chain.T + 1)

    def bound(self, x0: float) -> float:
        """E_q[log q(x_{1:T} | x_0)/p_θ(x_{0:T})] of the library's integrand, x_0 given; exact."""
        return self.read("log_ratio").mean(self.chain.given(x0))


@dataclass(frozen=True, eq=False)
class GridTwin:
    """A nonlinear chain on mixture data and the library's model of it."""

    chain: GridChain
    model: DiffusionModel

    @property
    def paths(self) -> PathDensities:
        """The library's densities along paths."""
        return PathDensities(self.model)

    def bound(self, x0: float, n: int = 40) -> float:
        """E_q[log q/p] of the library's integrand, x_0 given, by Gauss-Hermite sums."""
        x, w = self.chain.paths(x0, n)
        return float(w @ self.paths.log_ratio(x).numpy())


def linear_twin(chain: LinearChain) -> LinearTwin:
    """The library's model of `chain`, from the chain's numbers and the library's formulas."""
    denoiser = NetworkDenoiser(AffineNet(chain.gains, chain.offsets), "x0", "index")
    prior = GaussianPrior(chain.prior_mean, chain.prior_variance)
    return LinearTwin(chain, _model(chain.betas, denoiser, chain.variance, chain.decoder_variance, prior))


def grid_twin(chain: GridChain) -> GridTwin:
    """The library's model of `chain`, whose network predicts ε̂."""
    denoiser = NetworkDenoiser(GridNet(chain), "eps", "index")
    return GridTwin(chain, _model(chain.betas, denoiser, "beta", chain.decoder_variance, GaussianPrior()))


def gaussian_data(mean: float, variance: float) -> GaussianData:
    """The library's data N(mean, variance) on the line."""
    return GaussianData(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def mixture_data(mixture: LineMixture) -> MixtureData:
    """The library's mixture with the numbers of `mixture`."""
    weights, means, variances = (
        torch.tensor(values, dtype=torch.float64) for values in (mixture.weights, mixture.means, mixture.variances)
    )
    return MixtureData(weights, means[:, None], variances[:, None, None])


def _model(betas, denoiser: Denoiser, variance: str, decoder_variance: float, prior: GaussianPrior) -> DiffusionModel:
    return DiffusionModel(
        domain=DataDomain((1,)),
        schedule=schedule.from_betas(betas),
        grid=grid.full(),
        denoiser=denoiser,
        reverse=Reverse(parse_variance(variance)),
        decoder=ContinuousGaussian(decoder_variance),
        prior=prior,
    )


def _regressions(betas: np.ndarray, mean: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    law = forward_law(betas, mean, variance)
    pairs = [law.regression([0], [t]) for t in range(1, len(betas) + 1)]
    return np.array([r.gain[0, 0] for r in pairs]), np.array([r.offset[0] for r in pairs])


@lru_cache
def misspecified(variance: str = "beta") -> LinearChain:
    """Data N(0.4, 0.7), T = 4, and a denoiser wrong by 10 to 15 % at every step: a loose bound."""
    betas = np.array(BETAS)
    gains, offsets = _regressions(betas, 0.4, 0.7)
    gains = gains * np.array([1.12, 0.88, 1.15, 0.85])
    offsets = offsets + np.array([0.12, -0.15, 0.18, -0.1])
    return LinearChain(betas, 0.4, 0.7, gains, offsets, variance, decoder_variance=0.13)


@lru_cache
def perfect(betas: tuple[float, ...] = BETAS) -> LinearChain:
    """Data N(0, 1), the exact denoiser and σ_t² = β_t: p_θ is q reversed, and the bound is tight path by path."""
    return scaled(betas, 0.0)


@lru_cache
def scaled(betas: tuple[float, ...], misfit: float) -> LinearChain:
    """Data N(0, 1), ε̂ = (1 + misfit) E[ε | x_t], σ_t² = β_t, decoder N(x̂_1, β_1)."""
    steps = np.array(betas)
    alpha_bar = np.cumprod(1 - steps)
    gains = (1 - (1 + misfit) * (1 - alpha_bar)) / np.sqrt(alpha_bar)  # E[ε | x_t] = √(1−ᾱ_t) x_t for this data
    return LinearChain(steps, 0.0, 1.0, gains, np.zeros(len(steps)), "beta", decoder_variance=steps[0])


def ddpm_betas(T: int) -> tuple[float, ...]:
    """DDPM's straight line of betas, shrunk to T steps of the same total noise."""
    return tuple(np.linspace(1e-4, 0.02, T) * 1000 / T)


@lru_cache
def nonlinear(betas: tuple[float, ...] = (0.15, 0.3, 0.4)) -> GridChain:
    """Mixture data, ε̂ off by 0.15 sin(1.3 x + t), decoder variance β_1."""
    return GridChain(np.array(betas), MIXTURE, 0.15, decoder_variance=betas[0])

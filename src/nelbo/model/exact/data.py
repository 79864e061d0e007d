"""What the oracles share: data of a known law make a model whose denoiser, and on request whose ends, are exact."""

from __future__ import annotations

from abc import ABC, abstractmethod

from nelbo.model.decoder import ContinuousGaussian, Decoder
from nelbo.model.denoiser import Denoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import GaussianPrior, Prior
from nelbo.model.reverse import Reverse, parse_variance
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.schedule import Schedule


class ExactData(ABC):
    """Abstract: data whose log p, entropy, draws and denoiser E[x | z_t] are known."""

    @property
    @abstractmethod
    def domain(self) -> DataDomain:
        """The domain of the data."""

    @abstractmethod
    def denoiser(self, schedule: Schedule | None = None) -> Denoiser:
        """x̂ = E[x | z_t], exact at every level of every schedule (which is therefore not needed)."""

    @abstractmethod
    def prior(self, t: Levels) -> Prior:
        """p(z_L) = q(z_L), the marginal at the last level t (a Levels of one element)."""

    @abstractmethod
    def decoder(self) -> Decoder:
        """p(x | z_1) = q(x | z_1), the exact posterior of the data given the first level."""

    def model(
        self, schedule: Schedule, grid: Grid, *, exact_ends: bool = True, variance="beta_tilde"
    ) -> DiffusionModel:
        """The model with the exact denoiser.

        exact_ends: also with the prior q(z_L) and the decoder q(x | z_1); otherwise with N(0, I) and, for real data,
        N(x; z/α, σ²/α²).
        """
        decoder = self.decoder() if exact_ends or self.domain.discrete else ContinuousGaussian()
        last = grid.levels(schedule, decoder.calls_network)[-1:]
        return DiffusionModel(
            domain=self.domain,
            schedule=schedule,
            grid=grid,
            denoiser=self.denoiser(),
            reverse=Reverse(parse_variance(variance)),
            decoder=decoder,
            prior=self.prior(last) if exact_ends else GaussianPrior(),
        )

"""Gaussian data x ~ N(m, C) of any dimension, full covariance.

With C = U diag(c) Uᵀ every conditional is diagonal in the columns of U: at a level with α, σ

    q(z_t)     = N(α m, U diag(α² c + σ²) Uᵀ)
    E[x | z]   = m + U diag(α c/(α² c + σ²)) Uᵀ (z − α m)
    Cov[x | z] = U diag(c σ²/(α² c + σ²)) Uᵀ
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import DomainError, ShapeError
from nelbo.maths import gaussian
from nelbo.maths.keys import Purpose
from nelbo.model.decoder import Decoder
from nelbo.model.denoiser import Denoiser
from nelbo.model.domain import DataDomain
from nelbo.model.exact.data import ExactData
from nelbo.model.prior import Prior
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule
from nelbo.typing import Condition, Json, Shape


@dataclass(frozen=True, eq=False)
class GaussianData(ExactData):
    """N(mean, covariance): mean (D,), covariance (D, D) symmetric positive definite; float64."""

    mean: Tensor
    covariance: Tensor

    def __post_init__(self):
        mean = torch.as_tensor(self.mean, dtype=torch.float64).reshape(-1)
        covariance = torch.as_tensor(self.covariance, dtype=torch.float64)
        if covariance.ndim < 2:
            covariance = torch.diag(covariance.reshape(-1).expand(len(mean)))
        if covariance.shape != (len(mean), len(mean)):
            raise ShapeError(f"mean {tuple(mean.shape)}, covariance {tuple(covariance.shape)}", "give (D,) and (D, D)")
        c, U = torch.linalg.eigh(covariance)
        if not bool((c > 0).all()) or not torch.allclose(covariance, covariance.T):
            raise DomainError("the covariance is not symmetric positive definite", "check its eigenvalues")
        for name, value in {"mean": mean, "covariance": covariance, "_c": c, "_U": U}.items():
            object.__setattr__(self, name, value)
        self._c: Tensor
        self._U: Tensor

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def domain(self) -> DataDomain:
        """(D,), real numbers."""
        return DataDomain((self.dimensions,))

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; m, C) in nats, (N,), for x (N, D)."""
        y = (x - self.mean) @ self._U
        return gaussian.log_density(y, torch.zeros_like(self._c), self._c).sum(-1)

    def entropy(self) -> float:
        """½ log det(2πe C) in nats."""
        return float(gaussian.entropy(self._c).sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws, (n, D); draw i depends on (seed, i) alone."""
        eps = Purpose.EXACT_DRAW.normal(seed, torch.arange(n), shape=(self.dimensions,))
        return self.mean + (eps * self._c.sqrt()) @ self._U.T

    def denoiser(self, schedule: Schedule | None = None) -> ExactGaussianDenoiser:
        """x̂ = E[x | z_t], exact at every level of every schedule (which is therefore not needed)."""
        return ExactGaussianDenoiser(self)

    def prior(self, t: Levels) -> ExactGaussianPrior:
        """p(z_L) = q(z_L), the marginal at the last level t (a Levels of one element)."""
        alpha, sigma = float(t.alpha), float(t.sigma)
        noise = sigma**2 * torch.eye(self.dimensions, dtype=torch.float64)
        return ExactGaussianPrior(alpha * self.mean, alpha**2 * self.covariance + noise)

    def decoder(self) -> ExactGaussianDecoder:
        """p(x | z_1) = q(x | z_1), the exact posterior of the data given the first level."""
        return ExactGaussianDecoder(self.mean, self.covariance)


class ExactGaussianDenoiser(Denoiser):
    """x̂ = m + U diag(α c/(α² c + σ²)) Uᵀ (z − α m), shapes (B, D)."""

    def __init__(self, data: GaussianData):
        super().__init__()
        self.data = data  # no buffers: an oracle stays in float64 whatever precision is asked of networks

    def describe(self) -> Json:
        data = self.data
        return {**super().describe(), "mean": data.mean.tolist(), "covariance": data.covariance.tolist()}

    @equation("eps-optimal-predictor")
    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        alpha, sigma = t.alpha[:, None], t.sigma[:, None]
        mean, c, U = (v.to(z.device) for v in (self.data.mean, self.data._c, self.data._U))
        gain = alpha * c / (alpha.square() * c + sigma.square())
        return Prediction(mean + (((z - alpha * mean) @ U) * gain) @ U.T)


@dataclass(frozen=True, eq=False)
class ExactGaussianPrior(Prior, kind="multivariate_gaussian"):
    """p(z_L) = N(mean, covariance), mean (D,), covariance (D, D)."""

    mean: Tensor
    covariance: Tensor

    def kl(self, x: Tensor, t: Levels) -> Tensor:
        mean_q = t.alpha[:, None] * x
        covariance_q = t.sigma.square()[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return gaussian.kl_multivariate(mean_q, covariance_q, self.mean.to(x.device), self.covariance.to(x.device))

    def kl_of_spread(self, variance: Tensor, t: Levels) -> Tensor:
        precision = torch.linalg.inv(self.covariance).diagonal().to(variance)
        return 0.5 * t.alpha.square() * (variance * precision).sum(1)

    def log_density(self, z: Tensor, t: Levels) -> Tensor:
        return GaussianData(self.mean.to(z.device), self.covariance.to(z.device)).log_prob(z)

    def draw(self, eps: Tensor) -> Tensor:
        return self.mean.to(eps.device) + eps @ torch.linalg.cholesky(self.covariance.to(eps.device)).T

    def check(self, shape: Shape) -> None:
        if tuple(shape) != tuple(self.mean.shape):
            raise ShapeError(f"a prior over {tuple(self.mean.shape)} for examples of shape {shape}", "they must agree")


@dataclass(frozen=True, eq=False)
class ExactGaussianDecoder(Decoder, kind="exact_gaussian"):
    """p(x | z_1) = N(E[x | z_1], Cov[x | z_1]) of data N(mean, covariance); no network."""

    data_mean: Tensor
    data_covariance: Tensor
    discrete = False

    def _posterior(self, z: Tensor, t: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m, U, and mean and variance of Uᵀ (x − m) given z, (B, D) each."""
        m = self.data_mean.to(z.device)
        c, U = torch.linalg.eigh(self.data_covariance.to(z.device))
        alpha, sigma = t.alpha[:, None], t.sigma[:, None]
        marginal = alpha.square() * c + sigma.square()
        mean = ((z - alpha * m) @ U) * (alpha * c / marginal)
        return m, U, mean, c * sigma.square() / marginal

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        m, U, mean, variance = self._posterior(z, t)
        return -gaussian.log_density((target - m) @ U, mean, variance).sum(-1)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        m, U, mean, variance = self._posterior(z, t)
        return m + (mean + variance.sqrt() * torch.special.ndtri(u)) @ U.T

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        m, U, mean, _ = self._posterior(z, t)
        return m + mean @ U.T

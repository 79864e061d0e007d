"""Gaussian-mixture data x ~ Σ_m w_m N(μ_m, C_m), any dimension, full covariances.

At a level with α, σ the noisy data are again a mixture, with components N(α μ_m, α² C_m + σ² I), and

    E[x | z] = Σ_m r_m(z) E_m[x | z],    r_m(z) ∝ w_m N(z; α μ_m, α² C_m + σ² I).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import DomainError, ShapeError, UsageError
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
from nelbo.typing import Condition, Json


@dataclass(frozen=True, eq=False)
class MixtureData(ExactData):
    """weights (M,), means (M, D), covariances (M, D, D); float64. Weights are normalised."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self):
        weights = torch.as_tensor(self.weights, dtype=torch.float64).reshape(-1)
        means = torch.as_tensor(self.means, dtype=torch.float64)
        means = means.reshape(len(weights), -1)
        D = means.shape[1]
        covariances = torch.as_tensor(self.covariances, dtype=torch.float64)
        if covariances.ndim < 3:
            covariances = torch.diag_embed(covariances.reshape(len(weights), -1).expand(-1, D))
        if covariances.shape != (len(weights), D, D):
            raise ShapeError(
                f"{len(weights)} weights, means {tuple(means.shape)}, covariances {tuple(covariances.shape)}",
                "give (M,), (M, D) and (M, D, D)",
            )
        c, U = torch.linalg.eigh(covariances)
        if not bool((weights > 0).all()) or not bool((c > 0).all()):
            raise DomainError("a weight is not positive or a covariance is not positive definite", "check them")
        values = {"weights": weights / weights.sum(), "means": means, "covariances": covariances, "_c": c, "_U": U}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._c: Tensor
        self._U: Tensor

    @property
    def dimensions(self) -> int:
        """D."""
        return self.means.shape[1]

    def to(self, device: torch.device) -> MixtureData:
        """The same mixture with its tensors on `device`."""
        if self.means.device == device:
            return self
        moved = copy.copy(self)
        for name, value in vars(self).items():
            object.__setattr__(moved, name, value.to(device))
        return moved

    @property
    def domain(self) -> DataDomain:
        """(D,), real numbers."""
        return DataDomain((self.dimensions,))

    @equation("gaussian-merge")
    def noised(self, t: Levels) -> MixtureData:
        """q(z_t), the mixture at one level (a Levels of one element)."""
        alpha, sigma = float(t.alpha), float(t.sigma)
        noise = sigma**2 * torch.eye(self.dimensions, dtype=torch.float64)
        return MixtureData(self.weights, alpha * self.means, alpha**2 * self.covariances + noise)

    def component_log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """log(w_m N(x; α μ_m, α² C_m + σ² I)), (N, M); α, σ numbers or (N, 1, 1)."""
        y = torch.einsum("nmd,mde->nme", x[:, None, :] - alpha * self.means, self._U)
        variance = alpha**2 * self._c + sigma**2
        return self.weights.log() + gaussian.log_density(y, torch.zeros_like(y), variance).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), for x (N, D)."""
        return self.component_log_prob(x).logsumexp(-1)

    def entropy(self) -> float:
        """−∫ p log p in nats by Simpson's rule (error < 1e-9); D = 1 only, since a mixture has no closed form."""
        if self.dimensions != 1:
            raise UsageError(
                f"the entropy of a mixture in {self.dimensions} dimensions has no closed form",
                "use entropy_estimate(n), which gives a standard error",
            )
        spread = self._c.sqrt().max()
        low, high = float(self.means.min() - 12 * spread), float(self.means.max() + 12 * spread)
        count = 2 * math.ceil((high - low) / float(self._c.sqrt().min()) * 200) + 1
        x = torch.linspace(low, high, count, dtype=torch.float64)
        weights = torch.ones(count, dtype=torch.float64)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        log_p = self.log_prob(x[:, None])
        return -float((weights * log_p.exp() * log_p).sum() * (x[1] - x[0]) / 3)

    def entropy_estimate(self, n: int = 100_000, seed: int = 0) -> tuple[float, float]:
        """Monte Carlo entropy in nats and its standard error, from n keyed draws."""
        nll = -self.log_prob(self.sample(n, seed))
        return float(nll.mean()), float(nll.std() / math.sqrt(n))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws, (n, D); draw i depends on (seed, i) alone."""
        index = torch.arange(n)
        u = Purpose.EXACT_COMPONENT.uniform(seed, index)
        m = torch.searchsorted(self.weights.cumsum(0), u.contiguous()).clamp(max=len(self.weights) - 1)
        eps = Purpose.EXACT_DRAW.normal(seed, index, shape=(self.dimensions,))
        return self.means[m] + torch.einsum("nd,nde->ne", eps * self._c[m].sqrt(), self._U[m].mT)

    def denoiser(self, schedule: Schedule | None = None) -> ExactMixtureDenoiser:
        """x̂ = E[x | z_t], exact at every level of every schedule (which is therefore not needed)."""
        return ExactMixtureDenoiser(self)

    def prior(self, t: Levels) -> MixturePrior:
        """p(z_L) = q(z_L), the marginal at the last level t (a Levels of one element); its KL needs D = 1."""
        noisy = self.noised(t)
        return MixturePrior(noisy.weights, noisy.means, noisy.covariances)

    def decoder(self) -> ExactMixtureDecoder:
        """p(x | z_1) = q(x | z_1), the exact posterior of the data given the first level."""
        return ExactMixtureDecoder(self.weights, self.means, self.covariances)


class ExactMixtureDenoiser(Denoiser):
    """x̂ = Σ_m r_m(z) (μ_m + U_m diag(α c_m/(α² c_m + σ²)) U_mᵀ (z − α μ_m)), shapes (B, D)."""

    def __init__(self, data: MixtureData):
        super().__init__()
        self.data = data

    def describe(self) -> Json:
        tables = {name: getattr(self.data, name).tolist() for name in ("weights", "means", "covariances")}
        return {**super().describe(), **tables}

    @equation("eps-optimal-predictor")
    def forward(self, z: Tensor, t: Levels, condition: Condition | None = None) -> Prediction:
        data = self.data.to(z.device)
        alpha, sigma = t.alpha[:, None, None], t.sigma[:, None, None]
        r = data.component_log_prob(z, alpha, sigma).softmax(-1)
        gain = alpha * data._c / (alpha.square() * data._c + sigma.square())
        y = torch.einsum("nmd,mde->nme", z[:, None, :] - alpha * data.means, data._U) * gain
        x0 = data.means + torch.einsum("nme,mde->nmd", y, data._U)
        return Prediction((r[..., None] * x0).sum(1))


@dataclass(frozen=True, eq=False)
class MixturePrior(Prior, kind="mixture"):
    """p(z_L) = Σ_m w_m N(μ_m, C_m). Its KL is an expectation over one normal, taken by Gauss-Hermite: D = 1 only."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def kl(self, x: Tensor, t: Levels) -> Tensor:
        if x.shape[1] != 1:
            raise UsageError(
                f"KL(q(z_L | x) ‖ mixture) in {x.shape[1]} dimensions has no closed form",
                "use the mixture's exact prior in one dimension only, or GaussianPrior()",
            )
        nodes, weights = (torch.from_numpy(a).to(x.device) for a in np.polynomial.hermite_e.hermegauss(160))
        z = t.alpha[:, None] * x + t.sigma[:, None] * nodes
        p = MixtureData(self.weights, self.means, self.covariances).to(x.device)
        log_p = p.log_prob(z.reshape(-1, 1)).reshape(z.shape)
        return -gaussian.entropy(t.sigma.square()) - log_p @ weights / math.sqrt(2 * math.pi)

    def log_density(self, z: Tensor, t: Levels) -> Tensor:
        return MixtureData(self.weights, self.means, self.covariances).to(z.device).log_prob(z)

    def draw(self, eps: Tensor) -> Tensor:
        raise UsageError("a mixture prior cannot be drawn from one normal", "use MixtureData.sample")


@dataclass(frozen=True, eq=False)
class ExactMixtureDecoder(Decoder, kind="exact_mixture"):
    """p(x | z_1) = q(x | z_1) of mixture data, by Bayes: p(x) N(z; α x, σ²)/q(z); no network."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    discrete = False

    @equation("bayes-rule", "forward-bayes-marginal")
    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        data = MixtureData(self.weights, self.means, self.covariances).to(z.device)
        alpha, sigma = t.alpha[:, None, None], t.sigma[:, None, None]
        log_q = data.component_log_prob(z, alpha, sigma).logsumexp(-1)
        noise = gaussian.log_density(z, alpha[..., 0] * target, sigma[..., 0].square()).sum(-1)
        return log_q - noise - data.log_prob(target)

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        raise UsageError("the exact mixture decoder scores, it does not sample", "use MixtureData.sample")

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return ExactMixtureDenoiser(MixtureData(self.weights, self.means, self.covariances))(z, t).x0

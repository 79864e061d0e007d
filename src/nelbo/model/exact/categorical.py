"""Codes that are independent between pixels, with a known table of probabilities: the discrete oracle.

The exact posterior of a pixel's code given z_t is p(k) N(z; α x_k, σ²) renormalised, which is what a categorical head
with logits log p(k) says; its bound is therefore known to the last digit, decoder included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nelbo.arguments import numbers
from nelbo.errors import DomainError, UsageError
from nelbo.maths import gaussian
from nelbo.maths.keys import Purpose
from nelbo.model.decoder import NetworkCategorical
from nelbo.model.denoiser import CategoricalDenoiser
from nelbo.model.domain import DataDomain
from nelbo.model.exact.data import ExactData
from nelbo.model.prior import Prior
from nelbo.process.levels import Levels
from nelbo.process.schedule import Schedule


@numbers
@dataclass(frozen=True, eq=False)
class CategoricalData(ExactData):
    """probabilities (D, K) of the codes of D independent pixels, values on the lattice of [low, high]."""

    probabilities: Tensor
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self):
        p = torch.as_tensor(self.probabilities, dtype=torch.float64)
        if p.ndim != 2 or not bool((p > 0).all()):
            raise DomainError(f"a table of code probabilities of shape {tuple(p.shape)}", "give (D, K), all positive")
        object.__setattr__(self, "probabilities", p / p.sum(1, keepdim=True))

    @property
    def domain(self) -> DataDomain:
        """(D,) with K bins."""
        D, K = self.probabilities.shape
        return DataDomain((D,), K, self.low, self.high)

    def log_prob(self, codes: Tensor) -> Tensor:
        """log P(codes) in nats, (N,), for codes (N, D) int64."""
        return self.probabilities.log()[torch.arange(codes.shape[1]), codes].sum(1)

    def entropy(self) -> float:
        """−Σ p log p in nats, summed over pixels."""
        return -float((self.probabilities * self.probabilities.log()).sum())

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws of codes, (n, D) int64; draw i depends on (seed, i) alone."""
        D = len(self.probabilities)
        u = Purpose.EXACT_DRAW.uniform(seed, torch.arange(n), shape=(D,))
        cdf = self.probabilities.cumsum(1)[:, :-1]
        return (u[..., None] > cdf).sum(-1)

    def denoiser(self, schedule: Schedule | None = None) -> CategoricalDenoiser:
        """The exact posterior over codes at every level."""
        return CategoricalDenoiser(_ConstantLogits(self.probabilities.log()), self.domain)

    def prior(self, t: Levels) -> CodePrior:
        """p(z_L) = q(z_L), the marginal at the last level, whichever it is."""
        return CodePrior(self.probabilities, self.low, self.high)

    def decoder(self) -> NetworkCategorical:
        """The denoiser's own posterior over codes, which is exact."""
        return NetworkCategorical()


class _ConstantLogits(nn.Module):
    def __init__(self, logits: Tensor):
        super().__init__()
        self.register_buffer("logits", logits)
        self.logits: Tensor

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return self.logits.to(z.dtype).expand(*z.shape, -1)


@dataclass(frozen=True, eq=False)
class CodePrior(Prior, kind="code_mixture"):
    """p(z_L) = Π_d Σ_k p_dk N(α x_k, σ²) at the last level; its KL is one integral a pixel, by Gauss-Hermite."""

    probabilities: Tensor
    low: float
    high: float

    def kl(self, x: Tensor, t: Levels) -> Tensor:
        nodes, weights = (torch.from_numpy(a).to(x.device) for a in np.polynomial.hermite_e.hermegauss(80))
        weights = weights / weights.sum()
        alpha, sigma = t.alpha[:, None, None], t.sigma[:, None, None]
        lattice = self._lattice(x.device)
        z = alpha * x[..., None] + sigma * nodes
        log_normal = gaussian.log_density(z[..., None], alpha[..., None] * lattice, sigma[..., None].square())
        log_p = (self.probabilities.to(x.device).log()[None, :, None, :] + log_normal).logsumexp(-1)
        return (-gaussian.entropy(t.sigma.square())[:, None] - log_p @ weights).sum(1)

    def log_density(self, z: Tensor, t: Levels) -> Tensor:
        alpha, sigma = t.alpha[:, None, None], t.sigma[:, None, None]
        log_normal = gaussian.log_density(z[..., None], alpha * self._lattice(z.device), sigma.square())
        return (self.probabilities.to(z.device).log() + log_normal).logsumexp(-1).sum(1)

    def _lattice(self, device: torch.device) -> Tensor:
        return DataDomain((1,), self.probabilities.shape[1], self.low, self.high).lattice(device=device)

    def draw(self, eps: Tensor) -> Tensor:
        raise UsageError("the exact prior over codes scores, it does not sample", "use CategoricalData.sample")

"""The joint Gaussian of a short chain: every divergence as one number, without splitting it into the bound's terms.

x ~ N(m, v) runs up the forward chain of a `Ddpm`; the reverse chain starts from N(0, 1) and takes affine steps
N(a_t z_t + b_t, v_t). Both are Gaussian laws of (x, z_1, …, z_T), so the negative evidence bound of an x is

    E_q[log q(z_{1:T} | x) − log p(x, z_{1:T})] = KL between two joint Gaussians, no telescoping anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.equations.oracles.ddpm import Ddpm


def divergence(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """KL between two Gaussians by torch.distributions."""
    q = torch.distributions.MultivariateNormal(mean_q, cov_q)
    return torch.distributions.kl_divergence(q, torch.distributions.MultivariateNormal(mean_p, cov_p))


def cross_entropy(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    """−E_q log p of two Gaussians; q may be a law on a plane (a covariance that is not invertible)."""
    off, precision = mean_q - mean_p, torch.linalg.inv(cov_p)
    square = off @ precision @ off + (precision * cov_q).sum()
    return 0.5 * (square + torch.logdet(cov_p) + len(off) * math.log(2 * math.pi))


def entropy(cov: Tensor) -> Tensor:
    """½ log det(2πe C)."""
    return 0.5 * (torch.logdet(cov) + len(cov) * (1 + math.log(2 * math.pi)))


@dataclass(frozen=True)
class AffineChain:
    """Data N(mean, variance); the network says ε̂ = scale_t z_t + shift_t (lists of T), each step's variance is β_t."""

    table: Ddpm = field(default_factory=Ddpm)
    mean: float = 0.4
    variance: float = 0.7
    scale: tuple[float, ...] = (0.25, 0.45, 0.55, 0.75)
    shift: tuple[float, ...] = (0.1, -0.2, 0.15, -0.1)

    def step(self, t: int) -> tuple[float, float, float]:
        """a_t, b_t, v_t of the reverse step from z_t, by the mean in terms of the noise."""
        d, k, c = self.table, self.scale[t - 1], self.shift[t - 1]
        rate = float(d.beta[t] / (1 - d.bar[t]).sqrt())
        root = float(d.alpha[t].sqrt())
        return (1 - rate * k) / root, -rate * c / root, float(d.beta[t])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Mean (T + 1,) and covariance (T + 1, T + 1) of (x, z_1, …, z_T) under q, from the kernels alone."""
        return self._forward(self.mean, self.variance)

    def given(self, x: float) -> tuple[Tensor, Tensor]:
        """Mean (T,) and covariance (T, T) of z_{1:T} under q, given x."""
        mean, cov = self._forward(x, 0.0)
        return mean[1:], cov[1:, 1:]

    def _forward(self, mean: float, variance: float) -> tuple[Tensor, Tensor]:
        T = self.table.T
        lift = torch.eye(T + 1, dtype=torch.float64)  # (x, z) as a linear image of x and the kernels' own noises
        for t in range(1, T + 1):
            lift[t] += float(self.table.alpha[t]) ** 0.5 * lift[t - 1]
        spread = torch.tensor([variance, *self.table.betas], dtype=torch.float64)
        return lift[:, 0] * mean, lift * spread @ lift.T

    def backward(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of (x, z_1, …, z_T) under p, from its prior N(0, 1) and its steps."""
        T = self.table.T
        lift = torch.eye(T + 1, dtype=torch.float64)
        mean, spread = torch.zeros(T + 1, dtype=torch.float64), torch.ones(T + 1, dtype=torch.float64)
        for t in range(T, 0, -1):
            a, b, v = self.step(t)
            lift[t - 1] += a * lift[t]
            mean[t - 1] = a * mean[t] + b
            spread[t - 1] = v
        return mean, lift * spread @ lift.T

    def log_prob(self, x: float) -> float:
        """log p(x) of the model."""
        mean, cov = self.backward()
        return float(torch.distributions.Normal(mean[0], cov[0, 0].sqrt()).log_prob(torch.tensor(x)))

    def negative_elbo(self, x: float) -> float:
        """E_q[log q(z_{1:T} | x) − log p(x, z_{1:T})]."""
        mean, cov = self._forward(x, 0.0)
        return float(cross_entropy(mean, cov, *self.backward()) - entropy(cov[1:, 1:]))

    def joint_divergence(self) -> float:
        """KL(q(x, z_{1:T}) ‖ p(x, z_{1:T}))."""
        return float(divergence(*self.forward(), *self.backward()))

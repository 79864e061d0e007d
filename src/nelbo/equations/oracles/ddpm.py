"""A DDPM's table in plain products of β, and its posterior by Bayes' rule: precisions add.

q(z_{t−1} | z_t, x) is the product of two normal densities of z_{t−1}, N(√ᾱ_{t−1} x, 1 − ᾱ_{t−1}) from the data and
N(z_t/√α_t, β_t/α_t) from the next state. Nothing here knows the closed forms of Ho et al. 2020, eq. 6 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHORT = (0.1, 0.2, 0.3, 0.35)
"""β of the chain of four steps on which most checks run."""


@dataclass(frozen=True)
class Ddpm:
    """β_1 … β_T. Every letter is a tensor (T + 1,) whose entry t is step t: ᾱ_0 = 1, NaN where t = 0 has none."""

    betas: tuple[float, ...] = SHORT

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 2e-2) -> Ddpm:
        """Ho et al.'s table."""
        return cls(tuple(beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)))

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def beta(self) -> Tensor:
        """β_t."""
        return torch.tensor([float("nan"), *self.betas], dtype=torch.float64)

    @cached_property
    def alpha(self) -> Tensor:
        """α_t = 1 − β_t."""
        return 1 - self.beta

    @cached_property
    def bar(self) -> Tensor:
        """ᾱ_t = Π_{j≤t} α_j."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha[1:].cumprod(0)])

    @cached_property
    def snr(self) -> Tensor:
        """ᾱ_t/(1 − ᾱ_t); infinite at t = 0."""
        return self.bar / (1 - self.bar)

    def posterior(self, t: int) -> tuple[float, float, float]:
        """Coefficients of z_t and of x in the mean of q(z_{t−1} | z_t, x), and its variance, for t ≥ 2."""
        alpha, beta, before = float(self.alpha[t]), float(self.beta[t]), float(self.bar[t - 1])
        variance = 1 / (alpha / beta + 1 / (1 - before))
        return variance * alpha**0.5 / beta, variance * before**0.5 / (1 - before), variance

    def mean_from_eps(self, z: Tensor, eps: Tensor, t: int) -> Tensor:
        """(z − β_t/√(1 − ᾱ_t) ε)/√α_t, the mean of a step in terms of the noise."""
        return (z - self.beta[t] / (1 - self.bar[t]).sqrt() * eps) / self.alpha[t].sqrt()

    def misprinted_mean(self, z: Tensor, eps: Tensor, t: int) -> Tensor:
        """The same with the bar over α lost, as printed in the handwritten notes."""
        return (z - self.beta[t] / (1 - self.alpha[t]).sqrt() * eps) / self.alpha[t].sqrt()

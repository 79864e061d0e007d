"""A one-dimensional Gaussian mixture whose conditionals come from integrals over x, not from responsibilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equations.oracles import nodes
from nelbo.model.exact import MixtureData


@dataclass(frozen=True)
class Bumps:
    """Three bumps with known weights, means and variances."""

    weights: tuple[float, ...] = (0.35, 0.4, 0.25)
    means: tuple[float, ...] = (-1.4, 0.3, 1.7)
    variances: tuple[float, ...] = (0.08, 0.15, 0.06)

    def product(self) -> MixtureData:
        """The same data as the library's own oracle."""
        weights, means, variances = (
            torch.tensor(v, dtype=torch.float64) for v in (self.weights, self.means, self.variances)
        )
        return MixtureData(weights, means[:, None], variances[:, None])

    def density(self, x: Tensor, alpha: float | Tensor = 1.0, variance: float | Tensor = 0.0) -> Tensor:
        """The density of α x + noise of the given variance, elementwise."""
        total = torch.zeros_like(x)
        for w, m, v in zip(self.weights, self.means, self.variances, strict=True):
            total = total + w * nodes.log_normal(x, alpha * m, alpha**2 * v + variance).exp()
        return total

    def conditional(self, z: Tensor, alpha: float, variance: float) -> Tensor:
        """E[x | z = α x + noise] by Bayes' rule and the trapezoid rule over x; z (n,)."""
        x, w = nodes.line(-5.0, 5.0, 1001)
        weight = w * self.density(x) * nodes.log_normal(z[:, None], alpha * x, variance).exp()
        return (weight * x).sum(1) / weight.sum(1)

    def score(self, z: Tensor, alpha: float, variance: float) -> Tensor:
        """d log q(z)/dz by automatic differentiation; z (n,)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.density(z, alpha, variance).log().sum(), z)
        return slope

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n,)."""
        k = torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), n, True, generator=generator)
        means, variances = (torch.tensor(v, dtype=torch.float64)[k] for v in (self.means, self.variances))
        return means + variances.sqrt() * torch.randn(n, dtype=torch.float64, generator=generator)

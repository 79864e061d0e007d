"""Priors p(z_L): where the reverse chain starts, and what the last level costs."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.maths import gaussian
from nelbo.parts import Part
from nelbo.process.levels import Levels, column
from nelbo.typing import Shape


class Prior(Part, family="prior"):
    """The distribution of the last level."""

    @abstractmethod
    def kl(self, x: Tensor, t: Levels) -> Tensor:
        """KL(q(z_L | x) ‖ p(z_L)) in nats an example, (B,); exact, no network."""

    def kl_of_spread(self, variance: Tensor, t: Levels) -> Tensor:
        """What KL(q(z_L | x) ‖ p(z_L)) grows by on average, (B,), where the elements of x vary by `variance` (B, …)
        about their mean, independently of each other. Errors: UsageError where that has no closed form."""
        raise UsageError(
            f"the prior {self.kind!r} gives no KL that is averaged over a Gaussian x, which a model of latents needs",
            "use GaussianPrior, or give its class a method kl_of_spread(variance, t)",
        )

    def log_density(self, z: Tensor, t: Levels) -> Tensor:
        """log p(z_L) at z (B, …) and the last level t (B,), in nats, (B,). Errors: UsageError where it has none."""
        raise UsageError(
            f"the prior {self.kind!r} gives no density of a point, which the ODE likelihood needs",
            "give its class a method log_density(z, t)",
        )

    @abstractmethod
    def draw(self, eps: Tensor) -> Tensor:
        """A draw of p(z_L) made from standard normals ε (B, …)."""

    def check(self, shape: Shape) -> None:
        """Raise ShapeError where the prior does not fit examples of this shape."""


@numbers
@dataclass(frozen=True, eq=False)
class GaussianPrior(Prior, kind="gaussian"):
    """p(z_L) = N(mean, variance), the same for every element. N(0, I) for VP; N(0, σ_max²) for VE."""

    mean: float = 0.0
    variance: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.variance) and self.variance > 0):
            raise UsageError(f"a prior N({self.mean}, {self.variance})", "give a finite mean and a variance > 0")

    @equation("loss-term-prior", "vdm-prior", "forward-limit-prior")
    def kl(self, x: Tensor, t: Levels) -> Tensor:
        alpha, sigma = column(t.alpha, x), column(t.sigma, x)
        variance = torch.as_tensor(self.variance, dtype=x.dtype, device=x.device)
        return gaussian.kl_from_difference(alpha * x - self.mean, sigma.square(), variance).flatten(1).sum(1)

    def kl_of_spread(self, variance: Tensor, t: Levels) -> Tensor:
        alpha = column(t.alpha, variance)
        return (0.5 * alpha.square() * variance / self.variance).flatten(1).sum(1)

    @equation("prior-normal")
    def log_density(self, z: Tensor, t: Levels) -> Tensor:
        mean, variance = (torch.as_tensor(v, dtype=z.dtype, device=z.device) for v in (self.mean, self.variance))
        return gaussian.log_density(z, mean, variance).flatten(1).sum(1)

    @equation("prior-normal")
    def draw(self, eps: Tensor) -> Tensor:
        return self.mean + math.sqrt(self.variance) * eps

"""A mixture of Gaussians as what is believed about x before z is seen, and what z makes of it, element by element.

    π(x) = Σ_m w_m N(x; μ_m, s_m²),    s_m = 0 for a point mass
    p(x | z) ∝ π(x) N(z; α x, σ²):    r_m ∝ w_m N(z; α μ_m, V_m),   V_m = α² s_m² + σ²,
    x̂ = E[x | z] = Σ_m r_m (μ_m + α s_m² (z − α μ_m)/V_m)

so that the posterior mean costs a few operations a component, whatever the number of codes (Bishop 2006, eq. 2.116).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.process.levels import Levels, column


class Mixture(NamedTuple):
    """log w, μ and s² of every element's components, each (B, M, *shape); Σ w = 1 over axis 1."""

    log_weight: Tensor
    mean: Tensor
    variance: Tensor

    def read(self) -> Mixture:
        """Itself."""
        return self

    def each(self, change: Callable[[Tensor], Tensor]) -> Mixture:
        """The same with its tensors changed."""
        return Mixture(*(change(v) for v in self))

    @equation("mixture-posterior")
    def posterior_mean(self, z: Tensor, t: Levels) -> Tensor:
        """x̂ = E[x | z] at levels t (B,), (B, *shape)."""
        alpha, sigma = (column(v, z)[:, None] for v in (t.alpha, t.sigma))
        V = alpha.square() * self.variance + sigma.square()
        d = z[:, None] - alpha * self.mean
        r = (self.log_weight - 0.5 * (d.square() / V + V.log())).softmax(1)
        return (r * (self.mean + alpha * self.variance * d / V)).sum(1)

    def log_mass(self, values: Tensor, step: float) -> Tensor:
        """log of the mass that π puts near each of `values` (B, n, *shape), points of a lattice `step` apart: density
        times step, and a point mass where it stands; not normalised. (B, n, *shape)."""
        total: Tensor | None = None
        for m in range(self.mean.shape[1]):  # one component at a time: M times less memory
            log_w, mean, variance = (v[:, m : m + 1] for v in self)
            d = values - mean
            point = variance == 0
            spread = variance.masked_fill(point, 1.0)
            log_density = -0.5 * (d.square() / spread + (2 * math.pi / step**2 * spread).log())
            at_point = torch.zeros_like(d).masked_fill(d.abs() > 0.5 * step, -math.inf)
            one = log_w + torch.where(point, at_point, log_density)
            total = one if total is None else torch.logaddexp(total, one)
        assert total is not None
        return total


@dataclass(frozen=True, eq=False)
class Unread:
    """A mixture that a network's output (B, …) says, worked out by `how` where somebody asks; most are never asked."""

    raw: Tensor
    how: Callable[[Tensor], Mixture]

    def read(self) -> Mixture:
        """The mixture."""
        return self.how(self.raw)

    def each(self, change: Callable[[Tensor], Tensor]) -> Unread:
        """The same with its output changed."""
        return Unread(change(self.raw), self.how)

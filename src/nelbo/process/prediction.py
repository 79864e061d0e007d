"""Predictions: what a network says about x, and the conversions between the ways of saying it.

At a level with α, σ and z = α x + σ ε, each of

    eps   ε̂          x̂ = (z − σ ε̂)/α
    x0    x̂
    v     v̂ = α ε̂ − σ x̂     x̂ = (α z − σ v̂)/(α² + σ²),   ε̂ = (σ z + α v̂)/(α² + σ²)

determines the others (α² + σ² = 1 on the VP path). Source: Salimans & Ho 2022, app. D; Ho et al. 2020, eq. 15.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from torch import Tensor

from nelbo.equation import equation
from nelbo.process.levels import Levels, column
from nelbo.typing import member


class Output(enum.Enum):
    """What a network's output means."""

    EPS = "eps"
    X0 = "x0"
    V = "v"

    @classmethod
    def parse(cls, name: str | Output) -> Output:
        """The member called `name`. Errors: UnknownNameError listing the members."""
        return member(cls, name, "network output")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted at (z_t, t): x̂ (B, …), and where the network says so, more.

    log_probs: log p̂(code k | z_t) per pixel, (B, …, K), of a categorical posterior whose mean is x̂;
    variance: the network's raw variance output (B, …).
    """

    x0: Tensor
    log_probs: Tensor | None = None
    variance: Tensor | None = None

    def clipped(self, low: float, high: float) -> Prediction:
        """x̂ clamped to [low, high]; a categorical posterior is inside already and stays."""
        return replace(self, x0=self.x0.clamp(low, high))


@equation("x0-from-eps", "param-v")
def x0_from(output: Output, value: Tensor, z: Tensor, t: Levels) -> Tensor:
    """x̂ from a network's output `value` at noisy input z and levels t (B,); shapes (B, …)."""
    if output is Output.X0:
        return value
    alpha, sigma = column(t.alpha, z), column(t.sigma, z)
    if output is Output.EPS:
        return (z - sigma * value) / alpha
    return (alpha * z - sigma * value) / (alpha.square() + sigma.square())


@equation("param-v")
def from_x0(output: Output, x0: Tensor, z: Tensor, t: Levels) -> Tensor:
    """The inverse of `x0_from`: the output that says x̂ = x0 at z and levels t."""
    if output is Output.X0:
        return x0
    alpha, sigma = column(t.alpha, z), column(t.sigma, z)
    eps = (z - alpha * x0) / sigma
    return eps if output is Output.EPS else alpha * eps - sigma * x0


def convert(source: Output, target: Output, value: Tensor, z: Tensor, t: Levels) -> Tensor:
    """`value`, meant as `source`, said as `target`, at z and levels t (B,). Shapes (B, …)."""
    return from_x0(target, x0_from(source, value, z, t), z, t)

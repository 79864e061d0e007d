"""The quadratures of `quadrature` as tensors: means over a normal, integrals over an interval or an even line."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.equations.oracles import quadrature


def normal(n: int = 40) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights (n,): Σ w f(ε) = E f(ε), ε ~ N(0, 1), exact for polynomials up to 2n − 1."""
    return _tensors(quadrature.hermite(n))


def interval(low: float, high: float, n: int = 60) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights (n,): Σ w f(x) = ∫_low^high f."""
    return _tensors(quadrature.legendre(n, low, high))


def line(low: float = -8.0, high: float = 8.0, n: int = 1601) -> tuple[Tensor, Tensor]:
    """An even line and its trapezoid weights (n,): spectral accuracy where a smooth function vanishes at both ends."""
    return _tensors(quadrature.trapezoid(n, low, high))


def _tensors(rule) -> tuple[Tensor, Tensor]:
    points, weights = rule
    return torch.tensor(points), torch.tensor(weights)


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """log N(x; mean, variance), elementwise, through torch.distributions."""
    scale = torch.as_tensor(variance, dtype=torch.float64).sqrt()
    return torch.distributions.Normal(torch.as_tensor(mean, dtype=torch.float64), scale).log_prob(x)


def number(value: float) -> Tensor:
    """One float64 number; torch.tensor would round it to float32."""
    return torch.tensor(value, dtype=torch.float64)


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent draws (n,)."""
    return float(values.std()) / math.sqrt(len(values))

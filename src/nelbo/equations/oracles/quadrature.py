"""Quadrature in float64: expectations under normal laws, integrals over intervals, and the normal density."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

LOG_2PI = float(np.log(2 * np.pi))
Values = float | np.ndarray
Integrand = Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=32)
def hermite(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (n,) with Σ w f(x) = E f(X), X ~ N(0, 1), exact for polynomials of degree 2n − 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=32)
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)


def legendre(n: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (n,) with Σ w f(x) = ∫ f dx from low to high, exact for polynomials of degree 2n − 1."""
    nodes, weights = _legendre(n)
    half = 0.5 * (high - low)
    return low + half * (nodes + 1), half * weights


def trapezoid(n: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """n even nodes and their weights; of spectral accuracy where all derivatives vanish at both ends."""
    nodes = np.linspace(low, high, n)
    weights = np.full(n, (high - low) / (n - 1))
    weights[[0, -1]] *= 0.5
    return nodes, weights


def expectation(f: Integrand, mean: float = 0.0, variance: float = 1.0, n: int = 64) -> np.ndarray:
    """E f(X) of X ~ N(mean, variance); f maps (n,) to (..., n)."""
    nodes, weights = hermite(n)
    return np.asarray(f(mean + np.sqrt(variance) * nodes)) @ weights


def integral(f: Integrand, low: float, high: float, n: int = 64) -> np.ndarray:
    """∫ f(x) dx from low to high by Gauss–Legendre; f maps (n,) to (..., n)."""
    nodes, weights = legendre(n, low, high)
    return np.asarray(f(nodes)) @ weights


def log_normal(x: Values, mean: Values, variance: Values) -> np.ndarray:
    """log N(x; mean, variance), elementwise."""
    return -0.5 * ((x - mean) ** 2 / variance + np.log(variance) + LOG_2PI)


def normal(x: Values, mean: Values, variance: Values) -> np.ndarray:
    """N(x; mean, variance), elementwise."""
    return np.exp(log_normal(x, mean, variance))

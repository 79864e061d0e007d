"""The curve of a summed bound over a parameter: its minimum, its curvature and its level sets, from values on a grid.

Around the least value a polynomial is fitted by least squares to the grid values that are near it in nats. What is read
off the fit is linear in the values, so that Monte Carlo errors of the values are carried over exactly:

    θ̂: p′(θ̂) = 0,        I = p″(θ̂),        Var θ̂ = Var(p′(θ̂))/I²
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR = 12.0
"""Nats above the least value within which grid values are fitted."""
POINTS, DEGREE = 7, 6
"""Fewest values that are fitted where the grid has them, and the largest degree."""
_FINE = 2001


@dataclass(frozen=True)
class Minimum:
    """place: θ̂, at the edge of the grid where the curve falls towards it. information: I, nan at the edge. weights
    (J,): of the grid values in p′(θ̂)."""

    place: float
    information: float
    weights: np.ndarray
    inside: bool


@dataclass(frozen=True)
class Curve:
    """grid (J,) rising, and values (J,) nats."""

    grid: np.ndarray
    values: np.ndarray

    def _window(self) -> slice:
        """Neighbours of the least value that are near it, `POINTS` at least."""
        J, k = len(self.grid), int(self.values.argmin())
        low = high = k
        while high - low + 1 < J:
            left = self.values[low - 1] if low else math.inf
            right = self.values[high + 1] if high + 1 < J else math.inf
            if high - low + 1 >= min(POINTS, J) and min(left, right) > self.values[k] + NEAR:
                break
            low, high = (low - 1, high) if left <= right else (low, high + 1)
        return slice(low, high + 1)

    def _fit(self) -> tuple[np.polynomial.Chebyshev, slice]:
        part = self._window()
        degree = min(DEGREE, part.stop - part.start - 1)
        return np.polynomial.Chebyshev.fit(self.grid[part], self.values[part], degree), part

    def minimum(self) -> Minimum:
        """The least point of the fit within its window."""
        fit, part = self._fit()
        fine = np.linspace(self.grid[part][0], self.grid[part][-1], _FINE)
        place = float(fine[fit(fine).argmin()])
        slope, bend = fit.deriv(), fit.deriv(2)
        inside = fine[0] < place < fine[-1] and float(bend(place)) > 0
        if inside:
            place = float(np.clip(place - slope(place) / bend(place), fine[0], fine[-1]))
        units = np.eye(part.stop - part.start)
        degree = fit.degree()
        weights = np.zeros(len(self.grid))
        weights[part] = [np.polynomial.Chebyshev.fit(self.grid[part], u, degree).deriv()(place) for u in units]
        return Minimum(place, float(bend(place)) if inside else math.nan, weights, inside)

    def below(self, rise: float) -> tuple[float, float]:
        """The ends of the range around the minimum in which the curve is at most `rise` above it; infinite where the
        curve stays below up to the edge of the grid."""
        fit, part = self._fit()
        fine = np.linspace(self.grid[part][0], self.grid[part][-1], _FINE)
        above = fit(fine) - fit(fine).min() > rise
        k = int(fit(fine).argmin())
        left, right = above[: k + 1].nonzero()[0], above[k:].nonzero()[0]
        return (
            float(fine[left[-1]]) if len(left) else -math.inf,
            float(fine[k + right[0]]) if len(right) else math.inf,
        )

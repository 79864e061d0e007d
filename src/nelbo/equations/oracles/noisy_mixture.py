"""A 1-D mixture of Gaussians: density, distribution function, moments, draws, and the mixture after noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nelbo.equations.oracles.quadrature import log_normal

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True, eq=False)
class NoisyMixture:
    """weights, means, variances, each (M,)."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, weights, means, variances) -> NoisyMixture:
        """From anything array-like."""
        return cls(*(np.asarray(v, dtype=np.float64) for v in (weights, means, variances)))

    def noised(self, scale: float, variance: float) -> NoisyMixture:
        """The law of scale · x + N(0, variance)."""
        return NoisyMixture(self.weights, scale * self.means, scale**2 * self.variances + variance)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x), the shape of x."""
        each = np.log(self.weights) + log_normal(np.asarray(x)[..., None], self.means, self.variances)
        return _log_sum(each)

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(X ≤ x), the shape of x."""
        z = (np.asarray(x)[..., None] - self.means) / np.sqrt(2 * self.variances)
        return 0.5 * (1 + _erf(z)) @ self.weights

    @property
    def mean(self) -> float:
        """E X."""
        return float(self.weights @ self.means)

    @property
    def variance(self) -> float:
        """Var X."""
        return float(self.weights @ (self.variances + self.means**2) - self.mean**2)

    def log_reverse(self, x: np.ndarray, z: np.ndarray, scale: float, variance: float) -> np.ndarray:
        """log p(x | z) of z = scale · x + N(0, variance), component by component: weigh each one's own posterior."""
        spread = scale**2 * self.variances + variance
        each = np.log(self.weights) + log_normal(np.asarray(z)[..., None], scale * self.means, spread)
        gain = scale * self.variances / spread
        mean = self.means + gain * (np.asarray(z)[..., None] - scale * self.means)
        both = each + log_normal(np.asarray(x)[..., None], mean, self.variances * variance / spread)
        return _log_sum(both) - _log_sum(each)

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """n draws."""
        m = generator.choice(len(self.weights), size=n, p=self.weights)
        return self.means[m] + np.sqrt(self.variances[m]) * generator.standard_normal(n)


def _log_sum(values: np.ndarray) -> np.ndarray:
    top = values.max(-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(values - top).sum(-1))

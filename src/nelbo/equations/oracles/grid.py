"""A nonlinear chain in one dimension, by quadrature: mixture data, a perturbed denoiser, evidence on a grid.

The model density follows from the recursion  p(x_{t−1}) = ∫ N(x_{t−1}; μ_t(y), s_t) p(x_t = y) dy,  taken by the
trapezoid rule from the prior down to the data. Everything is smooth and dies out long before the ends of the grid, so
the rule converges faster than any power of the step. Expectations under q(x_{1:T} | x_0) are Gauss-Hermite sums over
the T normals of the path. numpy only: no function of the library is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nelbo.equations.oracles.quadrature import hermite, log_normal, trapezoid

Array = np.ndarray


@dataclass(frozen=True)
class LineMixture:
    """Σ_k w_k N(m_k, v_k) on the line; every method is elementwise."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]

    @cached_property
    def _columns(self) -> tuple[Array, Array, Array]:
        w, m, v = (np.array(values)[:, None] for values in (self.weights, self.means, self.variances))
        return w, m, v

    def _joint(self, z: Array, alpha: Array, sigma: Array) -> Array:
        """w_k N(z; α m_k, α² v_k + σ²), (K, N)."""
        w, m, v = self._columns
        return w * np.exp(log_normal(z, alpha * m, alpha**2 * v + sigma**2))

    def density(self, z: Array, alpha: Array | float = 1.0, sigma: Array | float = 0.0) -> Array:
        """Density of α x + σ ε at z (N,)."""
        return self._joint(z, np.asarray(alpha), np.asarray(sigma)).sum(0)

    def mean_given(self, z: Array, alpha: Array | float, sigma: Array | float) -> Array:
        """E[x | α x + σ ε = z], (N,): each component's regression, weighed by its share of the density."""
        alpha, sigma = np.asarray(alpha), np.asarray(sigma)
        _, m, v = self._columns
        share = self._joint(z, alpha, sigma)
        inner = m + alpha * v / (alpha**2 * v + sigma**2) * (z - alpha * m)
        return (share * inner).sum(0) / share.sum(0)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draws (count,)."""
        k = rng.choice(len(self.weights), count, p=self.weights)
        return np.array(self.means)[k] + np.sqrt(np.array(self.variances))[k] * rng.standard_normal(count)

    def nodes(self, n: int) -> tuple[Array, Array]:
        """Nodes and weights of E f(x): Gauss-Hermite inside every component."""
        x, w = hermite(n)
        _, m, v = self._columns
        return (m + np.sqrt(v) * x).ravel(), (np.array(self.weights)[:, None] * w).ravel()


@dataclass(frozen=True, eq=False)
class GridChain:
    """Forward chain of `betas` on `data`; x̂ from ε̂ = E[ε | x_t] + perturbation · sin(1.3 x_t + t), s_t = β_t for t ≥ 2.

    The decoder is N(x̂_1, decoder_variance), the prior N(0, 1). Index t is DDPM's, 0 … T; x is (N, T + 1).
    """

    betas: Array
    data: LineMixture
    perturbation: float
    decoder_variance: float

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> Array:
        """ᾱ_0 = 1, ᾱ_1, …, ᾱ_T as plain products."""
        return np.concatenate([[1.0], np.cumprod(1 - self.betas)])

    def noise(self, z: Array, t: Array | int) -> Array:
        """The network: ε̂ at z (N,) and steps t (N,) or one step."""
        alpha, sigma = np.sqrt(self.alpha_bar[t]), np.sqrt(1 - self.alpha_bar[t])
        best = (z - alpha * self.data.mean_given(z, alpha, sigma)) / sigma
        return best + self.perturbation * np.sin(1.3 * z + t)

    def x_hat(self, z: Array, t: int) -> Array:
        """x̂ = (z − √(1−ᾱ_t) ε̂)/√ᾱ_t."""
        return (z - np.sqrt(1 - self.alpha_bar[t]) * self.noise(z, t)) / np.sqrt(self.alpha_bar[t])

    def posterior(self, x0: Array, z: Array, t: int) -> tuple[Array, float]:
        """Mean and variance of q(x_{t−1} | x_t = z, x_0), t ≥ 2: two normal factors in x_{t−1}, precisions added."""
        marginal, step = 1 - self.alpha_bar[t - 1], self.betas[t - 1]
        shrink = np.sqrt(1 - step)
        precision = 1 / marginal + shrink**2 / step
        mean = (np.sqrt(self.alpha_bar[t - 1]) * x0 / marginal + shrink * z / step) / precision
        return mean, float(1 / precision)

    def reverse(self, z: Array, t: int) -> tuple[Array, float]:
        """Mean and variance of p(x_{t−1} | x_t = z)."""
        if t == 1:
            return self.x_hat(z, 1), self.decoder_variance
        return self.posterior(self.x_hat(z, t), z, t)[0], float(self.betas[t - 1])

    def log_q_step(self, x: Array, t: int) -> Array:
        """log q(x_t | x_{t−1})."""
        return np.asarray(log_normal(x[:, t], np.sqrt(1 - self.betas[t - 1]) * x[:, t - 1], self.betas[t - 1]))

    def log_q_path(self, x: Array) -> Array:
        """log q(x_{1:T} | x_0), (N,)."""
        return sum((self.log_q_step(x, t) for t in range(1, self.T + 1)), np.zeros(len(x)))

    def log_p_path(self, x: Array) -> Array:
        """log p(x_{0:T}), (N,)."""
        steps = (log_normal(x[:, t - 1], *self.reverse(x[:, t], t)) for t in range(1, self.T + 1))
        return np.asarray(sum(steps, log_normal(x[:, self.T], 0.0, 1.0)))

    def log_evidence(self, x0: Array, reach: float = 9.0, step: float = 0.02) -> Array:
        """log p(x_0) at the points x0 (N,), by the grid recursion."""
        y = np.arange(-reach, reach + step / 2, step)
        p = np.exp(log_normal(y, 0.0, 1.0))
        for t in range(self.T, 0, -1):
            mean, variance = self.reverse(y, t)
            onto = y if t > 1 else np.asarray(x0)
            p = np.exp(log_normal(onto[:, None], mean, variance)) @ p * step
        return np.log(p)

    def paths(self, x0: float, n: int) -> tuple[Array, Array]:
        """Nodes (n^T, T + 1) and weights of E f(x_0, x_{1:T}), x_{1:T} ~ q(· | x_0)."""
        nodes, weights = hermite(n)
        mesh = np.stack(np.meshgrid(*[nodes] * self.T, indexing="ij"), -1).reshape(-1, self.T)
        product = np.ones(1)
        for _ in range(self.T):
            product = np.multiply.outer(product, weights).ravel()
        return self._walk(np.full(len(mesh), float(x0)), mesh), product

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draws of q(x_{0:T}), (count, T + 1)."""
        return self._walk(self.data.sample(count, rng), rng.standard_normal((count, self.T)))

    def _walk(self, x0: Array, eps: Array) -> Array:
        x = [x0]
        for t in range(self.T):
            x.append(np.sqrt(1 - self.betas[t]) * x[-1] + np.sqrt(self.betas[t]) * eps[:, t])
        return np.stack(x, 1)

    def gap(self, x0: float, reach: float = 8.0, n: int = 240) -> tuple[float, float]:
        """(log p(x_0), KL(q(x_{1:2} | x_0) ‖ p(x_{1:2} | x_0))) for T = 2, both on one square of even nodes."""
        y, w = trapezoid(n, -reach, reach)
        first, second = np.meshgrid(y, y, indexing="ij")
        x = np.stack([np.full(n * n, float(x0)), first.ravel(), second.ravel()], 1)
        weight = np.outer(w, w).ravel()
        log_q, log_p = self.log_q_path(x), self.log_p_path(x)
        evidence = np.log((weight * np.exp(log_p)).sum())
        return float(evidence), float((weight * np.exp(log_q) * (log_q - (log_p - evidence))).sum())

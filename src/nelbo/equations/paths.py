"""The library's densities along a path x_0, x_1 … x_T: each kernel and each term by the library's own functions.

The bound is an expectation over paths; its derivations are statements about the integrand. `PathDensities` evaluates
that integrand, and each of its pieces, by the functions with which the library scores, trains and samples, so that an
equation checked here is checked for the library. Paths are (N, T + 1) float64 in one dimension, t is DDPM's
step (level t of the model is z_t, and x_0 the data); values are (N,) tensors in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.maths import gaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.testing import at_noise

Path = np.ndarray | Tensor


class PathDensities:
    """Log densities and terms of `model` along paths; the model's domain is one real number, its prior Gaussian."""

    def __init__(self, model: DiffusionModel):
        self.model = model
        self.levels = model.levels()
        assert isinstance(model.prior, GaussianPrior)
        self.prior = model.prior

    @property
    def T(self) -> int:
        """Number of levels."""
        return len(self.levels)

    def level(self, t: int, x: Tensor) -> Levels:
        """Level t ≥ 1, once for every row of x."""
        return self.levels[t - 1 : t].expand(len(x))

    def _pair(self, x: Path, t: int) -> tuple[Tensor, Tensor, Levels, Levels]:
        x = torch.as_tensor(x)
        return x[:, t - 1 : t], x[:, t : t + 1], self.level(t - 1, x), self.level(t, x)

    def log_q_step(self, x: Path, t: int) -> Tensor:
        """log q(x_t | x_{t−1}); the first step starts at the data."""
        if t == 1:
            return self.log_q_marginal(x, 1)
        z_s, z_t, s, level = self._pair(x, t)
        q = forward.transition(s, level)
        return gaussian.log_density(z_t, column(q.alpha, z_s) * z_s, column(q.variance, z_s))[:, 0]

    def log_q_marginal(self, x: Path, t: int) -> Tensor:
        """log q(x_t | x_0), the law of what `forward.noised` returns."""
        x = torch.as_tensor(x)
        level = self.level(t, x)
        mean = forward.noised(x[:, :1], torch.zeros_like(x[:, :1]), level)
        return gaussian.log_density(x[:, t : t + 1], mean, column(level.sigma.square(), mean))[:, 0]

    def log_q_posterior(self, x: Path, t: int) -> Tensor:
        """log q(x_{t−1} | x_t, x_0), t ≥ 2."""
        z_s, z_t, s, level = self._pair(x, t)
        mean = forward.posterior_mean(torch.as_tensor(x)[:, :1], z_t, s, level)
        return gaussian.log_density(z_s, mean, column(forward.posterior(s, level).variance, mean))[:, 0]

    def log_p_step(self, x: Path, t: int) -> Tensor:
        """log p_θ(x_{t−1} | x_t); the decoder at t = 1."""
        if t == 1:
            return -self.reconstruction(x)
        z_s, z_t, s, level = self._pair(x, t)
        mean, variance = self.model.reverse.step(z_t, self.model.predict(z_t, level), s, level)
        return gaussian.log_density(z_s, mean, variance)[:, 0]

    def log_prior(self, x: Path) -> Tensor:
        """log p(x_T)."""
        z = torch.as_tensor(x)[:, self.T]
        mean, variance = (torch.tensor(v, dtype=z.dtype) for v in (self.prior.mean, self.prior.variance))
        return gaussian.log_density(z, mean, variance)

    def log_q_path(self, x: Path) -> Tensor:
        """log q(x_{1:T} | x_0) = Σ log q(x_t | x_{t−1})."""
        return self._sum(lambda t: self.log_q_step(x, t), 1)

    def log_p_path(self, x: Path) -> Tensor:
        """log p_θ(x_{0:T}) = log p(x_T) + Σ log p_θ(x_{t−1} | x_t)."""
        return self.log_prior(x) + self._sum(lambda t: self.log_p_step(x, t), 1)

    def log_ratio(self, x: Path) -> Tensor:
        """log q(x_{1:T} | x_0)/p_θ(x_{0:T}), the integrand of the bound."""
        return self.log_q_path(x) - self.log_p_path(x)

    def step_ratio(self, x: Path, t: int) -> Tensor:
        """log q(x_{t−1} | x_t, x_0)/p_θ(x_{t−1} | x_t), t ≥ 2."""
        return self.log_q_posterior(x, t) - self.log_p_step(x, t)

    def step_kl(self, x: Path, t: int) -> Tensor:
        """L_{t−1} at (x_t, x_0), t ≥ 2, by `nelbo.bound.terms.diffusion`."""
        x = torch.as_tensor(x)
        s, level = self.level(t - 1, x), self.level(t, x)
        return at_noise.diffusion(self.model, x[:, :1], self._eps(x, t), s, level)

    def prior_kl(self, x: Path) -> Tensor:
        """L_T at x_0, by `nelbo.bound.terms.prior`."""
        return terms.prior(self.model, torch.as_tensor(x)[:, :1], self.levels[-1:])

    def reconstruction(self, x: Path) -> Tensor:
        """L_0 at (x_1, x_0), by `nelbo.bound.terms.reconstruction`."""
        x = torch.as_tensor(x)
        return at_noise.reconstruction(self.model, x[:, :1], x[:, :1], self._eps(x, 1), self.level(1, x))

    def three_terms(self, x: Path) -> Tensor:
        """L_T + Σ_{t≥2} L_{t−1} + L_0 at a path."""
        return self.prior_kl(x) + self._sum(lambda t: self.step_kl(x, t), 2) + self.reconstruction(x)

    def _eps(self, x: Tensor, t: int) -> Tensor:
        level = self.level(t, x)
        return (x[:, t : t + 1] - column(level.alpha, x) * x[:, :1]) / column(level.sigma, x)

    def _sum(self, term: Callable[[int], Tensor], first: int) -> Tensor:
        return sum((term(t) for t in range(first, self.T + 1)), torch.zeros((), dtype=torch.float64))

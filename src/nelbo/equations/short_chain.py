"""The short chain of four steps: its numbers by numpy alone, and the same as nelbo's forward process states them.

Capitals are the oracle's: β, α = 1 − β and ᾱ by the plain product, index t being DDPM's t, and the joint covariances of
(x_0, …, x_4) built from the kernels. The functions call the library.
"""

from __future__ import annotations

import numpy as np

from nelbo.equations.cases import BETAS, alpha_bars, chain, generator, tensor
from nelbo.equations.oracles import schur
from nelbo.maths import gaussian
from nelbo.process import forward

T = len(BETAS)
BETA = np.array([np.nan, *BETAS])
ALPHA = 1 - BETA
BAR = alpha_bars()
GIVEN_DATA = schur.chain_covariance(BETAS, 0.0)
JOINT = schur.chain_covariance(BETAS, 1.3)


def kernel(t: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and variance of nelbo's q(x_t | x_{t−1}), each (1,)."""
    levels = chain()
    step = forward.transition(levels[t - 1 : t], levels[t : t + 1])
    return step.alpha.numpy(), step.variance.numpy()


def posterior(t: int) -> np.ndarray:
    """Coefficients of x_0 and x_t and the variance of nelbo's q(x_{t−1} | x_t, x_0), (3,)."""
    levels = chain()
    q = forward.posterior(levels[t - 1], levels[t])
    return np.array([float(q.x_coefficient), float(q.z_coefficient), float(q.variance)])


def marginal(t: int) -> tuple[float, float]:
    """Scale and variance of nelbo's q(x_t | x_0), from `noised` itself."""
    t_level, one, zero = chain()[t : t + 1], tensor([[1.0]]), tensor([[0.0]])
    return float(forward.noised(one, zero, t_level)), float(forward.noised(zero, one, t_level)) ** 2


def points(n: int, seed: int) -> np.ndarray:
    """Arbitrary points (n, T + 1) at which densities are compared."""
    return generator(seed).normal(size=(n, T + 1))


def log_kernels(x: np.ndarray) -> np.ndarray:
    """Σ_t log q(x_t | x_{t−1}) by nelbo's kernels and density, (n,)."""
    total = np.zeros(len(x))
    for t in range(1, T + 1):
        scale, variance = kernel(t)
        total += gaussian.log_density(tensor(x[:, t]), tensor(scale * x[:, t - 1]), tensor(variance)).numpy()
    return total

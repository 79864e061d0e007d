"""Chains of 1-D Gaussians: the joint covariance from the kernels alone, and conditionals by Schur complements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chain_covariance(betas: Sequence[float], variance: float) -> np.ndarray:
    """Covariance (T + 1, T + 1) of (x_0, …, x_T): x_0 of this variance, x_t = √(1 − β_t) x_{t−1} + √β_t ε_t."""
    size = len(betas) + 1
    covariance = np.zeros((size, size))
    covariance[0, 0] = variance
    for t, beta in enumerate(betas, 1):
        scale = np.sqrt(1 - beta)
        covariance[t, :t] = covariance[:t, t] = scale * covariance[t - 1, :t]
        covariance[t, t] = scale**2 * covariance[t - 1, t - 1] + beta
    return covariance


def conditional(covariance: np.ndarray, of: Sequence[int], given: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(K, C) with x_of | x_given = N(K x_given, C) of a vector N(0, covariance)."""
    a, b = list(of), list(given)
    cross = covariance[np.ix_(a, b)]
    gain = np.linalg.solve(covariance[np.ix_(b, b)], cross.T).T
    return gain, covariance[np.ix_(a, a)] - gain @ cross.T


def log_density(x: np.ndarray, covariance: np.ndarray, mean: np.ndarray | float = 0.0) -> np.ndarray:
    """log N(x; mean, covariance) of vectors x (..., d)."""
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, np.moveaxis(np.atleast_2d(x - mean), -1, 0))
    constant = np.log(np.diag(factor)).sum() + 0.5 * len(factor) * np.log(2 * np.pi)
    return -0.5 * (white**2).sum(0) - constant


def log_conditional(x: np.ndarray, covariance: np.ndarray, of: Sequence[int], given: Sequence[int]) -> np.ndarray:
    """log p(x_of | x_given) at the rows of x (n, T + 1), of a vector N(0, covariance)."""
    gain, rest = conditional(covariance, of, given)
    return log_density(x[:, list(of)] - x[:, list(given)] @ gain.T, rest)

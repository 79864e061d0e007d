"""The bound of a DDPM by the formulas of the papers, in numpy's float64 and without a function of nelbo.

Ho et al. 2020, eq. 2, 4–7 and 13; Nichol & Dhariwal 2021, eq. 15; Salimans & Ho 2022 for v. The network is diffusers'
own object, called as its documentation says.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import log_ndtr


class Chain:
    """β_1 … β_T and what follows from them; i counts from 0."""

    def __init__(self, T: int, beta_1: float, beta_T: float):
        self.T = T
        self.beta = np.array([beta_1 + (beta_T - beta_1) * i / (T - 1) for i in range(T)])
        self.alpha_bar = np.cumprod(1 - self.beta)

    def q_sample(self, x, eps, i):
        return math.sqrt(self.alpha_bar[i]) * x + math.sqrt(1 - self.alpha_bar[i]) * eps

    def mean(self, x, z, i):
        """μ̃ of q(z_{i−1} | z_i, x), eq. 7."""
        ab, before = self.alpha_bar[i], self.alpha_bar[i - 1]
        a = math.sqrt(before) * self.beta[i] / (1 - ab)
        return a * x + math.sqrt(1 - self.beta[i]) * (1 - before) / (1 - ab) * z

    def small(self, i):
        """β̃_i; at the first step that of the second."""
        i = max(i, 1)
        return (1 - self.alpha_bar[i - 1]) / (1 - self.alpha_bar[i]) * self.beta[i]

    def variance(self, kind, u, i):
        if kind == "fixed_small":
            return self.small(i)
        if kind == "fixed_large":
            return self.beta[i]
        f = (u + 1) / 2
        return np.exp(f * np.log(self.beta[i]) + (1 - f) * np.log(self.small(i)))

    def x0(self, prediction, out, z, i):
        a, s = math.sqrt(self.alpha_bar[i]), math.sqrt(1 - self.alpha_bar[i])
        if prediction == "sample":
            return out
        return (z - s * out) / a if prediction == "epsilon" else a * z - s * out


def normal_kl(mean1, var1, mean2, var2):
    return 0.5 * (np.log(var2) - np.log(var1) + var1 / var2 + (mean1 - mean2) ** 2 / var2 - 1)


def log_mass(codes, mean, variance, K):
    """log of the mass of N(mean, variance) in the bin of each code on [−1, 1], the end bins open."""
    x, half, s = 2 * codes / (K - 1) - 1, 1 / (K - 1), np.sqrt(variance)
    low = np.where(codes == 0, -np.inf, (x - half - mean) / s)
    high = np.where(codes == K - 1, np.inf, (x + half - mean) / s)
    flip = low > 0  # the same mass in the lower tail, where the logarithm keeps its digits
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    a, b = log_ndtr(high), log_ndtr(low)
    return a + np.log1p(-np.exp(b - a))


def terms(unet, chain: Chain, config, codes: np.ndarray, eps: np.ndarray, K: int):
    """(prior, KL of each step i = 1..T−1, reconstruction) of codes (N, C, H, W) in nats; eps (T, N, C, H, W)."""
    x, N = 2 * codes / (K - 1) - 1, len(codes)
    C = x.shape[1]

    def predict(z, i):
        with torch.no_grad():
            out = unet(torch.from_numpy(z).float(), i).sample.double().numpy()
        x0 = chain.x0(config.prediction_type, out[:, :C], z, i)
        if config.clip_sample:
            x0 = np.clip(x0, -config.clip_sample_range, config.clip_sample_range)
        return x0, chain.variance(config.variance_type, out[:, C:], i)

    ab = chain.alpha_bar[-1]
    prior = normal_kl(math.sqrt(ab) * x, 1 - ab, 0.0, 1.0).reshape(N, -1).sum(1)
    steps = np.zeros((chain.T - 1, N))
    for i in range(1, chain.T):
        z = chain.q_sample(x, eps[i], i)
        x0, v = predict(z, i)
        kl = normal_kl(chain.mean(x, z, i), chain.small(i), chain.mean(x0, z, i), v)
        steps[i - 1] = kl.reshape(N, -1).sum(1)
    z = chain.q_sample(x, eps[0], 0)
    x0, v = predict(z, 0)
    return prior, steps, -log_mass(codes, x0, v, K).reshape(N, -1).sum(1)

"""The bound of a DDPM by the formulas of the papers, in numpy's float64 and without a function of nelbo.

Ho et al. 2020, eq. 2, 4–7 and 13; Nichol & Dhariwal 2021, eq. 15; Salimans & Ho 2022 for v. `terms_of_model` is what
nelbo computes on the same noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import log_ndtr

from nelbo.bound import terms as own
from nelbo.testing import at_noise


class Chain:
    """β_1 … β_T and what follows from them; i counts from 0."""

    def __init__(self, beta: np.ndarray):
        self.beta, self.alpha_bar = beta, np.cumprod(1 - beta)

    def q_sample(self, x, eps, i):
        return math.sqrt(self.alpha_bar[i]) * x + math.sqrt(1 - self.alpha_bar[i]) * eps

    def mean(self, x, z, i):
        """μ̃ of q(z_{i−1} | z_i, x), eq. 7."""
        ab, before = self.alpha_bar[i], self.alpha_bar[i - 1]
        a = math.sqrt(before) * self.beta[i] / (1 - ab)
        return a * x + math.sqrt(1 - self.beta[i]) * (1 - before) / (1 - ab) * z

    def small(self, i):
        """β̃_i."""
        return (1 - self.alpha_bar[i - 1]) / (1 - self.alpha_bar[i]) * self.beta[i]

    def variance(self, kind, u, i):
        return self.between(kind, u, self.small(i), self.beta[i])

    def of_decoder(self, kind, u, first):
        """At a first step, which has no β̃: between that of the next step and 1 − ᾱ, which is β_1 at step 1."""
        return self.between(kind, u, self.small(first + 1), 1 - self.alpha_bar[first])

    def between(self, kind, u, small, large):
        f = {"fixed_small": 0.0, "fixed_large": 1.0}.get(kind, (u + 1) / 2)
        return np.exp(f * np.log(large) + (1 - f) * np.log(small))

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


def terms(
    net,
    chain: Chain,
    codes: np.ndarray,
    eps: np.ndarray,
    K: int,
    prediction="epsilon",
    variance="fixed_small",
    clip=None,
    first=0,
):
    """(prior, KL of each step, reconstruction) of codes (N, C, …) in nats, at the noise eps (T, N, C, …).

    The chain begins at its step `first`; net(z, i) in numpy; x̂ is clipped to the pair `clip`.
    """  # fmt: skip
    x, N = 2 * codes / (K - 1) - 1, len(codes)
    C = x.shape[1]

    def noised(i):
        """z_i, x̂ and the raw variance there."""
        z = chain.q_sample(x, eps[i], i)
        out = net(z, i)
        x0 = chain.x0(prediction, out[:, :C], z, i)
        return z, x0 if clip is None else np.clip(x0, *clip), out[:, C:]

    ab = chain.alpha_bar[-1]
    prior = normal_kl(math.sqrt(ab) * x, 1 - ab, 0.0, 1.0).reshape(N, -1).sum(1)
    steps = []
    for i in range(first + 1, len(chain.beta)):
        z, x0, u = noised(i)
        v = chain.variance(variance, u, i)
        kl = normal_kl(chain.mean(x, z, i), chain.small(i), chain.mean(x0, z, i), v)
        steps.append(kl.reshape(N, -1).sum(1))
    _, x0, u = noised(first)
    v = chain.of_decoder(variance, u, first)
    return prior, np.stack(steps), -log_mass(codes, x0, v, K).reshape(N, -1).sum(1)


def terms_of_model(model, codes: torch.Tensor, eps: np.ndarray, first=0):
    """The same three by nelbo."""
    x, levels, e, N = model.domain.values(codes), model.levels(), torch.from_numpy(eps), len(codes)
    with torch.no_grad():
        steps = [
            at_noise.diffusion(model, x, e[first + j], levels[j - 1 : j].expand(N), levels[j : j + 1].expand(N))
            for j in range(1, len(levels))
        ]
        last = at_noise.reconstruction(model, x, codes, e[first], levels[:1].expand(N))
        return own.prior(model, x, levels[-1:]).numpy(), torch.stack(steps).numpy(), last.numpy()

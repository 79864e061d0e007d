"""The forward process q: how noise is added, and what it leaves known.

With s < t two levels (λ_s > λ_t), α, σ from `Levels`, and c = 1 − e^{λ_t − λ_s} = −expm1(λ_t − λ_s):

    q(z_t | x)      = N(α_t x, σ_t²)                                                       marginal
    q(z_t | z_s)    = N(α_{t|s} z_s, σ²_{t|s}),  α_{t|s} = α_t/α_s,  σ²_{t|s} = σ_t² c     transition
    q(z_s | z_t, x) = N(α_{t|s} (σ_s²/σ_t²) z_t + α_s c x,  σ_s² c)                        posterior

In DDPM's letters σ²_{t|s} = β_t and σ_s² c = β̃_t. (Kingma et al. 2021, app. A; Ho et al. 2020, eq. 2, 4, 6, 7.)
All levels are per example, shape (B,); z, x, eps have shape (B, …).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.process.levels import Levels, column


class Transition(NamedTuple):
    """q(z_t | z_s): scale α_{t|s} and variance σ²_{t|s} = β, each (B,)."""

    alpha: Tensor
    variance: Tensor


class Posterior(NamedTuple):
    """q(z_s | z_t, x): coefficients of z_t and of x, and the variance β̃, each (B,)."""

    z_coefficient: Tensor
    x_coefficient: Tensor
    variance: Tensor


class Spread(NamedTuple):
    """Of x ~ N(m, s²), with independent elements: z_t, and the mean and the standard deviation of x given z_t."""

    z: Tensor
    mean: Tensor
    std: Tensor


def one_minus_snr_ratio(s: Levels, t: Levels) -> Tensor:
    """c = 1 − SNR(t)/SNR(s) = −expm1(λ_t − λ_s), (B,), free of cancellation."""
    return -torch.expm1(t.logsnr - s.logsnr)


@equation("forward-marginal", "reparam-marginal", "diffusion-kernel-jump")
def noised(x: Tensor, eps: Tensor, t: Levels) -> Tensor:
    """A draw of q(z_t | x): z_t = α_t x + σ_t ε (Ho et al. 2020, eq. 4)."""
    return torch.addcmul(column(t.sigma, x) * eps, column(t.alpha, x), x)


def noised_spread(mean: Tensor, std: Tensor, eps: Tensor, t: Levels) -> Spread:
    """A draw of z_t of x ~ N(m, s²) by one normal for two, and what is then known of x; all (B, …):

    z_t = α m + √(σ² + α² s²) ε,    x | z_t ~ N(m + g (z_t − α m), s² σ²/(σ² + α² s²)),   g = α s²/(σ² + α² s²)
    """
    alpha, sigma = column(t.alpha, mean), column(t.sigma, mean)
    marginal = sigma.square() + (alpha * std).square()
    z = alpha * mean + marginal.sqrt() * eps
    middle = mean + alpha * std.square() / marginal * (z - alpha * mean)
    return Spread(z, middle, std * sigma / marginal.sqrt())


@equation("forward-transition-general", "forward-kernel", "reparam-step", "reparam-two-step")
def transition(s: Levels, t: Levels) -> Transition:
    """The kernel q(z_t | z_s) between any two levels s < t: α_{t|s} = α_t/α_s, σ²_{t|s} = σ_t² c."""
    alpha_ts = (t.log_alpha - s.log_alpha).exp()
    return Transition(alpha_ts, t.sigma.square() * one_minus_snr_ratio(s, t))


@equation("vdm-posterior", "forward-posterior", "posterior-variance")
def posterior(s: Levels, t: Levels) -> Posterior:
    """The posterior q(z_s | z_t, x): coefficients α_{t|s} σ_s²/σ_t² and α_s c, variance σ_s² c."""
    c = one_minus_snr_ratio(s, t)
    z_coefficient = (t.log_alpha - s.log_alpha + 2 * (s.log_sigma - t.log_sigma)).exp()
    return Posterior(z_coefficient, s.alpha * c, s.sigma.square() * c)


@equation("posterior-mean", "posterior-mean-eps")
def posterior_mean(x: Tensor, z_t: Tensor, s: Levels, t: Levels) -> Tensor:
    """The mean of q(z_s | z_t, x), shape of x (Ho et al. 2020, eq. 7)."""
    q = posterior(s, t)
    return column(q.z_coefficient, x) * z_t + column(q.x_coefficient, x) * x

r"""Differences of exponentials and logarithms that keep their digits.

All functions are elementwise, broadcast, compute in the dtype given, and have derivatives without NaN: a branch that
is not taken gets a harmless argument before it is computed. For a variance-preserving process with log-SNR lambda,

    alpha^2 = sigmoid(lambda),    sigma^2 = sigmoid(-lambda),    lambda = log_alpha2 - log1mexp(-log_alpha2)

and log(1 - exp(lambda_t - lambda_s)) = log1mexp(lambda_s - lambda_t) for s < t (Kingma et al. 2021, "Variational
diffusion models", sections 3.2 and 4; their gamma is -lambda).
"""

from __future__ import annotations

import torch
from torch import Tensor


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x >= 0; -inf at 0, NaN below.

    log(-expm1(-x)) for small x, log1p(-exp(-x)) for large: each where it keeps its digits (Maechler 2012, "Accurately
    computing log(1 - exp(-|a|))", equation 7; the cut is uncritical).
    """
    small = x < 0.7
    near = torch.log(-torch.expm1(-torch.where(small, x, 0.5)))
    far = torch.log1p(-torch.exp(-torch.where(small, 1.0, x)))
    return torch.where(small, near, far)


def x_minus_log1p(x: Tensor) -> Tensor:
    """x - log(1 + x) for x > -1, to full relative accuracy also near 0, where it is x^2 / 2.

    With u = x / (2 + x), log(1 + x) = 2 artanh u (Abramowitz and Stegun 1964, 4.1.27), whence

        x - log(1 + x) = u (x - 2 u^2 (1/3 + u^2/5 + u^4/7 + ...)),

    used for |x| < 1/4 (|u| < 1/7), where nothing cancels; the plain form elsewhere.
    """
    small = x.abs() < 0.25
    near = torch.where(small, x, 0.0)
    u = near / (2.0 + near)
    u2 = u * u
    series = torch.full_like(u, 1.0 / 21.0)
    for odd in range(19, 1, -2):
        series = series * u2 + 1.0 / odd
    far = torch.where(small, 1.0, x)
    return torch.where(small, u * (near - 2.0 * u2 * series), far - torch.log1p(far))


def expm1_difference(a: Tensor, b: Tensor) -> Tensor:
    """exp(a) - exp(b) = exp(b) expm1(a - b), written about the larger one, so that no factor overflows alone.

    Loses no digits but those of a - b itself. With a = lambda_s and b = lambda_t the difference of SNRs in the discrete
    loss of Kingma et al. 2021, section 4.
    """
    a, b = torch.broadcast_tensors(a, b)
    falling = a >= b
    return torch.where(
        falling,
        -torch.exp(torch.where(falling, a, 0.0)) * torch.expm1(torch.where(falling, b - a, 0.0)),
        torch.exp(torch.where(falling, 0.0, b)) * torch.expm1(torch.where(falling, 0.0, a - b)),
    )

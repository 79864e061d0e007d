"""Monotone rational-quadratic splines of the unit interval onto itself, with their derivative.

Between two knots (x_k, y_k), (x_{k+1}, y_{k+1}) with slopes d_k, d_{k+1}, s = (y_{k+1} − y_k)/(x_{k+1} − x_k) and
ξ = (x − x_k)/(x_{k+1} − x_k):

    y  = y_k + (y_{k+1} − y_k) (s ξ² + d_k ξ(1−ξ)) / N,          N = s + (d_{k+1} + d_k − 2s) ξ(1−ξ)
    y′ = s² (d_{k+1} ξ² + 2s ξ(1−ξ) + d_k (1−ξ)²) / N²

Source: Gregory & Delbourgo 1982, eq. 2.4; Durkan et al. 2019 (neural spline flows), eq. 4 and 5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-3
"""The least width, height and slope of a piece, so that the map and its inverse stay smooth."""


def parameters(pieces: int) -> int:
    """Numbers that a spline of so many pieces takes: widths, heights, and slopes at every knot."""
    return 3 * pieces + 1


def rational_quadratic(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """y and log dy/dx at x (…) in (0, 1), for splines of K pieces from unconstrained numbers raw (…, 3K + 1).

    Widths and heights are soft maxima of the first and second K numbers, slopes soft pluses of the rest; raw = 0 is
    the identity. y is strictly inside (0, 1) wherever x is.
    """
    K = (raw.shape[-1] - 1) // 3
    widths, heights = (LEAST + (1 - K * LEAST) * part.softmax(-1) for part in (raw[..., :K], raw[..., K : 2 * K]))
    offset = math.log(math.expm1(1 - LEAST))  # softplus of it is 1 − LEAST
    slopes = LEAST + torch.nn.functional.softplus(raw[..., 2 * K :] + offset)
    knots = widths.cumsum(-1)
    k = (x[..., None] >= knots[..., :-1]).sum(-1, keepdim=True)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index)[..., 0]

    width, height = at(widths, k), at(heights, k)
    left, below = at(knots, k) - width, at(heights.cumsum(-1), k) - height
    d_0, d_1 = at(slopes, k), at(slopes, k + 1)
    xi = ((x - left) / width).clamp(0, 1)
    s, mixed = height / width, xi * (1 - xi)
    N = s + (d_1 + d_0 - 2 * s) * mixed
    y = below + height * (s * xi.square() + d_0 * mixed) / N
    log_slope = 2 * s.log() + (d_1 * xi.square() + 2 * s * mixed + d_0 * (1 - xi).square()).log() - 2 * N.log()
    return y, log_slope

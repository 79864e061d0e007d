"""A log variance that is linear in features of the input, its numbers in tables over levels.

    log V = w_0 + Σ_k w_k g_k + h_k max(g_k, 0),     g_k = clip((f_k − m_k)/s_k, ±4)

w, h, m, s are tables over log-SNR, a row for each of some groups of coordinates, with planes of coordinates behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nelbo.errors import ShapeError
from nelbo.model.fitted import between, log_error_at
from nelbo.process.levels import Levels, column

CLIP = 4.0
"""Standard deviations to which a feature counts: beyond them nothing was seen when the weights were fitted."""
NOISE_FLOOR = 0.05
"""Energy of ε̂, whose mean is about 1, that counts as none."""


def log_linear(
    t: Levels, logsnr: Tensor, weights: Tensor, centres: Tensor, scales: Tensor, features: Iterable[Tensor]
) -> Tensor:
    """log V (B, *groups, H, W) at levels t (B,): weights (N, *groups, 1 + 2k), which are w_0, w and h; centres, scales
    (N, *groups, k); k features, each broadcastable to (B, *groups, H, W)."""
    count = centres.shape[-1]
    # w_0 is a log V and goes on like one beyond the nodes; all else is linear between them
    w0 = log_error_at(logsnr, weights[..., 0], t)
    w, m, s = (between(logsnr, v, t) for v in (weights[..., 1:], centres, scales))
    eta = column(w0, w0[..., None, None])
    w, h = w.split(count, -1)
    for k, f in enumerate(features):
        g = f.sub(m[..., k, None, None]).div_(s[..., k, None, None]).clamp_(-CLIP, CLIP)
        eta = torch.addcmul(eta, g, w[..., k, None, None])
        eta = eta.addcmul_(g.clamp_min_(0), h[..., k, None, None])
    return eta


def check_weights(of: str, groups: tuple[int, ...], features: int, **tables: Tensor) -> None:
    """Errors: ShapeError unless weights, centres and scales have rows of those groups and so many features."""
    for name, table in tables.items():
        wanted = (*groups, 1 + 2 * features if name == "weights" else features)
        if 0 in groups or tuple(table.shape[1:]) != wanted:
            raise ShapeError(
                f"{name} of shape {tuple(table.shape[1:])} a level for {of}",
                f"give {wanted} a level; fit the policy again",
            )

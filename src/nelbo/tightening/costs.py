"""What reverse steps cost, from any level and of any length: what the search for a chain needs.

A step from t to s has ρ = SNR(s) − SNR(t) = SNR(t) w, w = e^{λ_s − λ_t} − 1. In a coordinate whose error has the square
r² and for which the policy says V,

    KL = ½ [(1 + ρ r²)/(1 + ρ V) − 1 + log(1 + ρ V)],

where r = x − x̂ and V belong to t alone. The expectation over examples that V was not fitted to, summed over
coordinates, is a smooth function of λ_t and log w, kept in a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.process.levels import Levels

LOG_W = torch.linspace(-9.0, 21.0, 61, dtype=torch.float64)
"""log w of the table: from steps of a ten-thousandth of a log-SNR unit to the longest that a chain can take."""


@dataclass(frozen=True, eq=False)
class StepCost:
    """Mean KL of a step in nats an example, at log-SNRs (N,) falling and `LOG_W`: nats (N, len(LOG_W)) > 0."""

    logsnr: Tensor
    nats: Tensor

    def of(self, s: Levels, t: Levels) -> Tensor:
        """Nats of the steps t → s, elementwise over two `Levels` of one shape (M,)."""
        if not bool((s.logsnr > t.logsnr).all()):
            raise UsageError("the cost of a step that does not fall in log-SNR", "s is the level with less noise")
        return self.at(t.logsnr, torch.expm1(s.logsnr - t.logsnr))

    def at(self, logsnr_t: Tensor, w: Tensor) -> Tensor:
        """The same at λ_t and w: log KL is bilinear in λ_t and log w; below the table the KL is proportional to w."""
        log_w = w.log()
        below = (log_w - LOG_W[0]).clamp_max(0)
        table = self.nats.clamp_min(1e-300).log()
        i, a = _interval(-self.logsnr, -logsnr_t)
        j, b = _interval(LOG_W, log_w)
        next_i = (i + 1).clamp(max=len(self.logsnr) - 1)
        low, high = (torch.lerp(table[row, j], table[row, j + 1], b) for row in (i, next_i))
        return (torch.lerp(low, high, a) + below).exp()

    def between(self, levels: Levels) -> np.ndarray:
        """F (M, M): the cost of the step between any two of M levels i < j, 0 elsewhere; nats an example."""
        M = len(levels)
        F = np.zeros((M, M))
        i, j = (torch.from_numpy(v) for v in np.triu_indices(M, 1))
        w = torch.expm1(levels.logsnr[i] - levels.logsnr[j])
        F[i.numpy(), j.numpy()] = self.at(levels.logsnr[j], w).numpy()
        return F


def _interval(nodes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of the rising `nodes` that contains x, and the position of x in it, clamped to [0, 1]."""
    if len(nodes) == 1:
        return torch.zeros_like(x, dtype=torch.int64), torch.zeros_like(x)
    i = (torch.searchsorted(nodes, x.contiguous()) - 1).clamp(0, len(nodes) - 2)
    return i, ((x - nodes[i]) / (nodes[i + 1] - nodes[i])).clamp(0, 1)


def expected_kl(square: Tensor, V: Tensor, snr: float) -> Tensor:
    """E KL of coordinates at a level of `snr`, for every w of the table: (len(LOG_W), …), nats.

    square: r² or its mean, V: what the policy says; both of one shape.
    """
    rho = (snr * LOG_W.exp()).to(V).reshape(-1, *(1,) * V.ndim)
    x = rho * V
    return 0.5 * (rho * (square - V) / (1 + x) + torch.log1p(x))

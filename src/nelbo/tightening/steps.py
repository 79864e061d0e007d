"""What a step costs, of any length and from any level: the curve that a search for a grid needs.

A step from t to s has ρ = SNR(s) − SNR(t) = SNR(t) w, w = e^{λ_s − λ_t} − 1. In a coordinate whose error has the square
r² and for which the policy says V,

    KL = ½ [(1 + ρ r²)/(1 + ρ V) − 1 + log(1 + ρ V)],

of which r = x − x̂ and V belong to t alone. Its expectation over held-out examples, summed over coordinates, is a
smooth function of λ_t and log w, kept in a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.process.levels import Levels

LOG_W = torch.linspace(-9.0, 21.0, 61, dtype=torch.float64)
"""Lengths of steps in the table: from a ten-thousandth to the whole of a chain."""


@dataclass(frozen=True, eq=False)
class StepCost:
    """Mean KL of a step in nats an example, at log-SNRs (N,) falling and `LOG_W`: nats (N, len(LOG_W)) > 0."""

    logsnr: Tensor
    nats: Tensor

    def of(self, s: Levels, t: Levels) -> Tensor:
        """Nats of steps t → s, elementwise over two `Levels` of one shape (M,): bilinear in λ_t, log w and log KL.

        A shorter step costs in proportion to w, as every short step does.
        """
        if not bool((s.logsnr > t.logsnr).all()):
            raise UsageError("the cost of a step that does not fall in log-SNR", "s is the level with less noise")
        return self.at(t.logsnr, torch.expm1(s.logsnr - t.logsnr))

    def at(self, logsnr_t: Tensor, w: Tensor) -> Tensor:
        """The same at λ_t and w = e^{λ_s − λ_t} − 1."""
        wanted = w.log()
        short = (wanted - LOG_W[0]).clamp_max(0)
        table = self.nats.clamp_min(1e-300).log()
        i, a = _place(-self.logsnr, -logsnr_t)
        j, b = _place(LOG_W, wanted)
        next_i = (i + 1).clamp(max=len(self.logsnr) - 1)
        low, high = (torch.lerp(table[row, j], table[row, j + 1], b) for row in (i, next_i))
        return (torch.lerp(low, high, a) + short).exp()


def _place(nodes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of rising `nodes` that x falls into, and where in it, clamped to the ends."""
    if len(nodes) == 1:
        return torch.zeros_like(x, dtype=torch.int64), torch.zeros_like(x)
    i = (torch.searchsorted(nodes, x.contiguous()) - 1).clamp(0, len(nodes) - 2)
    return i, ((x - nodes[i]) / (nodes[i + 1] - nodes[i])).clamp(0, 1)


def expected(square: Tensor, V: Tensor, snr: float) -> Tensor:
    """E KL of one coordinate or many at a level of `snr`, for every w of the table: (len(LOG_W), …), nats.

    square: E r² or r², V: what the policy says; both of one shape.
    """
    rho = (snr * LOG_W.exp()).to(V).reshape(-1, *(1,) * V.ndim)
    x = rho * V
    return 0.5 * (rho * (square - V) / (1 + x) + torch.log1p(x))

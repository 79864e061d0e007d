"""Embedding of the log-SNR."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LogSNREmbedding(nn.Module):
    """λ (B,) → (B, width): sines and cosines of u = (λ − λ_min)/(λ_max − λ_min) at `frequencies`, then two layers.

    The lowest frequency turns by half a radian over the chain, so that its sine is monotone in λ.
    """

    def __init__(self, width: int, logsnr_max: float, logsnr_min: float, frequencies: int = 8):
        super().__init__()
        self.logsnr_max, self.logsnr_min = logsnr_max, logsnr_min
        self.register_buffer("frequency", torch.linspace(0.5, frequencies, frequencies), persistent=False)
        self.frequency: Tensor
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, logsnr: Tensor) -> Tensor:
        if not logsnr.is_floating_point():  # the index of a table
            logsnr = logsnr.to(self.frequency.dtype)
        u = (logsnr - self.logsnr_min) / (self.logsnr_max - self.logsnr_min)
        angle = u[:, None] * self.frequency.to(u.dtype)
        return self.layers(torch.cat([angle.sin(), angle.cos()], -1))

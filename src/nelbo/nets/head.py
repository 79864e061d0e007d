"""Output heads: from features to one value, or to K logits, for every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nelbo.typing import Shape


class ValueHead(nn.Module):
    """features (B, width) → (B, *shape): one linear layer, zero at the start, so that the first prediction is 0."""

    def __init__(self, width: int, shape: Shape):
        super().__init__()
        self.shape = tuple(shape)
        self.out = nn.Linear(width, math.prod(shape))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features).reshape(-1, *self.shape)


class LogitHead(nn.Module):
    """features (B, width) → logits over K codes, (B, *shape, K), of low rank:

        logits_dk = Σ_r a_dr(features) b_rk + c_dk.

    Every pixel says `rank` numbers a, which a basis b shared by all pixels turns into K logits; c starts as the log
    frequencies of the training codes and a as zero, so that the first prediction is the histogram's posterior. With
    basis functions 1, x_k, x_k² this would be a discretised Gaussian; the learned basis is the same idea, and
    generalises far better than K free logits a pixel.
    """

    def __init__(self, width: int, shape: Shape, codes: int, rank: int):
        super().__init__()
        self.shape, self.rank = tuple(shape), rank
        self.out = nn.Linear(width, math.prod(shape) * rank)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.basis = nn.Parameter(0.3 * torch.randn(rank, codes))
        self.bias = nn.Parameter(torch.zeros(*shape, codes))

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features).reshape(-1, *self.shape, self.rank) @ self.basis + self.bias

    @torch.no_grad()
    def start_at(self, log_frequencies: Tensor) -> None:
        """Begin from the per-pixel log frequencies of the codes, (*shape, K)."""
        self.bias.copy_(log_frequencies)


class PixelLogitHead(nn.Module):
    """coefficients (B, C·rank, H, W) → logits (B, *shape, K), the low-rank form of `LogitHead` after a convolution.

    c is one table a channel, so that its size does not grow with the image.
    """

    def __init__(self, shape: Shape, codes: int, rank: int):
        super().__init__()
        self.shape, self.rank = tuple(shape), rank
        self.basis = nn.Parameter(0.3 * torch.randn(rank, codes))
        self.bias = nn.Parameter(torch.zeros(1 if len(shape) == 2 else shape[0], codes))

    def forward(self, coefficients: Tensor) -> Tensor:
        B, _, H, W = coefficients.shape
        a = coefficients.reshape(B, -1, self.rank, H, W).movedim(2, -1)
        return (a @ self.basis + self.bias[:, None, None, :]).reshape(B, *self.shape, -1)

    @torch.no_grad()
    def start_at(self, log_frequencies: Tensor) -> None:
        """Begin from the log frequencies of the codes, averaged over pixels, of (*shape, K) tables."""
        C, K = self.bias.shape
        self.bias.copy_(log_frequencies.double().exp().reshape(C, -1, K).mean(1).log())

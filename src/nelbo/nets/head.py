"""Output heads: from features to one value, or to K logits, for every element."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nelbo.typing import Shape


class ValueHead(nn.Module):
    """features (B, width) → (B, outputs·n, …) for a shape (n, …): one linear layer, zero at the start, so that the
    first prediction is 0."""

    def __init__(self, width: int, shape: Shape, outputs: int = 1):
        super().__init__()
        self.shape = (outputs * shape[0], *shape[1:])
        self.out = nn.Linear(width, math.prod(self.shape))
        self.maps = MapsHead(outputs, shape) if outputs > 1 else nn.Identity()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.maps(self.out(features).reshape(-1, *self.shape))

    def start_at(self, values: Tensor) -> None:
        """Set the bias to one number a map, (outputs,)."""
        self.maps.start_at(values)  # type: ignore[operator]


class MapsHead(nn.Module):
    """Several numbers an element: (B, outputs·n, …) for a shape (n, …), map after map, plus a trained bias a map."""

    def __init__(self, outputs: int, shape: Shape):
        super().__init__()
        self.shape = tuple(shape)
        self.bias = nn.Parameter(torch.zeros(outputs, *(1,) * len(shape)))

    def forward(self, value: Tensor) -> Tensor:
        value = value.reshape(len(value), len(self.bias), *self.shape)
        return (value + self.bias).flatten(1, 2)

    @torch.no_grad()
    def start_at(self, values: Tensor) -> None:
        """Set the bias to one number a map, (outputs,)."""
        self.bias.copy_(values.reshape(self.bias.shape))


class LogitHead(nn.Module):
    """features (B, width) → logits over K codes, (B, *shape, K), of low rank:

        logits_dk = Σ_r a_dr(features) b_rk + c_dk.

    A basis b shared by all pixels turns `rank` numbers a of a pixel into K logits; c starts as the log frequencies of
    the training codes and a as zero, so that the first prediction is the histogram's posterior. With basis functions 1,
    x_k, x_k² this would be a discretised Gaussian; the learned basis is the same idea, and generalises far better than
    K free logits a pixel.
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
        """Set c to the per-pixel log frequencies of the codes, (*shape, K)."""
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
        """Set c to the log of the mean over pixels of the frequencies of the codes, from their logs (*shape, K)."""
        C, K = self.bias.shape
        self.bias.copy_(log_frequencies.double().exp().reshape(C, -1, K).mean(1).log())

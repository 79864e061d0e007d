"""A residual MLP for small inputs: vectors and images of a few hundred pixels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from nelbo.nets.embedding import LogSNREmbedding
from nelbo.nets.head import LogitHead, ValueHead
from nelbo.typing import Shape


class ResidualMLP(nn.Module):
    """z (B, *shape), λ (B,) → (B, *shape), or logits (B, *shape, codes) where a number of codes is given.

    outputs: numbers an element, on axis 1 (2: a learned variance behind the value); only without codes.
    h ← h + W_2 drop(SiLU(W_1 SiLU(LayerNorm(h)) + W_e e(λ))), `blocks` times, between a linear layer in and a head.
    """

    hidden = ("blocks",)
    """Names of the inner modules: all but the first and the last layers."""

    def __init__(
        self,
        shape: Shape,
        codes: int | None,
        logsnr_max: float,
        logsnr_min: float,
        width: int = 256,
        blocks: int = 2,
        dropout: float = 0.25,
        embedding: int = 64,
        rank: int = 3,
        outputs: int = 1,
    ):
        super().__init__()
        self.inner = nn.Linear(math.prod(shape), width)
        self.embedding = LogSNREmbedding(embedding, logsnr_max, logsnr_min)
        self.blocks = nn.ModuleList(_ResidualLayer(width, embedding, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = ValueHead(width, shape, outputs) if codes is None else LogitHead(width, shape, codes, rank)
        self.drop = nn.Dropout(dropout)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        e = self.embedding(logsnr)
        h = self.drop(self.inner(z.flatten(1)))
        for block in self.blocks:
            h = block(h, e)
        return self.head(self.norm(h))


class _ResidualLayer(nn.Module):
    def __init__(self, width: int, embedding: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.condition = nn.Linear(embedding, width)
        self.second = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        inner = self.first(nn.functional.silu(self.norm(h))) + self.condition(e)
        return h + self.second(self.drop(nn.functional.silu(inner)))

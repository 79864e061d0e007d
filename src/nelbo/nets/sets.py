"""A network over sets of points: attention without positions, so that the order of the points does not matter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from nelbo.errors import UsageError
from nelbo.nets.embedding import LogSNREmbedding
from nelbo.typing import Shape


class SetNetwork(nn.Module):
    """z (B, n, …), λ (B,), mask (B, n) → (B, n, …): points that are there (all where there is no mask) attend to each
    other; a permutation of the points permutes the output, and nothing depends on what the padding holds.

    A block is h ← h + attention and h ← h + two layers, of the normalised h, scaled and shifted by e(λ). The output is
    0 at the start. Sources: Lee et al. 2019 (attention over sets); Peebles & Xie 2023 (scale and shift).
    """

    hidden: tuple[str, ...]
    """Its inner layers, which Muon updates."""
    keywords = ("mask",)
    """What it takes besides z and λ."""

    def __init__(
        self,
        shape: Shape,
        codes: int | None,
        logsnr_max: float,
        logsnr_min: float,
        width: int = 64,
        blocks: int = 3,
        heads: int = 4,
        dropout: float = 0.0,
        embedding: int = 64,
    ):
        super().__init__()
        if codes is not None:
            raise UsageError("a network over sets gives values, and no logits of codes", "use net.head=plain")
        if min(width, heads, blocks) < 1 or width % heads:
            raise UsageError(
                f"a network over sets of width {width}, {blocks} blocks and {heads} heads",
                "give a block at least, and a width that is a multiple of the heads",
            )
        features = math.prod(shape[1:])
        self.inner = nn.Linear(features, width)
        self.embedding = LogSNREmbedding(embedding, logsnr_max, logsnr_min)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, embedding) for _ in range(blocks))
        self.hidden = tuple(f"blocks.{k}.{name}" for k in range(blocks) for name in ("qkv", "mix", "first", "second"))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, logsnr: Tensor, mask: Tensor | None = None) -> Tensor:
        points = z.reshape(len(z), z.shape[1], -1)
        if mask is not None:
            points = points.masked_fill(~mask[..., None], 0.0)
        h, e = self.inner(points), self.embedding(logsnr)
        keys = None if mask is None else mask[:, None, None]
        for block in self.blocks:
            h = block(h, e, keys)
        return self.out(self.norm(h)).reshape(z.shape)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, embedding: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(embedding, 4 * width)
        self.drop = nn.Dropout(dropout)
        for layer in (self.mix, self.second):
            nn.init.zeros_(layer.weight)
        for p in (self.second.bias, *self.modulation.parameters()):
            nn.init.zeros_(p)

    def forward(self, h: Tensor, e: Tensor, keys: Tensor | None) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = self.modulation(e)[:, None].chunk(4, -1)
        h = h + self.drop(self._attention(layer_norm(h, (self.width,)) * (1 + scale_1) + shift_1, keys))
        inner = layer_norm(h, (self.width,)) * (1 + scale_2) + shift_2
        return h + self.drop(self.second(gelu(self.first(inner))))

    def _attention(self, h: Tensor, keys: Tensor | None) -> Tensor:
        B, n, width = h.shape
        q, k, v = self.qkv(h).view(B, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.mix(torch.movedim(mixed, 1, 2).reshape(B, n, width))

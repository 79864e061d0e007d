"""A small U-Net for images: space-to-depth stem, residual blocks told the log-SNR, attention at the coarsest scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import ShapeError
from nelbo.nets.embedding import LogSNREmbedding
from nelbo.nets.head import MapsHead, PixelLogitHead
from nelbo.typing import Shape


class UNet(nn.Module):
    """z (B, C, H, W) or (B, H, W), λ (B,) → the same shape, or logits (…, codes) where a number of codes is given.

    The stem folds patch × patch pixels into channels, which on a CPU is worth a factor of three or four in speed; then
    len(multipliers) scales of `blocks` residual blocks each, the next one half as large, and back up with skips.
    width × multiplier channels must be multiples of 8. outputs: numbers an element, on axis 1 (2: a learned variance
    behind the value). fourier: the stem also sees sin and cos of 2π z/(P · step) for each period P, counted in steps
    between codes (Kingma et al. 2021, app. C, have periods of 1, 2 and 4 in their lattice).
    Errors: ShapeError for shapes that patches do not tile.
    """

    def __init__(
        self,
        shape: Shape,
        codes: int | None,
        logsnr_max: float,
        logsnr_min: float,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 2,
        attention: bool = True,
        dropout: float = 0.0,
        rank: int = 8,
        outputs: int = 1,
        fourier: Sequence[float] = (),
        step: float = 2 / 255,
    ):
        super().__init__()
        C, H, W = (1, *shape) if len(shape) == 2 else shape if len(shape) == 3 else (0, 0, 0)
        if C == 0 or H % patch or W % patch:
            raise ShapeError(
                f"a U-Net with patches of {patch} × {patch} for examples of shape {tuple(shape)}",
                "give images (H, W) or (C, H, W) whose sides the patch divides, or set net.patch=1",
            )
        e = 2 * width
        self.patch, self.planar = patch, len(shape) == 2
        self.embedding = LogSNREmbedding(e, logsnr_max, logsnr_min)
        self.frequencies = [2 * math.pi / (step * period) for period in fourier]  # no buffer: bf16 would round it
        self.stem = nn.Conv2d(C * (1 + 2 * len(fourier)) * patch**2, width, 3, padding=1)
        channels, skips = width, [width]
        self.down = nn.ModuleList()
        for i, m in enumerate(multipliers):
            last = i == len(multipliers) - 1
            for _ in range(blocks):
                self.down.append(_Block(channels, width * m, e, dropout, attention and last))
                channels = width * m
                skips.append(channels)
            if not last:
                self.down.append(_Halve(channels))
                skips.append(channels)
        self.middle = _Block(channels, channels, e, dropout, False)
        self.up = nn.ModuleList()
        for i, m in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                last = i == len(multipliers) - 1
                self.up.append(_Block(channels + skips.pop(), width * m, e, dropout, attention and last))
                channels = width * m
            if i:
                self.up.append(_Double(channels))
        self.norm = nn.GroupNorm(8, channels)
        self.out = nn.Conv2d(channels, C * (outputs if codes is None else rank) * patch**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.head = PixelLogitHead(shape, codes, rank) if codes is not None else nn.Identity()
        if codes is None and outputs > 1:
            self.head = MapsHead(outputs, shape)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        e = self.embedding(logsnr)
        image = z[:, None] if self.planar else z
        h = self.stem(F.pixel_unshuffle(self._features(image), self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, e)
            skips.append(h)
        h = self.middle(h, e)
        for layer in self.up:
            if isinstance(layer, _Double):
                h = layer(h, skips[-1].shape[-2:])
            else:
                h = layer(torch.cat([h, skips.pop()], 1), e)
        value = F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)
        return self.head(value.reshape(z.shape) if isinstance(self.head, nn.Identity) else value)

    def _features(self, image: Tensor) -> Tensor:
        if not self.frequencies:
            return image
        frequency = torch.tensor(self.frequencies, dtype=torch.float64, device=image.device)
        angle = image.double()[:, :, None] * frequency[:, None, None]
        return torch.cat([image, angle.sin().flatten(1, 2).to(image), angle.cos().flatten(1, 2).to(image)], 1)


class _Block(nn.Module):
    """GroupNorm, SiLU, convolution, twice, scaled and shifted by the level's embedding; then attention, where asked."""

    def __init__(self, inner: int, outer: int, embedding: int, dropout: float, attention: bool):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.condition = nn.Linear(embedding, 2 * outer)
        self.norm2, self.conv2 = nn.GroupNorm(8, outer), nn.Conv2d(outer, outer, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        self.attention = _Attention(outer) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.condition(e)[:, :, None, None].chunk(2, 1)
        inner = self.norm2(self.conv1(F.silu(self.norm1(h)))) * (1 + scale) + shift
        return self.attention(self.skip(h) + self.conv2(self.drop(F.silu(inner))))


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, channels), heads
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        B, C, H, W = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(B, 3, self.heads, C // self.heads, H * W).mT.unbind(1)
        return h + self.out(F.scaled_dot_product_attention(q, k, v).mT.reshape(B, C, H, W))


class _Halve(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return self.conv(h)


class _Double(nn.Module):
    """To the size of the skip it will meet, which need not be even: 7 × 7 comes back from 4 × 4."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(h, size=size, mode="nearest"))

"""A small U-Net for images: space-to-depth stem, residual blocks that take λ, attention at the coarsest scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.errors import ShapeError
from nelbo.nets.embedding import LogSNREmbedding
from nelbo.nets.head import MapsHead, PixelLogitHead
from nelbo.nets.noise_units import EndGate, NoiseUnits
from nelbo.typing import Shape


class UNet(nn.Module):
    """z (B, C, H, W) or (B, H, W), λ (B,) → the same shape, or logits (…, codes) where a number of codes is given.

    The stem folds patch × patch pixels into channels, which makes it three or four times as fast on a CPU; then follow
    len(multipliers) scales of `blocks` residual blocks each, every one half as large as the one before, and the way
    back up with skips. width × multiplier channels must be multiples of 8 (1.5 × 32 are 48).

    outputs: numbers an element, on axis 1 (2: the value, then a learned variance). fourier: further input of the stem:
    sin and cos of 2π z/(P · step) for each period P, in steps between codes (Kingma et al. 2021, app. C, have periods
    of 1, 2 and 4 in their lattice). shuffle: upsampling by a convolution at the coarse scale, whose channels become
    pixels. noise_units: further input of the stem: z in units of its noise (`NoiseUnits`). end_gate: the first output
    is ε̂, through an `EndGate`. ends: the least and the greatest value of the data, for both.
    Errors: ShapeError for shapes that patches do not tile; ValueError for a gate with logits.
    """

    hidden = ("down", "middle", "up")
    """Names of the inner modules: all but the first and the last layers."""

    def __init__(
        self,
        shape: Shape,
        codes: int | None,
        logsnr_max: float,
        logsnr_min: float,
        width: int = 32,
        multipliers: Sequence[float] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 2,
        attention: bool = True,
        dropout: float = 0.0,
        rank: int = 8,
        outputs: int = 1,
        fourier: Sequence[float] = (),
        step: float = 2 / 255,
        shuffle: bool = False,
        noise_units: bool = False,
        end_gate: bool = False,
        ends: Sequence[float] = (-1.0, 1.0),
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
        self.frequencies = [2 * math.pi / (step * period) for period in fourier]  # no buffer, which bf16 would round
        self.units = NoiseUnits(ends) if noise_units else None
        features = 1 + 2 * len(fourier) + (self.units.maps if self.units is not None else 0)
        self.stem = nn.Conv2d(C * features * patch**2, width, 3, padding=1)
        channels, skips = width, [width]
        widths = [round(width * m) for m in multipliers]
        self.down = nn.ModuleList()
        for i, wide in enumerate(widths):
            last = i == len(widths) - 1
            for _ in range(blocks):
                self.down.append(_Block(channels, wide, e, dropout, attention and last))
                channels = wide
                skips.append(channels)
            if not last:
                self.down.append(_Halve(channels))
                skips.append(channels)
        self.middle = _Block(channels, channels, e, dropout, False)
        self.up = nn.ModuleList()
        for i, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                last = i == len(widths) - 1
                self.up.append(_Block(channels + skips.pop(), wide, e, dropout, attention and last))
                channels = wide
            if i and shuffle:
                self.up.append(_Shuffle(channels, widths[i - 1]))
                channels = widths[i - 1]
            elif i:
                self.up.append(_Double(channels))
        self.norm = nn.GroupNorm(8, channels)
        self.out = nn.Conv2d(channels, C * (outputs if codes is None else rank) * patch**2, 3, padding=1)
        self.gate = _Gate(channels, C, patch, ends) if end_gate else None
        if end_gate and codes is not None:
            raise ValueError("an end gate is for a network that predicts eps, and not logits")
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.head = PixelLogitHead(shape, codes, rank) if codes is not None else nn.Identity()
        if codes is None and outputs > 1:
            self.head = MapsHead(outputs, shape)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        e = self.embedding(logsnr)
        logsnr = logsnr if logsnr.ndim == 1 else logsnr[:, 0]  # with a label behind it (ClassConditional)
        image = z[:, None] if self.planar else z
        h = self.stem(F.pixel_unshuffle(self._features(image, logsnr), self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, e)
            skips.append(h)
        h = self.middle(h, e)
        for layer in self.up:
            if isinstance(layer, _Double | _Shuffle):
                h = layer(h, skips[-1].shape[-2:])
            else:
                h = layer(torch.cat([h, skips.pop()], 1), e)
        h = F.silu(self.norm(h))
        value = F.pixel_shuffle(self.out(h), self.patch)
        value = self.head(value.reshape(z.shape) if isinstance(self.head, nn.Identity) else value)
        if self.gate is None:
            return value
        first = self.gate(h, value[:, : z.shape[1]].reshape(image.shape), image, logsnr)
        return torch.cat([first.reshape(z.shape), value[:, z.shape[1] :]], 1)

    def _features(self, image: Tensor, logsnr: Tensor) -> Tensor:
        units = [] if self.units is None else [self.units(image, logsnr)]
        return torch.cat([self._waves(image), *units], 1) if units else self._waves(image)

    def _waves(self, image: Tensor) -> Tensor:
        if not self.frequencies:
            return image
        frequency = torch.tensor(self.frequencies, dtype=torch.float64, device=image.device)
        angle = image.double()[:, :, None] * frequency[:, None, None]
        return torch.cat([image, angle.sin().flatten(1, 2).to(image), angle.cos().flatten(1, 2).to(image)], 1)


class _Gate(nn.Module):
    """An `EndGate` whose a is a convolution of the network's last features."""

    def __init__(self, channels: int, C: int, patch: int, ends: Sequence[float]):
        super().__init__()
        self.patch, self.gate = patch, EndGate(ends)
        self.conv = nn.Conv2d(channels, len(ends) * C * patch**2, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, between: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
        return self.gate(between, F.pixel_shuffle(self.conv(h), self.patch), z, logsnr)


class _Block(nn.Module):
    """GroupNorm, SiLU, convolution, twice, scaled and shifted by the level's embedding; then attention, if any."""

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
    """To the size of the next skip, which need not be even: from 4 × 4 to 7 × 7."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(h, size=size, mode="nearest"))


class _Shuffle(nn.Module):
    """To the size of the next skip, like `_Double`: four channels of the coarse scale become the pixels of one."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.conv = nn.Conv2d(inner, 4 * outer, 3, padding=1)

    def forward(self, h: Tensor, size: tuple[int, int]) -> Tensor:
        return F.pixel_shuffle(self.conv(h), 2)[..., : size[0], : size[1]]

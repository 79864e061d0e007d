"""Pictures of examples: many of them on one gray or colour scale, as the bytes of a PNG.

The encoder is the few lines that PNG needs (8 bits a channel, with alpha, so that the gaps between examples are
transparent), and writes the same bytes for the same input on every machine with the same zlib.
Source: PNG specification, W3C recommendation, second edition, 2003, sections 5 and 9.
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np

from nelbo.errors import ShapeError, UsageError

TARGET = 48
"""Pixels on the screen that the shorter side of a small example is enlarged to, at least."""


def grid(images: np.ndarray, low: float, high: float, *, columns: int | None = None, scale: int | None = None) -> bytes:
    """PNG bytes of `images` in rows of `columns` (√n where None), `low` as black and `high` as white.

    images: (n, H, W), or (n, C, H, W) with C = 3 as colour, C = 1 as gray and any other C as C gray pictures side by
    side; (n, D) as strips one pixel high. Codes or real values; values beyond [low, high] are drawn as its ends.
    scale: whole screen pixels for one pixel of the data; by default enough for small images to be seen.
    Errors: ShapeError for another number of axes or no images, UsageError for an empty scale.
    """
    tiles = _tiles(np.asarray(images))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"a gray scale from {low} to {high}", "give finite ends, the smaller first")
    if (columns is not None and columns < 1) or (scale is not None and scale < 1):
        raise UsageError(f"a grid of {columns} columns at scale {scale}", "give whole numbers ≥ 1")
    n, H, W, C = tiles.shape
    across = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / across)
    scale = scale or max(1, math.ceil(TARGET / max(1, min(max(H, TARGET // 12), W))))
    unit = np.nan_to_num((tiles.astype(np.float64) - low) / (high - low), nan=0.5)
    shades = np.rint(unit.clip(0, 1) * 255).astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
    h, w = H * scale, W * scale
    gap = max(1, round(min(h, w) / 16))
    canvas = np.zeros((rows * (h + gap) - gap, across * (w + gap) - gap, C + 1), np.uint8)
    for i, shade in enumerate(shades):
        top, left = i // across * (h + gap), i % across * (w + gap)
        canvas[top : top + h, left : left + w, :C] = shade
        canvas[top : top + h, left : left + w, C] = 255
    return encode_png(canvas)


def encode_png(pixels: np.ndarray) -> bytes:
    """The PNG of `pixels` (H, W, 2) gray and alpha or (H, W, 4) colour and alpha, uint8."""
    height, width, channels = pixels.shape
    colour_type = {2: 4, 4: 6}[channels]
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each line starts with its filter, 0: none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiles(images: np.ndarray) -> np.ndarray:
    """`images` as (n, H, W, 1 or 3)."""
    if images.ndim not in (2, 3, 4) or images.size == 0:
        raise ShapeError(
            f"pictures were asked of an array of shape {images.shape}",
            "give (n, H, W), (n, C, H, W) or (n, D) with at least one example",
        )
    if images.ndim == 2:
        return images[:, None, :, None]
    if images.ndim == 3:
        return images[..., None]
    if images.shape[1] == 3:
        return images.transpose(0, 2, 3, 1)
    n, C, H, W = images.shape
    return images.transpose(0, 2, 1, 3).reshape(n, H, C * W, 1)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

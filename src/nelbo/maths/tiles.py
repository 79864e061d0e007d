"""Rows at a time: on a CPU a pass over numbers that lie near the core takes a third of one over numbers that do not.

A chain of elementwise operations on a batch is therefore done on a few rows after the other. A GPU wants few and large
kernels and gets the whole. Values do not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1 << 16
"""Numbers of a tile a thread: 512 KiB of float64, a few of which fit into a core's second cache, and enough of them
that starting an operation costs little beside doing it."""


def tiles(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices that cut `rows` rows of `width` numbers into tiles; one slice where they are few, or not on a CPU."""
    if device.type != "cpu" or rows == 0:
        return [slice(0, rows)]
    height = max(1, NEAR * torch.get_num_threads() // max(1, width))
    return [slice(i, min(i + height, rows)) for i in range(0, rows, height)]


def squared_norm(a: Tensor, b: Tensor | None = None) -> Tensor:
    """‖a‖² or ‖a − b‖² of every row, (B,), for a, b (B, …). Differentiable; in tiles where no gradient is wanted."""
    if torch.is_grad_enabled() and (a.requires_grad or (b is not None and b.requires_grad)):
        return (a if b is None else a - b).square().flatten(1).sum(1)
    parts = []
    for rows in tiles(len(a), a[0].numel() if len(a) else 1, a.device):
        difference = a[rows] if b is None else a[rows] - b[rows]
        parts.append(
            torch.linalg.vector_norm(difference.flatten(1), dim=1).square()
        )  # one pass and no square in memory
    return torch.cat(parts) if len(parts) != 1 else parts[0]

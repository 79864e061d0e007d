"""A few rows at a time: on a CPU a pass over numbers in the cache takes a third of the time of one over memory.

A chain of elementwise operations on a batch is therefore done tile by tile. A GPU is faster with few, large kernels and
gets the whole batch at once. Values do not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1 << 16
"""Numbers in a tile, for each thread: 512 KiB of float64. A few tiles fit into the second-level cache of a core, and
a tile is large enough that starting an operation costs little compared with doing it."""


def tiles(rows: int, width: int, device: torch.device) -> list[slice]:
    """Slices that cut `rows` rows of `width` numbers into tiles; one slice where they are few, or not on a CPU."""
    if device.type != "cpu" or rows == 0:
        return [slice(0, rows)]
    height = max(1, NEAR * torch.get_num_threads() // max(1, width))
    return [slice(i, min(i + height, rows)) for i in range(0, rows, height)]


def squared_norm(a: Tensor, b: Tensor | None = None) -> Tensor:
    """‖a‖² or ‖a − b‖² of every row, (B,), for a, b (B, …). Differentiable; in tiles where no gradient is needed."""
    if torch.is_grad_enabled() and (a.requires_grad or (b is not None and b.requires_grad)):
        return (a if b is None else a - b).square().flatten(1).sum(1)
    parts = []
    for rows in tiles(len(a), a[0].numel() if len(a) else 1, a.device):
        difference = a[rows] if b is None else a[rows] - b[rows]
        norm = torch.linalg.vector_norm(difference.flatten(1), dim=1)  # one pass, and no square in memory
        parts.append(norm.square())
    return torch.cat(parts) if len(parts) != 1 else parts[0]

"""Codes that were stored as floats, and the line that makes integers of them again."""

from __future__ import annotations

import torch
from torch import Tensor

_LOOKED_AT = 1 << 16
"""Numbers that are looked at."""
_LEAST = 8
"""Values between the codes' ends, at least: fewer may be where they are by chance."""
_ROUNDING = 2e-6
"""Of a value from 0 to 1 in float32 after a few operations; half precision is as coarse as the codes themselves."""


def line(values: Tensor, K: int, whole: bool = True) -> str | None:
    """How to make codes 0..K−1 of real values (N, …) that are k/(K−1) or 2k/(K−1) − 1, or, where `whole`, k itself.

    None where the values are none of these.
    """
    rows = max(1, _LOOKED_AT // max(1, values[0].numel()))
    x = values[:rows].detach().flatten()[:_LOOKED_AT].double()
    if not len(x) or not bool(torch.isfinite(x).all()):
        return None
    low, high = float(x.min()), float(x.max())
    if whole and low >= 0 and high > 1 and high <= K - 1 and bool((x == x.round()).all()):
        return f"x.astype('{_type(K)}')"
    if low >= -_ROUNDING and high <= 1 + _ROUNDING and _on(x, K):
        return f"(x * {K - 1}).round().astype('{_type(K)}')"
    if low >= -1 - _ROUNDING and high <= 1 + _ROUNDING and _on((x + 1) / 2, K):
        return f"((x + 1) * {(K - 1) / 2:g}).round().astype('{_type(K)}')"
    return None


def _type(K: int) -> str:
    return "uint8" if K <= 256 else "int32"


def _on(unit: Tensor, K: int) -> bool:
    """Whether values from 0 to 1 are multiples of 1/(K−1), and not only the ends."""
    place = unit * (K - 1)
    near = bool(((place - place.round()).abs() <= _ROUNDING * (K - 1)).all())
    return near and int(((place > 0.5) & (place < K - 1.5)).sum()) >= _LEAST

"""Names for the few types that every floor speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Shape = tuple[int, ...]
Condition = Mapping[str, Tensor]
"""Explicit conditioning: keyword of the network -> one row an example, (N, ...)."""
Json = dict[str, Any]

__all__ = ["Condition", "Json", "Shape", "Tensor"]

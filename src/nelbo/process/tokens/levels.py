"""Noise levels of a chain over symbols: at each a symbol has survived with probability α, else it is noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenLevels:
    """Levels of any shape: unit times t, survival α_t, noise 1 − α_t (accurate where it is small), float64.

    index: position in a table of matrices, 0 for data, where the kernel is one.
    """

    t: Tensor
    alpha: Tensor
    noise: Tensor
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, which: slice | Tensor) -> TokenLevels:
        return TokenLevels(*(None if v is None else v[which] for v in self._fields()))  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> TokenLevels:
        """The same on a device."""
        return TokenLevels(*(None if v is None else v.to(device) for v in self._fields()))  # type: ignore[arg-type]

    def _fields(self) -> tuple[Tensor | None, ...]:
        return self.t, self.alpha, self.noise, self.index

    @classmethod
    def clean(cls, n: int, device: torch.device | str = "cpu") -> TokenLevels:
        """n times the level of the data."""
        zero = torch.zeros(n, dtype=torch.float64, device=device)
        return cls(zero, zero + 1, zero, zero.long())


def cells(v: Tensor) -> Tensor:
    """A number a row (B,), beside (B, L, V)."""
    return v[:, None, None]

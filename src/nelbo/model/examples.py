"""Examples: the data that are scored or trained on, with their name and fingerprints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """data (N, …): integer codes or real values, as read; name: where from; labels (N,) int64 where the form has them.

    Nothing here resizes, flips, drops or reorders. Position in `data` is the example's index in every key of noise.
    """

    data: Tensor
    name: str = "array"
    labels: Tensor | None = None
    bins: int | None = None
    """Number of codes a pixel may have, where the form of the data says so (17 for digits, 256 for bytes)."""

    def __post_init__(self):
        if self.bins is None and self.data.dtype == torch.uint8:
            object.__setattr__(self, "bins", 256)

    def __len__(self) -> int:
        return len(self.data)

    def first(self, n: int | None) -> Examples:
        """The first n examples (all where n is None)."""
        if n is None or n >= len(self):
            return self
        labels = None if self.labels is None else self.labels[:n]
        return Examples(self.data[:n], f"{self.name}[:{n}]", labels, self.bins)

    @cached_property
    def hashes(self) -> Tensor:
        """(N,) int64: 64 bits of BLAKE2b over each example's values in canonical form (int64 codes or float64)."""
        canonical = self.data.double() if self.data.is_floating_point() else self.data.long()
        rows = canonical.contiguous().flatten(1).cpu().numpy().astype("<f8" if canonical.is_floating_point() else "<i8")
        digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
        return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over shape, kind and the examples' hashes, in order."""
        head = f"{tuple(self.data.shape)} {'real' if self.data.is_floating_point() else 'codes'} "
        return hashlib.sha256(head.encode() + self.hashes.numpy().astype("<i8").tobytes()).hexdigest()

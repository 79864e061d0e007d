"""Examples that stay on disk: rows that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

STREAMED = 64 << 20
"""Bytes of decoded pictures from on which they are read when they are needed, and not all at once."""
_AT_ONCE = 256
"""Rows decoded at once where a piece of the data is gone through."""


class LazyRows:
    """Codes (N, *shape) uint8 behind a function that decodes some rows; in `Examples.data` in the place of a tensor.

    It has of a tensor what is asked of data: shape, dtype, length, indexing by a tensor of rows, a slice or a number,
    and `split`. Nothing is kept. Errors: those of decoding a row, as where its file has vanished.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, rows: Tensor, shape: tuple[int, ...], decode: Callable[[list[int]], Tensor]):
        self.rows, self.inner, self.decode = rows, shape, decode

    def as_data(self) -> Tensor:
        """Itself, under the type that `Examples` declares."""
        return cast(Tensor, self)

    @property
    def shape(self) -> torch.Size:
        """(N, *shape)."""
        return torch.Size((len(self.rows), *self.inner))

    @property
    def ndim(self) -> int:
        """Axes, that of the examples included."""
        return 1 + len(self.inner)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """The rows that a number, a slice or a tensor names, decoded."""
        if isinstance(index, int):
            return self.decode([int(self.rows[index])])[0]
        wanted = self.rows[index].tolist()
        return self.decode(wanted) if wanted else torch.empty(0, *self.inner, dtype=self.dtype)

    def select(self, rows: Tensor) -> LazyRows:
        """Some of the rows, undecoded."""
        return LazyRows(self.rows[rows], self.inner, self.decode)

    def reshape(self, *shape: int) -> Tensor:
        """The same codes with an axis of one channel more or less: (N, …)."""
        inner = tuple(shape[1:])
        return LazyRows(self.rows, inner, lambda rows: self.decode(rows).reshape(-1, *inner)).as_data()

    def split(self, size: int) -> Iterator[Tensor]:
        """Pieces of at most `size` rows, decoded one after the other."""
        for first in range(0, len(self), min(size, _AT_ONCE)):
            yield self[first : first + min(size, _AT_ONCE)]

    def is_floating_point(self) -> bool:
        """Codes are not."""
        return False

    def is_complex(self) -> bool:
        """Nor are they complex."""
        return False

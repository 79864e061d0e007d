"""`Guard`: real numbers rounded to whole ones in the same way by encoder and decoder.

What a network says differs in its last digits between batch sizes, threads and machines, and one number that is rounded
another way ruins everything after it. The encoder therefore writes down which way it rounded every number that lies
within the guard band τ of a boundary between two whole numbers; a decoder whose numbers are off by less than τ rounds
all others alike. Outside the band decoding is found out by its checksums.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nelbo.codec.stack import Damaged
from nelbo.errors import NumericalError

LARGEST = float(1 << 46)


class Guard:
    """Rounds with a band of `tau`; collects the exceptions of an encoder, or applies those that a decoder was given.

    An exception is (number of the rounding, position in its array, 0 down or 1 up); roundings are numbered by whoever
    asks for them, alike on both sides.
    """

    def __init__(self, tau: float, exceptions: Iterable[tuple[int, int, int]] | None = None):
        self.tau = tau
        self.decoding = exceptions is not None
        self.found: list[tuple[int, int, int]] = []
        self._given: dict[int, list[tuple[int, int]]] = {}
        for which, position, up in exceptions or ():
            self._given.setdefault(which, []).append((position, up))

    def __call__(self, values: np.ndarray, which: int, first: int = 0) -> np.ndarray:
        """`values` float64 rounded to int64; `first`: their place in the whole array of rounding `which`.

        Errors: NumericalError for NaN, infinity and the absurd (`Damaged` of a decoder).
        """
        if not bool(np.all(np.abs(values) < LARGEST)):
            if self.decoding:
                raise Damaged("numbers beyond all bounds")
            raise NumericalError(
                "the model says NaN, infinity or numbers beyond all bounds, which cannot be coded",
                "evaluate it on these images first: nelbo evaluate says where",
            )
        below = np.floor(values)
        part = values - below
        up = part >= 0.5
        if self.decoding:
            whole = below.astype(np.int64) + up
            flat = whole.reshape(-1)
            for position, bit in self._given.get(which, ()):
                if first <= position < first + flat.size:
                    flat[position - first] = int(below.reshape(-1)[position - first]) + bit
            return flat.reshape(values.shape)
        near = np.abs(part - 0.5) < self.tau
        if near.any():
            self.found += [(which, first + int(i), int(up.reshape(-1)[i])) for i in np.flatnonzero(near)]
        return below.astype(np.int64) + up

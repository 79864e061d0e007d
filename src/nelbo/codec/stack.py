"""`Stack`: the words that a coder pushes symbols on and pops them from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nelbo.codec.tables import CORRECTED, INVERSE, SPAN
from nelbo.errors import UsageError

LEAST = 1 << 32
"""The least valid state."""
START = 1 << 63
"""The state of an empty coder, and again after everything was popped; the bits in it need not be borrowed."""
SHIFTS = np.array([-512, -256, 0, 256, 512], np.int64)
"""256 log₂ κ of a mixture's Gaussians, κ of `model.context.KAPPA`: their widths relative to its own."""
GAUSSIAN = np.array([[0, 0, 0, 1 << 20, 0, 0]], np.int64)
"""The mixture that is one Gaussian."""
_NO_HISTOGRAM = np.zeros(1, np.int64)


class Damaged(Exception):
    """The bits of a chunk are not what any encoder writes."""


def kernels() -> Any:
    """The compiled coder. Errors: UsageError where numba is not installed."""
    try:
        from nelbo.codec import rans
    except ImportError as error:
        if not (error.name or "").startswith(("numba", "llvmlite")):
            raise
        raise UsageError(
            "compressing and decompressing need numba, which is not installed", 'pip install "nelbo[codec]"'
        ) from None
    return rans


class Stack:
    """Words with a 64-bit state above them. Every push and pop raises `Damaged` where the words do not allow it."""

    def __init__(self, words: np.ndarray, state: int):
        self._rans = kernels()
        self.buf = np.ascontiguousarray(words, np.uint32)
        self.state = np.array([state], np.uint64)
        self.pos = np.array([len(words), len(words)], np.int64)

    @property
    def height(self) -> int:
        """Words below the state."""
        return int(self.pos[0])

    @property
    def bits(self) -> float:
        """Bits that the stack holds."""
        return 32 * self.height + math.log2(int(self.state[0]))

    @property
    def least(self) -> int:
        """The least height since the last `mark`."""
        return int(self.pos[1])

    def mark(self) -> None:
        """Record the least height from here on."""
        self.pos[1] = self.pos[0]

    def push_normal(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray, key: int = 0) -> None:
        """Lattice points of Gaussians whose width is corrected for the lattice; int64 arrays of one size.

        key: that of a draw of q, whose bits are XORed with a mask made from it; 0 for what a model predicts.
        """
        self._reserve(5 * k.size)
        self._call(self._rans.push_normal, _flat(k), _flat(mean), _flat(width), CORRECTED, SPAN, np.uint64(key))

    def pop_normal(self, mean: np.ndarray, width: np.ndarray, key: int = 0) -> np.ndarray:
        """The inverse of `push_normal`; k in the shape of the means."""
        k = np.empty(mean.size, np.int64)
        self._reserve(8)
        self._call(self._rans.pop_normal, k, _flat(mean), _flat(width), CORRECTED, SPAN, np.uint64(key))
        return k.reshape(mean.shape)

    def push_masses(self, codes: np.ndarray, cost: np.ndarray) -> None:
        """Codes (n,) under masses ∝ e^{−cost/64}, cost (n, K)."""
        self._reserve(codes.size)
        self._call(self._rans.push_masses, _flat(codes), cost)

    def pop_masses(self, cost: np.ndarray) -> np.ndarray:
        """The inverse of `push_masses`."""
        codes = np.empty(len(cost), np.int64)
        self._call(self._rans.pop_masses, codes, cost)
        return codes

    def push_mixture(self, codes, K: int, mean, width, parts=GAUSSIAN, part=None, histogram=_NO_HISTOGRAM) -> None:
        """Codes (n,) of 0..K−1 under mixtures in units of codes; `part` (n,): the row of `parts` of each."""
        self._reserve(codes.size)
        self._mixture(self._rans.push_mixture, _flat(codes), K, mean, width, parts, part, histogram)

    def pop_mixture(self, K: int, mean, width, parts=GAUSSIAN, part=None, histogram=_NO_HISTOGRAM) -> np.ndarray:
        """The inverse of `push_mixture`."""
        codes = np.empty(mean.size, np.int64)
        self._mixture(self._rans.pop_mixture, codes, K, mean, width, parts, part, histogram)
        return codes

    def _mixture(self, kernel, codes: np.ndarray, K: int, mean, width, parts, part, histogram) -> None:
        part = np.zeros(codes.size, np.int64) if part is None else _flat(part)
        self._call(kernel, codes, K, _flat(mean), _flat(width), INVERSE, parts, part, SHIFTS, histogram)

    def _reserve(self, words: int) -> None:
        if self.height + words > len(self.buf):
            grown = np.zeros(max(2 * len(self.buf), self.height + words), np.uint32)
            grown[: self.height] = self.buf[: self.height]
            self.buf = grown

    def _call(self, kernel, *arguments) -> None:
        if not kernel(self.state, self.buf, self.pos, *arguments):
            raise Damaged("the bits do not decode")


def _flat(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int64).reshape(-1)


def key_of(seed: int, rounding: int) -> int:
    """The key of the draws whose mean has this number of rounding: two rounds of SplitMix64, never 0."""
    return _split_mix(_split_mix(seed) + rounding) or 1


def _split_mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)

"""What a coder counts: the seconds that it takes, and the bits that the model itself gives to what is encoded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nelbo.codec.lattice import MEAN_BITS
from nelbo.codec.tables import OCTAVE, PRECISION


@dataclass
class Clock:
    """Seconds spent in the network and its formulas, and in the coder itself."""

    network: float = 0.0
    coder: float = 0.0

    def time(self, what: str, do: Callable[[], Any]) -> Any:
        """The result of `do`, whose time is added to `what`."""
        started = time.perf_counter()
        try:
            return do()
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - started)


@dataclass
class Tally:
    """What is encoded by the model's own probabilities, in float64, at the latents that were drawn.

    bits: −log₂ p(x, z) + log₂ q(z | x), whose mean over z is the bound. The coder's tables give everything at least
    2⁻²⁴ and what is beyond 6.5 standard deviations an escape, where a model that is badly off gives it less: then the
    stack has fewer bits than these, and on lattices that are too wide it has more.
    rare_codes, rare_latents: how many have less than 2⁻²⁴ under the model, of all `codes` and `latents`.
    """

    bits: float = 0.0
    codes: int = 0
    latents: int = 0
    rare_codes: int = 0
    rare_latents: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def add_codes(self, bits: Tensor) -> None:
        """Codes pushed, of so many bits each."""
        self.bits += float(bits.sum())
        self.codes, self.rare_codes = self.codes + bits.numel(), self.rare_codes + int((bits > PRECISION).sum())

    def add_latents(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> None:
        """Lattice points pushed under Gaussians of the model with these means and widths, before rounding."""
        bits = gaussian_bits(k, mean, width)
        self.bits += float(bits.sum())
        self.latents, self.rare_latents = self.latents + k.size, self.rare_latents + int((bits > PRECISION).sum())

    def add_draws(self, k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> None:
        """Lattice points popped as draws of q, whose bits are given back."""
        self.bits -= float(gaussian_bits(k, mean, width).sum())


def gaussian_bits(k: np.ndarray, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """−log₂ of densities at lattice points k, in units of the lattice: ½ ((k − m)/s)² log₂ e + log₂(s √(2π)).

    mean, width: 2⁷ m and 256 log₂ s, not rounded.
    """
    octaves = np.broadcast_to(width / OCTAVE, k.shape)
    error = (k - mean / 2**MEAN_BITS) * 2.0**-octaves
    return 0.5 * error**2 / math.log(2) + octaves + 0.5 * math.log2(2 * math.pi)

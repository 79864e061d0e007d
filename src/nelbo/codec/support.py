"""Which models can be coded, with the remedy for the others, and how far a network's rounding has to be guarded."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.bitswap import Coder, rows_of
from nelbo.errors import NumericalError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.typing import Condition

MIN_TAU, MAX_TAU = 16, 26
"""Beyond 2⁻¹⁶ exceptions would cost more than 1e-3 bits per number; below 2⁻²⁶ they are too rare to matter."""
_MARGIN = 256
"""Safety factor: the difference is measured on a few images at a few levels, on one machine."""
_IMAGES = 4
_LEVELS = 8


def check(model: DiffusionModel) -> None:
    """Errors: UsageError where a model, or its grid, cannot be coded."""
    if not model.domain.discrete:
        raise UsageError(
            "the model is one of real numbers, and only integer codes can be kept without loss",
            "give a model of codes, DataDomain(shape, bins=K)",
        )
    if model.grid.continuous:
        raise UsageError(
            "the model's grid is continuous, and coding needs a finite number of steps",
            "choose a finite grid, model.with_grid(nelbo.grids.even(100)) or steps=100; few good steps are made by "
            "nelbo.tighten(model, data, steps=20, out=FOLDER)",
        )
    if not isinstance(model.prior, GaussianPrior):
        raise UsageError(
            f"the prior {model.prior.kind!r} is not Gaussian", "code a model whose prior is nelbo's GaussianPrior"
        )


def guard_band(coder: Coder, codes: Tensor, condition: Condition | None) -> int:
    """τ for a network, −log₂ of the guard band: 256 times the largest difference, in rounding units, between its
    numbers for one image at a time and for several, at noised images; the band is from 2⁻²⁶ to 2⁻¹⁶.

    Errors: NumericalError where they differ by more, as for a network that computes in float32 regardless of its dtype.
    """
    codes = codes[:_IMAGES]
    condition = rows_of(condition, slice(0, len(codes)))
    chain, x = coder.chain, coder.model.domain.values(codes)
    worst = 0.0
    levels = sorted({round(1 + i * (chain.L - 1) / (_LEVELS - 1)) for i in range(_LEVELS)} | {min(2, chain.L)})
    generator = np.random.Generator(np.random.PCG64(0))
    for j in levels:
        eps = torch.from_numpy(generator.standard_normal(tuple(x.shape)))
        z = forward.noised(x, eps, chain.level(j, len(x)))

        def numbers(rows: slice, j=j, z=z) -> np.ndarray:
            prediction = coder.predict(z, j, condition, rows)
            if j == 1:
                return coder.symbols.numbers(codes[rows], z[rows], chain.level(1, len(z[rows])), prediction)
            return np.concatenate([v.reshape(len(z[rows]), -1) for v in chain.reverse(z[rows], j, prediction)], 1)

        if j > 1 or coder.model.decoder.calls_network:
            worst = max(worst, difference(numbers, len(codes)))
    return tau_of(worst)


def tau_of(worst: float) -> int:
    """τ from the largest difference in rounding units. Errors: NumericalError."""
    tau = math.floor(-math.log2(max(_MARGIN * worst, 2.0**-60)))
    if tau < MIN_TAU:
        raise NumericalError(
            f"the network's outputs depend on the batch size: they differ by {worst:.1e} of a rounding unit, of which "
            f"at most {2.0**-MIN_TAU / _MARGIN:.1e} can be guarded against",
            "a network that computes in float64 throughout differs by 1e-10; look for float32 inside it (an embedding "
            "of time, an autocast), or for layers that mix the images of a batch",
        )
    return min(tau, MAX_TAU)


def difference(numbers: Callable[[slice], np.ndarray], n: int) -> float:
    """The largest difference between `numbers` of n images together and of each alone."""
    together = numbers(slice(0, n))
    alone = np.concatenate([numbers(slice(i, i + 1)) for i in range(n)])
    if not np.isfinite(together).all():
        raise NumericalError(
            "the model predicts NaN or infinity for these images, which cannot be coded",
            "evaluate it on them first: nelbo evaluate names the place",
        )
    return float(np.abs(together - alone).max())

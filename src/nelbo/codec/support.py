"""What can be coded, and what is refused with the remedy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nelbo.codec.groups import Coder
from nelbo.errors import NumericalError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.prior import GaussianPrior
from nelbo.process import forward
from nelbo.typing import Condition

LEAST_TAU, MOST_TAU = 16, 26
_MARGIN = 256
_LOOKED_AT = 4
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
            "the model's grid is continuous, and coding takes one step after the other",
            "choose a grid: --steps 100, or model.with_grid(nelbo.grids.even(100)); few good steps come from "
            "nelbo tighten MODEL --data DATA --steps 20 --out DIR",
        )
    if not isinstance(model.prior, GaussianPrior):
        raise UsageError(
            f"the prior {model.prior.kind!r} is no Gaussian", "code a model whose prior is nelbo's GaussianPrior"
        )


def guard_band(coder: Coder, codes: Tensor, condition: Condition | None) -> int:
    """−log₂ of the guard band for a network: 256 times what its outputs differ by between one image at a time and
    several, at noised images of its own; from 2⁻²⁶ to 2⁻¹⁶.

    Errors: NumericalError where they differ by more, as of a network that computes in float32 whatever it is told.
    """
    few = codes[:_LOOKED_AT]
    some = None if condition is None else {k: v[: len(few)] for k, v in condition.items()}
    chain, x = coder.chain, coder.model.domain.values(few)
    worst = 0.0
    chosen = sorted({round(1 + i * (chain.L - 1) / (_LEVELS - 1)) for i in range(_LEVELS)} | {min(2, chain.L)})
    generator = np.random.Generator(np.random.PCG64(0))
    for j in chosen:
        eps = torch.from_numpy(generator.standard_normal(tuple(x.shape)))
        z = forward.noised(x, eps, chain.level(j, len(x)))
        if j > 1:
            worst = max(worst, _spread(lambda rows, j=j, z=z: np.concatenate(
                [v.reshape(len(z[rows]), -1) for v in chain.reverse(z[rows], j, coder._predict(z, j, some, rows))], 1
            ), len(few)))  # fmt: skip
        elif coder.model.decoder.calls_network:
            worst = max(worst, _spread(lambda rows, z=z: coder.symbols.numbers(
                few[rows], z[rows], chain.level(1, len(z[rows])), coder._predict(z, 1, some, rows)
            ), len(few)))  # fmt: skip
    wanted = math.floor(-math.log2(max(_MARGIN * worst, 2.0**-60)))
    if wanted < LEAST_TAU:
        raise NumericalError(
            f"the network's outputs depend on the batch size: they differ by {worst:.1e} of a rounding unit, of which "
            f"at most {2.0**-LEAST_TAU / _MARGIN:.1e} can be guarded against",
            "a network that computes in float64 throughout differs by 1e-10; look for float32 inside it (an embedding "
            "of time, an autocast), or for layers that mix the images of a batch",
        )
    return min(wanted, MOST_TAU)


def _spread(numbers, n: int) -> float:
    together = numbers(slice(0, n))
    alone = np.concatenate([numbers(slice(i, i + 1)) for i in range(n)])
    if not np.isfinite(together).all():
        raise NumericalError(
            "the model says NaN or infinity of these images, which cannot be coded",
            "evaluate it on them first: nelbo evaluate says where",
        )
    return float(np.abs(together - alone).max())

"""`MapVariance`: a fitted variance of each pixel that depends on the pixel's surroundings.

log V of a pixel is linear, for each channel, in features of x̂ and of ε̂ = (z − α x̂)/σ at the pixel and around it. The
pixels stay uncorrelated, but on images with a background of one code, or with edges thinner than a block of cosines, it
is worth more to know where the errors are: a pixel that x̂ puts at the end of the range has almost none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from nelbo.errors import ShapeError, UsageError
from nelbo.model.fitted.basis import MIN_SIDE
from nelbo.model.fitted.log_linear import NOISE_FLOOR, LogLinearVariance
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Shape

SURROUNDINGS = 12
"""Features of a pixel."""
NEAR, FAR = 3, 7
"""Sides of the windows over which energies are averaged."""
_END = 0.005
"""Added to the distance from an end of the range, in halves of the range, before its logarithm is taken."""


@dataclass(frozen=True, eq=False)
class MapVariance(LogLinearVariance, kind="fitted_map"):
    """V of pixels, log-linear in their surroundings.

    The groups of the tables are the channels (C,). low, high: the range of x; the other fields are those of
    `LogLinearVariance`.
    """

    logsnr: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    mean: Tensor
    floor: float
    low: float
    high: float

    def __post_init__(self):
        C = self.weights.shape[1] if self.weights.ndim == 3 else 0
        self.check_tables((C,), SURROUNDINGS, f"pixels of {C} channels")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"pixels in the range [{self.low}, {self.high}]", "give finite ends, the smaller first")

    def features(self, t: Levels, prediction: Prediction) -> Iterator[Tensor]:
        return surroundings(t, prediction, self.floor, self.low, self.high)

    def assembled(self, values: Tensor, shape: torch.Size) -> Tensor:
        return values.reshape(shape)

    def check_shape(self, shape: Shape) -> None:
        if len(shape) not in (2, 3) or min(shape[-2:]) < MIN_SIDE:
            raise UsageError(
                f"a variance of pixels for examples of shape {tuple(shape)}",
                f"it needs images, (H, W) or (C, H, W) of at least {MIN_SIDE}×{MIN_SIDE}",
            )
        if math.prod(shape[:-2]) != self.weights.shape[1]:
            raise ShapeError(
                f"a variance of pixels in {self.weights.shape[1]} channels for examples of shape {tuple(shape)}",
                "they must agree; fit the policy to the model it is for",
            )


def surroundings(t: Levels, prediction: Prediction, floor: float, low: float, high: float) -> Iterator[Tensor]:
    """The `SURROUNDINGS` features of a prediction at levels t (B,), each broadcastable to (B, C, H, W).

    Of x̂: its position in the range and the square of it, the logarithms of its distances to both ends, and the
    logarithms of the energy of its slopes at the pixel, in a near window, in a far window and in the image. Of ε̂: the
    logarithms of its energy at the same four scales.
    """
    x0, z = prediction.x0, prediction.z
    assert z is not None, "DiffusionModel.predict carries z where the policy reads it"
    eps = (z - column(t.alpha, z) * x0) / column(t.sigma, z)
    x0, eps = (v.reshape(len(v), -1, *v.shape[-2:]) for v in (x0, eps))
    half = (high - low) / 2
    position = (x0 - (low + half)) / half
    yield position
    yield position.square()
    yield ((1 + position).clamp_min(0) + _END).log()
    yield ((1 - position).clamp_min(0) + _END).log()
    for energy, least in ((_slopes(x0), floor), (eps.square(), NOISE_FLOOR)):
        yield (energy + least).log()
        for side in (NEAR, FAR):
            yield (avg_pool2d(energy, side, 1, side // 2, count_include_pad=False) + least).log()
        yield (energy.mean((1, 2, 3), keepdim=True) + least).log()


def _slopes(x0: Tensor) -> Tensor:
    """Sum of the squared differences to the up to four neighbours of a pixel, (B, C, H, W)."""
    down, across = x0.diff(dim=-2).square(), x0.diff(dim=-1).square()
    return pad(down, (0, 0, 0, 1)) + pad(down, (0, 0, 1, 0)) + pad(across, (0, 1)) + pad(across, (1, 0))

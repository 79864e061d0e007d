"""A fitted variance of every pixel by itself, which depends on what is around it.

log V of a pixel is linear, per channel, in what x̂ and ε̂ = (z − α x̂)/σ are at the pixel and around it (`log_linear`).
No correlation is told, but where an image has a background of one code, or edges thinner than a block of cosines, the
place of the errors is worth more: at a pixel that x̂ puts at the end of the range there is next to none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from nelbo.errors import ShapeError, UsageError
from nelbo.model.basis import MIN_SIDE
from nelbo.model.fitted import Fitted, check_table, log_error_at
from nelbo.model.log_linear import NOISE_FLOOR, check_weights, log_linear
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Shape

SURROUNDINGS = 12
"""Features of a pixel."""
NEAR, FAR = 3, 7
"""Sides of the windows that energies are means over."""
_END = 0.005
"""Distance from an end of the range below which none is told, in halves of the range."""


@dataclass(frozen=True, eq=False)
class MapVariance(Fitted, kind="fitted_map"):
    """V of pixels, log-linear in their surroundings.

    logsnr (N,); weights (N, C, 1 + 2k), which are w_0, w and h; centres and scales (N, C, k); mean (N,), the mean V;
    floor: an energy of x̂ below which nothing counts, in units of x²; low, high: the range of x.
    """

    logsnr: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    mean: Tensor
    floor: float
    low: float
    high: float
    reads_state = True

    def __post_init__(self):
        check_table(self.logsnr, self.weights, self.centres, self.scales, self.mean)
        C = self.weights.shape[1] if self.weights.ndim == 3 else 0
        tables = {"weights": self.weights, "centres": self.centres, "scales": self.scales}
        check_weights(f"pixels of {C} channels", (C,), SURROUNDINGS, **tables)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"pixels in the range [{self.low}, {self.high}]", "give finite ends, the smaller first")

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        t = t.expand(len(prediction.x0))
        features = surroundings(t, prediction, self.floor, self.low, self.high)
        eta = log_linear(t, self.logsnr, self.weights, self.centres, self.scales, features)
        return eta.reshape(prediction.x0.shape).to(prediction.x0.dtype).exp()

    def mean_error(self, t: Levels) -> Tensor:
        return log_error_at(self.logsnr, self.mean.log(), t).exp()

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

    Of x̂: where it is in the range and the square of that, logarithms of its distance to both ends, and of the energy of
    its slopes at the pixel, near it, farther around it and in the image. Of ε̂: its energy at the same four.
    """
    x0, z = prediction.x0, prediction.z
    assert z is not None, "DiffusionModel.predict carries z where the policy reads it"
    eps = (z - column(t.alpha, z) * x0) / column(t.sigma, z)
    x0, eps = (v.reshape(len(v), -1, *v.shape[-2:]) for v in (x0, eps))
    half = (high - low) / 2
    place = (x0 - (low + half)) / half
    yield place
    yield place.square()
    yield ((1 + place).clamp_min(0) + _END).log()
    yield ((1 - place).clamp_min(0) + _END).log()
    for energy, least in ((_slopes(x0), floor), (eps.square(), NOISE_FLOOR)):
        yield (energy + least).log()
        for side in (NEAR, FAR):
            yield (avg_pool2d(energy, side, 1, side // 2, count_include_pad=False) + least).log()
        yield (energy.mean((1, 2, 3), keepdim=True) + least).log()


def _slopes(x0: Tensor) -> Tensor:
    """Sum of the squared differences to the four neighbours that are there, (B, C, H, W)."""
    down, across = x0.diff(dim=-2).square(), x0.diff(dim=-1).square()
    return pad(down, (0, 0, 0, 1)) + pad(down, (0, 0, 1, 0)) + pad(across, (0, 1)) + pad(across, (1, 0))

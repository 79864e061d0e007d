"""Clipping of x̂: what is done to a prediction before anything is computed from it."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.parts import Part
from nelbo.process.levels import column
from nelbo.process.prediction import Prediction


class Clipping(Part, family="clip"):
    """What is done to x̂ before anything is computed from it. Part of the model: it changes p_θ."""

    @abstractmethod
    def clipped(self, prediction: Prediction) -> Prediction:
        """The prediction with x̂ after the policy; each example by itself."""

    @abstractmethod
    def __str__(self) -> str:
        """What is done to x̂, in a few words."""


@numbers
@dataclass(frozen=True, eq=False)
class Clip(Clipping, kind="range"):
    """Clamp x̂ to [low, high]."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"clipping to [{self.low}, {self.high}]", "give finite ends, the smaller first")

    def clipped(self, prediction: Prediction) -> Prediction:
        return prediction.clipped(self.low, self.high)

    def __str__(self) -> str:
        return f"x̂ clipped to [{self.low}, {self.high}]"


@numbers
@dataclass(frozen=True, eq=False)
class Threshold(Clipping, kind="threshold"):
    """x̂ ← clamp(x̂, −s, s)/s, s the `ratio` quantile of |x̂| within the example, kept in [1, maximum].

    Dynamic thresholding (Saharia et al. 2022, §2.3). s is a function of the example's own x̂, so that p_θ(z_s | z_t)
    stays a Gaussian.
    """

    ratio: float
    maximum: float

    def __post_init__(self):
        if not (0 < self.ratio <= 1 and math.isfinite(self.maximum) and self.maximum >= 1):
            raise UsageError(
                f"thresholding at the quantile {self.ratio} up to {self.maximum}", "give 0 < ratio ≤ 1 ≤ maximum"
            )

    def clipped(self, prediction: Prediction) -> Prediction:
        x0 = prediction.x0
        # one example at a time: torch.quantile takes 16 million numbers at most
        s = torch.stack([torch.quantile(x.abs().flatten(), self.ratio) for x in x0]).clamp(1, self.maximum)
        s = column(s, x0)
        return replace(prediction, x0=torch.maximum(torch.minimum(x0, s), -s) / s)

    def __str__(self) -> str:
        return f"x̂ thresholded at its {self.ratio} quantile, at most {self.maximum}"

"""Spreads: the variance of a Gaussian decoder where it is the network's own, one number an element.

A decoder's variance is in units of x². Where the reverse steps have a fixed variance so has the decoder, a plain
number; where the network says the variance of its steps, what it says at the first level is the decoder's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from nelbo.errors import UsageError
from nelbo.parts import Part
from nelbo.process.prediction import Prediction


class Spread(Part, family="spread"):
    """Abstract: the variance of every element, from the network's prediction at the first level."""

    @abstractmethod
    def of(self, prediction: Prediction) -> Tensor:
        """The variance (B, …), in units of x². Errors: UsageError where the network says none."""


@dataclass(frozen=True, eq=False)
class RangeSpread(Spread, kind="learned_range"):
    """log variance = (1 − f) log low + f log high with f = (v + 1)/2, v the network's own; `low` is the β̃ number
    β_2 (1 − ᾱ_1)/(1 − ᾱ_2) of the full table and `high` is β_1."""

    low: float
    high: float

    def __post_init__(self):
        if not all(math.isfinite(v) and v > 0 for v in (self.low, self.high)):
            raise UsageError(f"a decoder variance between {self.low} and {self.high}", "give two finite numbers > 0")

    def of(self, prediction: Prediction) -> Tensor:
        f = 0.5 * (raw_variance(prediction) + 1)
        return ((1 - f) * math.log(self.low) + f * math.log(self.high)).exp()


@dataclass(frozen=True, eq=False)
class LogSpread(Spread, kind="learned_log"):
    """The network's second half is the log variance itself."""

    def of(self, prediction: Prediction) -> Tensor:
        return raw_variance(prediction).exp()


def raw_variance(prediction: Prediction) -> Tensor:
    """The network's raw variance output (B, …). Errors: UsageError where it has none."""
    if prediction.variance is None:
        raise UsageError(
            "a learned variance was asked of a network that says none",
            "declare variance='learned_range' or 'learned_log' with a network that returns twice the channels, or a "
            "fixed variance: 'beta_tilde', 'beta' or a table",
        )
    return prediction.variance

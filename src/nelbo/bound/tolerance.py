"""The standard error that an estimate is to reach: a number in bits/dim, or a share of the value, such as "5%"."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.maths.units import nats


@numbers
@dataclass(frozen=True)
class Relative:
    """A standard error of `share` times the absolute value of what is estimated: Relative(0.05) is written "5%"."""

    share: float

    def __post_init__(self):
        if not (math.isfinite(self.share) and self.share > 0):
            raise UsageError(f"tolerance={self}", _EXAMPLES)

    def __str__(self) -> str:
        return f"{100 * self.share:.6g}%"


Tolerance = float | Relative
_LEAST = 1e-100
"""Nats: the standard error for an estimate that is exactly 0, which nothing reaches."""
_EXAMPLES = "give a standard error above 0: in bits/dim, such as 0.01, or relative to the value, such as '5%'"


@numbers
def parse(tolerance: float | str | Relative) -> Tolerance:
    """The tolerance that a user gives: a number in bits/dim, or a string like "5%". Errors: UsageError."""
    if isinstance(tolerance, Relative):
        return tolerance
    number: object = tolerance
    if isinstance(tolerance, str):
        text = tolerance.strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            raise UsageError(f"tolerance={tolerance!r}", _EXAMPLES) from None
        if text.endswith("%") and math.isfinite(number) and number > 0:
            return Relative(number / 100)
    if not (isinstance(number, (int, float)) and math.isfinite(number) and number > 0):
        raise UsageError(f"tolerance={tolerance!r}", _EXAMPLES)
    return number


def in_nats(tolerance: Tolerance, value: float, dimensions: int) -> float:
    """The standard error in nats for an estimate of about `value` nats, of examples of D = `dimensions` numbers."""
    if isinstance(tolerance, Relative):
        return max(tolerance.share * abs(value), _LEAST)
    return float(nats(tolerance, dimensions))


def in_words(tolerance: Tolerance) -> str:
    """With its unit: "0.01 bits/dim" or "5% of the value"."""
    return f"{tolerance} of the value" if isinstance(tolerance, Relative) else f"{tolerance:g} bits/dim"

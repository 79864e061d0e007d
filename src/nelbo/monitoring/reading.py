"""`Reading`: what a monitor says at one step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nelbo.documents.numbers import fixed, without_nan
from nelbo.typing import Json


@dataclass(frozen=True)
class Reading:
    """The bound at a step of training in bits/dim with its standard error, and its changes since the reading before and
    since the best one before, each with the standard error of the paired difference (nan at the first reading).

    The errors are of the draws, about the bound of all examples; all readings share the draws, so that an error of the
    value is common to them and hardly one of a change. best: whether no value before was as low. evaluations: network
    evaluations that it took.
    """

    step: int
    value: float
    standard_error: float
    change: float = math.nan
    change_error: float = math.nan
    change_from_best: float = math.nan
    change_from_best_error: float = math.nan
    best: bool = True
    evaluations: int = 0
    seconds: float = 0.0

    def to_dict(self) -> Json:
        """As JSON, with null where there is no number."""
        return without_nan(vars(self))

    def __str__(self) -> str:
        text = f"step {self.step}: {fixed(self.value, 4)} ± {self.standard_error:.4f} bits/dim"
        if not math.isnan(self.change):
            text += f", {fixed(self.change, 4, '+')} ± {self.change_error:.4f} since the last"
            if (self.change_from_best, self.change_from_best_error) == (self.change, self.change_error):
                return f"{text}, the best" if self.best else text
            text += f", {fixed(self.change_from_best, 4, '+')} ± {self.change_from_best_error:.4f} since the best"
        return text

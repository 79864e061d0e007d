"""The sign of a value, asked at looks while draws are added.

The level 1 − confidence is shared out among the looks as among those of a race, so that the probability that a value is
ever called positive which is not, or negative, is at most that. When to look follows from the number of draws and from
the error bar, never from the value.
"""

from __future__ import annotations

import math

import torch

from nelbo.bound.contrast.race import LOOKS, Goal, threshold

_GROWTH = 2.0
"""Growth of the evaluations from one look to the next, but for the last."""
_MOST_FREEDOM = 1e6
FINER = 8.0
"""Standard errors from 0 at which a value is enough for its sign: more than any look asks for."""


class Sign:
    """Whether the sign of one value is known; never where no confidence is asked for."""

    def __init__(self, confidence: float | None):
        self.goal = None if confidence is None else Goal(confidence)
        self.known = False
        self._looks, self._last = 0, 0

    def anew(self) -> Sign:
        """For draws that are made anew: the looks that were made before have had their shares."""
        self._last = 0
        return self

    def look(self, value: float, variance: float, freedom: float, evaluations: int, last: bool) -> bool:
        """Whether it is known from a value with its variance of `freedom` degrees, by so many evaluations. Looks that
        come too soon after another are left out, except the `last`."""
        if self.goal is None or self._looks >= LOOKS or not (last or evaluations >= _GROWTH * self._last):
            return False
        degrees = torch.tensor(min(max(freedom, 2.0), _MOST_FREEDOM), dtype=torch.float64)
        bar = float(threshold(self.goal, self._looks, torch.ones((), dtype=torch.int64), degrees))
        self._looks, self._last = self._looks + 1, evaluations
        self.known = abs(value) > bar * math.sqrt(variance)
        return self.known

    def target(self, tolerance: float, value: float) -> float:
        """The standard error to plan for: of the tolerance, or less fine where the sign needs no more."""
        return tolerance if self.goal is None else max(tolerance, abs(value) / FINER)

"""The variance of differences that a race expects before it has seen any."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """What a pilot says of the variance of a difference between near conditions, nats².

    expected: of the mean of S = 1, 2, 4, … strata, see `Race`; with more strata it falls as 1/S. freedom: degrees that
    it counts as for any one example, few where examples differ. first: of a pair of draws of the first level's term,
    and first_share, how many of these there are for a stratum. first_look: strata of the first look. All that is of
    differences D as large as the nearest rivals have, D² = near; others vary ((D² + near)/2 near)^power times as much.
    """

    expected: tuple[float, ...]
    freedom: float
    first: float = 0.0
    first_share: float = 0.0
    first_look: int = 2
    near: float = 0.0
    power: float = 0.0

    @classmethod
    def flat(cls, variance: float, freedom: float) -> Spread:
        """Of draws whose places do not matter."""
        return cls((variance,), freedom)

    def with_look(self, strata: int) -> Spread:
        """The same with so many strata at the first look."""
        return replace(self, first_look=strata)

    def of(self, strata: Tensor) -> Tensor:
        """Expected variance of the mean of so many strata."""
        known = torch.tensor(self.expected, dtype=torch.float64)
        at = strata.clamp_min(1).log2().round().long().clamp_max(len(known) - 1)
        return known[at] * (2.0**at / strata.clamp_min(1)).clamp_max(1.0)

    def growth(self, differences: Tensor) -> Tensor:
        """How many times larger the variance of differences of this size is, at least 1."""
        if not self.near > 0:
            return torch.ones_like(differences)
        return ((differences.square() + self.near) / (2 * self.near)).clamp_min(1.0) ** self.power

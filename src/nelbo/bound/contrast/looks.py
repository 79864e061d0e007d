"""Means of draws that come in looks, and the half differences of neighbours that tell their variance."""

from __future__ import annotations

import torch
from torch import Tensor


class Looks:
    """Of B examples and C conditions: mean (B, C) of all draws, each look weighted by its number of draws; halves
    (B, K, C), whose squared differences add up to the variance of the mean's differences; count of draws of those that
    take part, and seen (B,) of each example."""

    def __init__(self, examples: int, conditions: int):
        self.count = 0
        self.seen = torch.zeros(examples, dtype=torch.int64)
        self.mean = torch.zeros(examples, conditions, dtype=torch.float64)
        self.halves = torch.zeros(examples, 0, conditions, dtype=torch.float64)

    def add(self, rows: Tensor, values: Tensor) -> None:
        """Take in S draws of the examples `rows` (A,), values (A, S, C) in the order of strata."""
        if self.count == values.shape[1] == 1:  # two single draws are neighbours
            values, self.count = torch.cat([self.mean[rows][:, None], values], 1), 0
        S = values.shape[1]
        share = S / (self.count + S)
        self.mean[rows] = (1 - share) * self.mean[rows] + share * values.mean(1)
        even = values[:, : S // 2 * 2]
        halves = torch.zeros(len(self.mean), S // 2, values.shape[2], dtype=torch.float64)
        halves[rows] = (even[:, 0::2] - even[:, 1::2]) * (share / S)
        kept = torch.ones(len(self.mean), dtype=torch.float64)
        kept[rows] = 1 - share
        self.halves = torch.cat([self.halves * kept[:, None, None], halves], 1)
        self.count += S
        self.seen[rows] = self.count

    @property
    def unpaired(self) -> Tensor:
        """Of a single draw that has no neighbour, its squared weight in the mean; 0 where there is none, (B,)."""
        return (self.seen % 2) / self.seen.clamp_min(1).double().square()

"""Examples that are drawn together in the per-example design, and how what is drawn again is averaged."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound.planned.summary import BINS


@dataclass(eq=False)
class Block:
    """Examples that are drawn together: their rows, the strata and first-level draws they had, where along the chain
    their values lie (BINS, 3), what the bins have shown (see `unseen.py`), and the third cumulant of the sum of their
    diffusion terms, nats³."""

    rows: Tensor
    weight: float = 0.0
    draws: int = 0
    strata: int = 0
    third: float = 0.0
    bins: Tensor = field(default_factory=lambda: torch.zeros(BINS, 3, dtype=torch.float64))
    shown: Tensor = field(default_factory=lambda: torch.zeros(BINS, 4, dtype=torch.float64))


def third_of_pairs(pairs: Tensor) -> float:
    """The third cumulant of the sum of n examples' means of pairs (n, K, 2), one pair in each of K strata.

    That of a pair's mean m is its covariance with (y_1 − y_2)²/4, its own variance. m is taken without the means of its
    example and of its stratum, which are independent of the pair but for its share in them.
    """
    n, K, _ = pairs.shape
    if n < 2 or K < 2:
        return 0.0
    mean = pairs.mean(2)
    own = mean - mean.mean(0) - mean.mean(1, keepdim=True) + mean.mean()
    share = (1 - 1 / n) * (1 - 1 / K)
    return float(((pairs[..., 0] - pairs[..., 1]).square() / 4 * own).sum()) / share / K**3


def merged(old: Tensor, new: Tensor, share: float) -> Tensor:
    """Values (n,) with `new` ones, which get a share of the average."""
    return new if share == 1 else old + share * (new - old)


def with_errors(every: Tensor, rows: Tensor, columns: int, errors: Tensor, share: float) -> Tensor:
    """Errors (N, k), where `rows` have `columns` of them, with `errors` (n, m) of these rows, whose values get a share
    of the average."""
    missing = columns + errors.shape[1] - every.shape[1]
    if missing > 0:
        every = torch.cat([every, every.new_zeros(len(every), missing)], 1)
    every[rows, :columns] *= 1 - share
    every[rows, columns : columns + errors.shape[1]] = share * errors
    return every

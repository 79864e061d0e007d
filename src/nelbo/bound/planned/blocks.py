"""Examples that are drawn together in the per-example design, and how what is drawn again is averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound.planned import collapsed, error_bars
from nelbo.bound.planned.collapsed import Collapsed
from nelbo.bound.planned.error_bars import Mean
from nelbo.bound.planned.regression import Features, TermFit
from nelbo.bound.planned.summary import BINS


@dataclass(eq=False)
class Block:
    """Examples that are drawn together: their rows, how many errors of both terms they have, where along the chain
    their values lie (BINS, 3), what the bins have shown (see `unseen.py`), and the third cumulant of the sum of their
    diffusion terms, nats³.

    twice: of examples that have one draw in every stratum, those that have two, see `collapsed.py`.
    """

    rows: Tensor
    twice: Block | None = None
    weight: float = 0.0
    draws: int = 0
    strata: int = 0
    third: float = 0.0
    bins: Tensor = field(default_factory=lambda: torch.zeros(BINS, 3, dtype=torch.float64))
    shown: Tensor = field(default_factory=lambda: torch.zeros(BINS, 4, dtype=torch.float64))
    of_diffusion: Collapsed = field(default_factory=Collapsed)
    of_reconstruction: Collapsed = field(default_factory=Collapsed)

    @property
    def parts(self) -> list[Block]:
        """What is drawn together: with examples that have nothing yet but single draws to come, those drawn twice."""
        return [self] if self.twice is None or self.draws else [self.twice, self]

    @property
    def for_each(self) -> float:
        """The number of examples with single draws for each that is drawn twice; 0 where there are none."""
        return len(self.rows) / len(self.twice.rows) if self.twice else 0.0


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


def with_ratio(errors: Tensor, blocks: Sequence[Block], term: str) -> tuple[Tensor, float]:
    """Errors (N, k) of a term, "of_diffusion" or "of_reconstruction", with collapsed ones times √R; and the degrees of
    freedom that R leaves to the sum of their squares, of which it multiplies a part."""
    single = [(b, getattr(b, term)) for b in blocks if b.twice is not None]
    ratio = collapsed.ratio([(own.known, b.for_each) for b, own in single if own.columns])
    if ratio.freedom == math.inf:
        return errors, math.inf
    errors, part = errors.clone(), 0.0
    for b, own in single:
        scaled = errors[b.rows, : own.columns] * math.sqrt(ratio.value)
        errors[b.rows, : own.columns] = scaled
        part += float(scaled[torch.isfinite(scaled)].square().sum())
    whole = float(errors[torch.isfinite(errors)].square().sum())
    return errors, ratio.freedom * (whole / part) ** 2 if part else math.inf


def mean_of(
    fit: TermFit, features: Features, done: Tensor, values: Tensor, squares: Tensor, freedom: int | Tensor
) -> Mean:
    """Mean over all examples and its variance, from `values` (N,) of those that are `done` and their squared errors of
    `freedom` degrees each; for the others the fit stands."""
    own, N = values[done], len(done)
    if len(own) == N:
        return Mean(float(own.mean()), *error_bars.of_squares(squares / N**2, freedom))
    if len(own) < 2:
        return Mean(0.0, math.inf, error_bars.FREEDOM)
    fitted = fit.mean.sum() + features.times(fit.total_weights)
    residual = error_bars.of_draws([own - fitted[done]], [1.0])
    return residual._replace(value=float(fitted.mean() + residual.value))

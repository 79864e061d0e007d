"""The mean of two random terms and its variance, from strata with two draws each and draws of the first level.

Of draws at common noise the differences are draws, too: of two declarations of a network (`nelbo diagnose`), or of one
network at two moments of its training (`Monitor`). Then this is their difference, with the error of paired draws.
"""

from __future__ import annotations

from torch import Tensor

from nelbo.bound.planned import error_bars


def estimate(one: Tensor, other: Tensor, first: Tensor) -> tuple[float, float]:
    """Value and variance, from the two draws one, other (S,) of every stratum of the chain and first (R,), R ≥ 1; of a
    single one of these no variance is known, and none is counted.

        mean of all along the chain + mean of first,        Σ_k (one_k − other_k)²/(4 S²) + var(first)/R
    """
    S, R = len(one), len(first)
    value = float(first.mean()) + (float((one.mean() + other.mean()) / 2) if S else 0.0)
    between = float((one - other).square().sum()) / (4 * S**2) if S else 0.0
    return value, between + (float(first.var()) / R if R > 1 else 0.0)


def widened(one: Tensor, other: Tensor, first: Tensor) -> float:
    """The variance of `estimate` for an error bar: where these are all draws there are, for how few they are (see
    `planned/error_bars.py`). Variances that are added up over many estimates are not widened one by one."""
    S, R = len(one), len(first)
    between = error_bars.of_squares(((one - other) / (2 * S)).square())[0] if S else 0.0
    return between + (error_bars.of_draws([first], [1.0]).variance if R > 1 else 0.0)

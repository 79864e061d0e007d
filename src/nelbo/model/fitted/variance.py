"""Fitted variances of reverse steps: the variance of the denoiser's errors enters the covariance of p_θ(z_s | z_t).

Given z_t, the error r = x − x̂ has a variance V in each coordinate, and the best Gaussian step has (Bao et al. 2022,
theorem 1, of which this is the form for a basis)

    v_θ = β̃ + (α_s c)² V,       c = 1 − e^{λ_t − λ_s},

whatever the level s. A policy therefore holds V at levels t alone and serves every step of every grid. Between the
levels where it was fitted, V is interpolated in log-SNR; above the first of them it falls like 1/SNR, below the last it
is constant. As steps grow finer v_θ/β̃ → 1, so that the continuous bound is that of β̃.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.errors import ShapeError, UsageError
from nelbo.model.fitted.basis import Basis
from nelbo.model.reverse import Variance
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Shape


class Fitted(Variance):
    """Abstract: a policy that holds the variance V of x − x̂."""

    named = False

    @abstractmethod
    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        """V of the coordinates of x − x̂ at levels t (B,), in units of x²; broadcastable to (B, …)."""

    @abstractmethod
    def mean_error(self, t: Levels) -> Tensor:
        """V at levels (M,) as one number each: its mean over coordinates, and over inputs where it depends on them."""

    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        q = forward.posterior(s, t)
        V = self.error(t, prediction)
        return column(q.variance, V) + column(q.x_coefficient, V).square() * V

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(self.mean_error(first.expand(1)))

    def typical(self, s: Levels, t: Levels) -> Tensor:
        q = forward.posterior(s, t)
        return q.variance + q.x_coefficient.square() * self.mean_error(t)


@dataclass(frozen=True, eq=False)
class FittedVariance(Fitted, kind="fitted"):
    """V from a table: log V (N, …) at N falling log-SNRs, every row broadcastable to an example's coordinates.

    (N, 1, …) is one number a level, (N, C, 1, 1) one a channel, (N, *shape) one a coordinate of `basis`.
    """

    basis: Basis
    logsnr: Tensor
    log_error: Tensor

    def __post_init__(self):
        check_table(self.logsnr, self.log_error)

    def coordinates(self, values: Tensor, t: Levels) -> Tensor:
        return self.basis.coordinates(values)

    def values(self, coordinates: Tensor, t: Levels) -> Tensor:
        return self.basis.values(coordinates)

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        return log_error_at(self.logsnr, self.log_error, t).to(prediction.x0.dtype).exp()

    def mean_error(self, t: Levels) -> Tensor:
        return log_error_at(self.logsnr, self.log_error, t).exp().flatten(1).mean(1)

    def check_shape(self, shape: Shape) -> None:
        self.basis.check(shape)
        check_rows(self.log_error, shape)


@dataclass(frozen=True, eq=False)
class CalibratedVariance(Fitted, kind="fitted_learned"):
    """V from the variance that a network predicts, calibrated: log V = offset + weight · u at each level.

    u: for a learned range log f, f = (v + 1)/2 and at least 1e-3, because V is roughly proportional to f; for a learned
    log variance the network's output. weight = 1 keeps the network's ratios between elements, weight = 0 makes V one
    number. offset, weight (N, …) as in `FittedVariance`; mean (N,): the mean of V.
    """

    logsnr: Tensor
    offset: Tensor
    weight: Tensor
    mean: Tensor
    logarithmic: bool = False
    """Whether the network's output is a log variance."""
    learned = True

    def __post_init__(self):
        check_table(self.logsnr, self.offset, self.weight, self.mean)

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        weight, offset = interpolated(self.logsnr, self.weight, t), log_error_at(self.logsnr, self.offset, t)
        return (offset + weight * predicted_log_variance(prediction, self.logarithmic)).exp()

    def mean_error(self, t: Levels) -> Tensor:
        return log_error_at(self.logsnr, self.mean.log(), t).exp()

    def check_shape(self, shape: Shape) -> None:
        check_rows(self.offset, shape)
        check_rows(self.weight, shape)


def predicted_log_variance(prediction: Prediction, logarithmic: bool) -> Tensor:
    """u of `CalibratedVariance`: the variance that the network predicts, as a logarithm, (B, …)."""
    u = prediction.raw_variance()
    return u if logarithmic else (0.5 * (u + 1)).clamp_min(1e-3).log()


@dataclass(frozen=True, eq=False)
class HybridVariance(Fitted, kind="hybrid"):
    """One fitted policy (`fine`) at levels of log-SNR ≥ `logsnr`, another (`coarse`) at the noisier ones."""

    fine: Fitted
    coarse: Fitted
    logsnr: float

    def __post_init__(self):
        if not isinstance(self.fine, Fitted) or not isinstance(self.coarse, Fitted) or not math.isfinite(self.logsnr):
            raise UsageError("a hybrid of policies that are not fitted", "give two fitted policies and a log-SNR")

    @property
    def learned(self) -> bool:  # type: ignore[override]
        return self.fine.learned or self.coarse.learned

    @property
    def reads_state(self) -> bool:  # type: ignore[override]
        return self.fine.reads_state or self.coarse.reads_state

    def coordinates(self, values: Tensor, t: Levels) -> Tensor:
        return self._each(t, values.shape, lambda part, rows: part.coordinates(values[rows], t[rows]), values)

    def values(self, coordinates: Tensor, t: Levels) -> Tensor:
        return self._each(t, coordinates.shape, lambda part, rows: part.values(coordinates[rows], t[rows]), coordinates)

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        shape = prediction.x0.shape
        t = t.expand(shape[0])
        return self._each(t, shape, lambda part, rows: part.error(t[rows], prediction.rows(rows)), prediction.x0)

    def mean_error(self, t: Levels) -> Tensor:
        fine, coarse = (part.mean_error(t) for part in (self.fine, self.coarse))
        return torch.where(t.logsnr >= self.logsnr, fine, coarse)

    def check_shape(self, shape: Shape) -> None:
        self.fine.check_shape(shape)
        self.coarse.check_shape(shape)

    def _each(self, t: Levels, shape, of, like: Tensor) -> Tensor:
        """`of(part, rows)` for the rows that each part is responsible for, put together in `shape`."""
        fine = t.expand(shape[0]).logsnr >= self.logsnr
        if bool(fine.all()) or not bool(fine.any()):
            rows = torch.arange(shape[0], device=like.device)
            return of(self.fine if bool(fine.any()) else self.coarse, rows).expand(shape)
        out = torch.empty(shape, dtype=like.dtype, device=like.device)
        for part, rows in ((self.fine, fine.nonzero()[:, 0]), (self.coarse, (~fine).nonzero()[:, 0])):
            out[rows] = of(part, rows).expand(len(rows), *shape[1:])
        return out


def interpolated(nodes: Tensor, values: Tensor, t: Levels) -> Tensor:
    """`values` (N, …) at falling log-SNRs `nodes`, interpolated linearly at levels t (B,); constant beyond the ends."""
    nodes, values = nodes.to(t.logsnr), values.to(t.logsnr)
    if len(nodes) == 1:
        return values.expand(len(t), *values.shape[1:])
    right = torch.searchsorted(-nodes, -t.logsnr.contiguous()).clamp(1, len(nodes) - 1)
    part = ((nodes[right - 1] - t.logsnr) / (nodes[right - 1] - nodes[right])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], column(part, values))


def log_error_at(nodes: Tensor, log_error: Tensor, t: Levels) -> Tensor:
    """log V at levels t (B,): linear in λ between the nodes; above the first V ∝ 1/SNR, below the last constant."""
    log_V = interpolated(nodes, log_error, t)
    return log_V - column((t.logsnr - nodes[0].to(t.logsnr)).clamp_min(0), log_V)


def check_table(logsnr: Tensor, *tables: Tensor) -> None:
    """Errors: UsageError unless the log-SNRs fall and every table has a finite row for each."""
    falls = isinstance(logsnr, Tensor) and logsnr.ndim == 1 and len(logsnr) > 0 and bool((logsnr.diff() < 0).all())
    if not falls or not bool(torch.isfinite(logsnr).all()):
        raise UsageError("a fitted variance at log-SNRs that do not fall", "give finite falling log-SNRs, (N,)")
    for table in tables:
        fits = isinstance(table, Tensor) and table.ndim > 0 and len(table) == len(logsnr)
        if not fits or not bool(torch.isfinite(table).all()):
            raise UsageError(
                f"a fitted variance of {len(logsnr)} levels whose numbers are not finite, or not one row a level",
                "give (N, …) finite numbers for N log-SNRs; fit it again",
            )


def check_rows(table: Tensor, shape: Shape) -> None:
    """Errors: ShapeError unless rows of `table` broadcast to `shape`."""
    rows = tuple(table.shape[1:])
    if len(rows) != len(shape) or any(a not in (1, b) for a, b in zip(rows, shape, strict=True)):
        raise ShapeError(
            f"a fitted variance of shape {rows} a level for examples of shape {tuple(shape)}",
            "they must agree; fit the policy to the model it is for",
        )

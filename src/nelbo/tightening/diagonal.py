"""Covariances that are diagonal in a fixed basis: second moments of x − x̂, shrunk by cross-validation.

A fitter receives the errors of every level in batches, one level after the other, and keeps sums only. Its result is a
policy together with what the policy's steps cost on examples that its numbers were not fitted to. Those costs choose
the shrinkage within a family and allow families to be compared.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.model.fitted.basis import Basis
from nelbo.model.fitted.variance import Fitted, FittedVariance
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.tightening.costs import LOG_W, StepCost, expected_kl
from nelbo.typing import Shape

FOLDS = 5
STRENGTHS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, float("inf"))
"""Weights of the coarser number in a shrunk one, counted in examples, among which cross-validation chooses."""


@dataclass(frozen=True, eq=False)
class FamilyFit:
    """A fitted policy, what its steps cost on examples left out of the fit, and a note on how it was shrunk."""

    policy: Fitted
    cost: StepCost
    note: str = ""


@dataclass(frozen=True, eq=False)
class ErrorBatch:
    """Errors x − x̂ (b, …) at one level: the number of its node, levels (b,), indices and folds of the examples (b,),
    and the predictions."""

    node: int
    t: Levels
    examples: Tensor
    fold: Tensor
    prediction: Prediction
    error: Tensor


class Fitter(ABC):
    """Abstract: fits one family to the errors of `count` examples of a shape at log-SNRs (N,)."""

    def __init__(self, shape: Shape, logsnr: Tensor, count: int):
        self.shape, self.logsnr, self.count = shape, logsnr, count

    @abstractmethod
    def add(self, batch: ErrorBatch) -> None:
        """Add a batch of one level."""

    def finish_level(self, node: int, t: Levels) -> None:
        """Called when all batches of a level have been added."""
        return

    @abstractmethod
    def result(self) -> FamilyFit:
        """The fitted policy."""


class DiagonalFitter(Fitter):
    """Second moments of the coordinates in a basis, shrunk along `ties`.

    ties: groupings of the coordinates from fine to coarse, each an int64 tensor of the example's shape that numbers the
    groups; the coordinates of a group share one moment. The log of a moment is averaged with that of the next coarser
    group, weighted by the number of examples and by a strength that minimises the code length r²/V + log V of the
    examples left out, over all levels together. Folds below `first` are not used: the basis was made from them.
    """

    def __init__(self, shape: Shape, logsnr: Tensor, count: int, basis: Basis, ties: list[Tensor], first: int = 0):
        super().__init__(shape, logsnr, count * (FOLDS - first) // FOLDS)
        basis.check(shape)
        self.first = first
        self.basis, self.ties = basis, [tie.reshape(-1) for tie in ties]
        D = len(self.ties[0])
        self.sums = torch.zeros(len(logsnr), FOLDS, D, dtype=torch.float64)
        self.counts = torch.zeros(len(logsnr), FOLDS, dtype=torch.float64)

    def add(self, batch: ErrorBatch) -> None:
        rows = batch.fold >= self.first
        square = self.basis.coordinates(batch.error[rows]).flatten(1).double().square().cpu()
        self.sums[batch.node].index_add_(0, batch.fold[rows], square)
        self.counts[batch.node].index_add_(0, batch.fold[rows], torch.ones(len(square), dtype=torch.float64))

    def moments(self) -> Tensor:
        """E r² of all examples, (N, D)."""
        return self.sums.sum(1) / self.counts.sum(1)[:, None]

    def result(self) -> FamilyFit:
        fitted, held_out = self._cross_validation()
        examples = self.count * (1 - 1 / len(fitted))
        log_means = [self._log_means(square) for square in fitted]
        best, strengths = float("inf"), tuple(0.0 for _ in self.ties[1:])
        for candidate in itertools.product(STRENGTHS, repeat=len(self.ties) - 1):
            score = 0.0
            for means, square in zip(log_means, held_out, strict=True):
                log_V = shrunk(means, examples, candidate)
                score += float((square * (-log_V).exp() + log_V).mean())
            if score < best - 1e-12:
                best, strengths = score, candidate
        cost = self._cost([shrunk(means, examples, strengths) for means in log_means], held_out)
        log_V = shrunk(self._log_means(self.moments()), self.count, strengths)
        policy = FittedVariance(self.basis, self.logsnr, self._compact(log_V))
        note = ", ".join(f"{s:g}" for s in strengths)
        return FamilyFit(policy, cost, f"shrunk by {note} examples" if note else "")

    def band_cost(self) -> StepCost:
        """What steps cost on examples left out if every band has one number and nothing is shrunk."""
        fitted, held_out = self._cross_validation()
        return self._cost([self._log_means(square)[-2:][0] for square in fitted], held_out)

    def _cross_validation(self) -> tuple[list[Tensor], list[Tensor]]:
        """For each fold E r² (N, D) of the other folds, and of the fold itself."""
        present = [f for f in range(FOLDS) if bool((self.counts[:, f] > 0).all())]
        sums, counts = self.sums.sum(1), self.counts.sum(1)
        fitted = [(sums - self.sums[:, f]) / (counts - self.counts[:, f])[:, None] for f in present]
        return fitted, [self.sums[:, f] / self.counts[:, f, None] for f in present]

    def _cost(self, log_Vs: list[Tensor], held_out: list[Tensor]) -> StepCost:
        nats = torch.zeros(len(self.logsnr), len(LOG_W), dtype=torch.float64)
        for log_V, square in zip(log_Vs, held_out, strict=True):
            V = log_V.exp().expand(square.shape)
            for i, snr in enumerate(self.logsnr.exp().tolist()):
                nats[i] += expected_kl(square[i], V[i], snr).sum(1) / len(held_out)
        return StepCost(self.logsnr, nats.clamp_min(1e-12))

    def _log_means(self, square: Tensor) -> list[Tensor]:
        """log E r² (N, D) under every tie, fine to coarse; none below 1e-9 of the mean over all coordinates."""
        least = 1e-9 * square.mean(1, keepdim=True).clamp_min(1e-300)
        return [_group_means(square, tie).clamp_min(least).log() for tie in self.ties]

    def _compact(self, log_V: Tensor) -> Tensor:
        """(N, D) as a table (N, …) that stores one number, or one a channel, where the finest tie has no more."""
        table = log_V.reshape(-1, *self.shape)
        finest = int(self.ties[0].max()) + 1
        if finest == 1:
            return table[(slice(None), *(slice(0, 1) for _ in self.shape))].clone()
        if len(self.shape) == 3 and finest == self.shape[0]:
            return table[:, :, :1, :1].clone()
        return table.clone()


def shrunk(means: list[Tensor], count: float, strengths: tuple[float, ...]) -> Tensor:
    """log V (N, D) from log means under every tie, fine to coarse: each is averaged with what is coarser."""
    log_V = means[-1]
    for mean, strength in zip(means[-2::-1], strengths[::-1], strict=True):
        weight = 0.0 if strength == float("inf") else count / (count + strength)
        log_V = weight * mean + (1 - weight) * log_V
    return log_V


def _group_means(square: Tensor, tie: Tensor) -> Tensor:
    """Means over the coordinates of each group, (N, D) → (N, D)."""
    groups = int(tie.max()) + 1
    if groups == len(tie):
        return square
    sums = square.new_zeros(len(square), groups).index_add_(1, tie, square)
    return (sums / tie.bincount(minlength=groups).clamp_min(1))[:, tie]

"""The families of reverse covariances, and how each is fitted from errors x − x̂ seen at some levels.

A fitter is handed the errors of every level in batches, one level after the other, and keeps sums only. What it says
in the end is a policy and what its steps cost on examples that its numbers were not fitted to (cross-validation in
the fit set), by which its shrinkage is chosen, and by which families are compared.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.model.fitted.basis import Basis, Pixel
from nelbo.model.fitted.variance import Fitted, FittedVariance
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.tightening.steps import LOG_W, StepCost, expected
from nelbo.typing import Choice, Shape

FOLDS = 5
BASIS_FOLDS = 2
"""Folds that the principal directions of 'pca' are taken from. Errors of the same examples would look too small across
the weak directions: there is little of just these examples there."""
STRENGTHS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, float("inf"))
"""Examples that what is alike counts for, where a number of its own is shrunk towards it."""


class Family(Choice, noun="family of covariances"):
    """What a fitted covariance may be."""

    SCALAR = "scalar"
    CHANNEL = "channel"
    PIXEL = "pixel"
    DCT = "dct"
    BLOCK = "block"
    PCA = "pca"
    LOCAL = "local"
    MAP = "map"
    HYBRID = "hybrid"
    LEARNED = "learned"


@dataclass(frozen=True, eq=False)
class Found:
    """A fitted policy, what its steps cost on examples left out, and what its shrinkage came to, in words."""

    policy: Fitted
    cost: StepCost
    note: str = ""


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of one level: which node it is, its levels (b,), example numbers, folds, predictions and x − x̂."""

    node: int
    t: Levels
    examples: Tensor
    fold: Tensor
    prediction: Prediction
    error: Tensor


class Fitter(ABC):
    """Abstract: sums over the errors of `count` examples of a shape at log-SNRs (N,)."""

    def __init__(self, shape: Shape, logsnr: Tensor, count: int):
        self.shape, self.logsnr, self.count = shape, logsnr, count

    @abstractmethod
    def take(self, seen: Seen) -> None:
        """Add a batch of one level."""

    def close(self, node: int, t: Levels) -> None:
        """All batches of a level have been taken."""
        return

    @abstractmethod
    def found(self) -> Found:
        """The policy."""


class Diagonal(Fitter):
    """Second moments of the coordinates in a basis, shrunk along `ties`.

    ties: from fine to coarse, which of the coordinates share a number, each (*shape) int64. The log of each number is
    averaged with that of the number next coarser, weighted by the count of examples and by a strength chosen by
    cross-validation: the code length r²/V + log V of the examples left out, all levels together. Folds below `first`
    are not looked at: the basis came from them.
    """

    def __init__(self, shape: Shape, logsnr: Tensor, count: int, basis: Basis, ties: list[Tensor], first: int = 0):
        super().__init__(shape, logsnr, count * (FOLDS - first) // FOLDS)
        basis.check(shape)
        self.first = first
        self.basis, self.ties = basis, [tie.reshape(-1) for tie in ties]
        D = len(self.ties[0])
        self.sums = torch.zeros(len(logsnr), FOLDS, D, dtype=torch.float64)
        self.counts = torch.zeros(len(logsnr), FOLDS, dtype=torch.float64)

    def take(self, seen: Seen) -> None:
        rows = seen.fold >= self.first
        square = self.basis.coordinates(seen.error[rows]).flatten(1).double().square().cpu()
        self.sums[seen.node].index_add_(0, seen.fold[rows], square)
        self.counts[seen.node].index_add_(0, seen.fold[rows], torch.ones(len(square), dtype=torch.float64))

    def moments(self) -> Tensor:
        """E r² of all examples, (N, D)."""
        return self.sums.sum(1) / self.counts.sum(1)[:, None]

    def found(self) -> Found:
        rest, held = self._turns()
        kept = self.count * (1 - 1 / len(rest))
        links = [self._means(r) for r in rest]
        best, strengths = float("inf"), tuple(0.0 for _ in self.ties[1:])
        for tried in itertools.product(STRENGTHS, repeat=len(self.ties) - 1):
            score = 0.0
            for means, square in zip(links, held, strict=True):
                log_V = shrunk(means, kept, tried)
                score += float((square * (-log_V).exp() + log_V).mean())
            if score < best - 1e-12:
                best, strengths = score, tried
        cost = self._cost([shrunk(means, kept, strengths) for means in links], held)
        table = shrunk(self._means(self.moments()), self.count, strengths)
        policy = FittedVariance(self.basis, self.logsnr, self._table(table))
        note = ", ".join(f"{s:g}" for s in strengths)
        return Found(policy, cost, f"shrunk by {note} examples" if note else "")

    def banded(self) -> StepCost:
        """What steps cost on examples left out where every band has one number, and nothing is shrunk."""
        rest, held = self._turns()
        return self._cost([self._means(r)[-2:][0] for r in rest], held)

    def _turns(self) -> tuple[list[Tensor], list[Tensor]]:
        """E r² (N, D) of the examples that are fitted to and of those left out, in turns."""
        present = [f for f in range(FOLDS) if bool((self.counts[:, f] > 0).all())]
        every, counts = self.sums.sum(1), self.counts.sum(1)
        rest = [(every - self.sums[:, f]) / (counts - self.counts[:, f])[:, None] for f in present]
        return rest, [self.sums[:, f] / self.counts[:, f, None] for f in present]

    def _cost(self, log_V: list[Tensor], held: list[Tensor]) -> StepCost:
        nats = torch.zeros(len(self.logsnr), len(LOG_W), dtype=torch.float64)
        for told, square in zip(log_V, held, strict=True):
            V = told.exp().expand(square.shape)
            for i, snr in enumerate(self.logsnr.exp().tolist()):
                nats[i] += expected(square[i], V[i], snr).sum(1) / len(held)
        return StepCost(self.logsnr, nats.clamp_min(1e-12))

    def _means(self, square: Tensor) -> list[Tensor]:
        """log E r² (N, D) of every tie, fine to coarse; no coordinate's below 1e-9 of the mean of all."""
        least = 1e-9 * square.mean(1, keepdim=True).clamp_min(1e-300)
        return [_tied(square, tie).clamp_min(least).log() for tie in self.ties]

    def _table(self, log_V: Tensor) -> Tensor:
        """(N, D) as (N, …), in as few numbers as the finest tie has where that is one, or one a channel."""
        table = log_V.reshape(-1, *self.shape)
        finest = int(self.ties[0].max()) + 1
        if finest == 1:
            return table[(slice(None), *(slice(0, 1) for _ in self.shape))].clone()
        if len(self.shape) == 3 and finest == self.shape[0]:
            return table[:, :, :1, :1].clone()
        return table.clone()


def shrunk(means: list[Tensor], count: float, strengths: tuple[float, ...]) -> Tensor:
    """log V (N, D): from the coarsest of `means` (fine to coarse) on, each averaged with what is coarser."""
    log_V = means[-1]
    for mean, strength in zip(means[-2::-1], strengths[::-1], strict=True):
        own = 0.0 if strength == float("inf") else count / (count + strength)
        log_V = own * mean + (1 - own) * log_V
    return log_V


def _tied(square: Tensor, tie: Tensor) -> Tensor:
    """Means over the coordinates that share a number, (N, D) → (N, D)."""
    groups = int(tie.max()) + 1
    if groups == len(tie):
        return square
    sums = square.new_zeros(len(square), groups).index_add_(1, tie, square)
    return (sums / tie.bincount(minlength=groups).clamp_min(1))[:, tie]


def fitter(family: Family, basis: Basis, shape: Shape, logsnr: Tensor, count: int) -> Diagonal:
    """The fitter of a family that is diagonal in `basis`."""
    every = torch.arange(torch.Size(shape).numel()).reshape(shape)
    one = torch.zeros(shape, dtype=torch.int64)
    if family is Family.SCALAR:
        return Diagonal(shape, logsnr, count, Pixel(), [one])
    bands = basis.bands(shape)
    ties = [bands, one] if family is Family.CHANNEL else [every, bands, one]
    return Diagonal(shape, logsnr, count, basis, ties, BASIS_FOLDS if family is Family.PCA else 0)

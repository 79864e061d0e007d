"""The families of reverse covariances, and how each is fitted from errors x − x̂ seen at some levels.

A fitter is handed the errors of every level in batches, one level after the other, and keeps sums only. What it says
in the end is a policy and what its steps cost on examples that its numbers were not fitted to (cross-validation in
the fit set), by which its shrinkage is chosen, and by which families are compared.
"""

from __future__ import annotations

import enum
import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.maths import random
from nelbo.model.basis import Basis, Cosine, Pixel
from nelbo.model.fitted import Fitted, FittedRange, FittedVariance, said
from nelbo.model.local import CLIP, FEATURES, LocalVariance, energies, folded
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.tightening import gamma
from nelbo.tightening.steps import LOG_W, StepCost, expected
from nelbo.typing import Shape, member

FOLDS = 5
BASIS_FOLDS = 2
"""Folds that the principal directions of 'pca' are taken from. Errors of the same examples would look too small across
the weak directions: there is little of just these examples there."""
STRENGTHS = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, float("inf"))
"""Examples that what is alike counts for, where a number of its own is shrunk towards it."""
TRUST = (1.0, 0.75, 0.5)
"""Shares of fitted weights that are kept, where a variance depends on the input."""
ROWS = 8192
"""Squares of errors that a regression at one level sees, spread over all examples."""


class Family(enum.Enum):
    """What a fitted covariance may be."""

    SCALAR = "scalar"
    CHANNEL = "channel"
    PIXEL = "pixel"
    DCT = "dct"
    BLOCK = "block"
    PCA = "pca"
    LOCAL = "local"
    HYBRID = "hybrid"
    LEARNED = "learned"

    @classmethod
    def parse(cls, name: str | Family) -> Family:
        """The member called `name`. Errors: UnknownNameError listing the members."""
        return member(cls, name, "family of covariances")


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
        present = [f for f in range(FOLDS) if bool((self.counts[:, f] > 0).all())]
        rest = [
            (self.sums.sum(1) - self.sums[:, f]) / (self.counts.sum(1) - self.counts[:, f])[:, None] for f in present
        ]
        held = [self.sums[:, f] / self.counts[:, f, None] for f in present]
        kept = self.count * (1 - 1 / len(present))
        links = [self._means(r) for r in rest]
        best, strengths = float("inf"), tuple(0.0 for _ in self.ties[1:])
        for tried in itertools.product(STRENGTHS, repeat=len(self.ties) - 1):
            score = 0.0
            for means, square in zip(links, held, strict=True):
                log_V = shrunk(means, kept, tried)
                score += float((square * (-log_V).exp() + log_V).mean())
            if score < best - 1e-12:
                best, strengths = score, tried
        nats = torch.zeros(len(self.logsnr), len(LOG_W), dtype=torch.float64)
        for means, square in zip(links, held, strict=True):
            V = shrunk(means, kept, strengths).exp().expand(square.shape)
            for i, snr in enumerate(self.logsnr.exp().tolist()):
                nats[i] += expected(square[i], V[i], snr).sum(1) / len(present)
        table = shrunk(self._means(self.moments()), self.count, strengths)
        policy = FittedVariance(self.basis, self.logsnr, self._table(table))
        note = ", ".join(f"{s:g}" for s in strengths)
        return Found(policy, StepCost(self.logsnr, nats.clamp_min(1e-12)), f"shrunk by {note} examples" if note else "")

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


class Regression(Fitter):
    """Abstract: gamma regressions at every level, G of them, on rows of features kept from every batch."""

    base: Diagonal
    """What has the same coordinates and a constant variance: its cost is what the regression's gain is taken from."""
    coordinates: Tensor
    """How many coordinates of an example each regression stands for, (G,)."""
    bent: bool = False
    """Whether a feature counts differently above its mean and below."""

    def __init__(self, base: Diagonal):
        super().__init__(base.shape, base.logsnr, base.count)
        self.base = base
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.full: list[dict[str, Tensor]] = []
        self.gains = torch.zeros(len(TRUST), len(self.logsnr), len(LOG_W), dtype=torch.float64)
        self.scores = torch.zeros(len(TRUST), dtype=torch.float64)

    def keep(self, features: Tensor, square: Tensor, fold: Tensor) -> None:
        """Rows of a batch: features (r, G, k), squares (r, G), folds (r,)."""
        self.rows.append((features.float(), square.double(), fold))

    def close(self, node: int, t: Levels) -> None:
        F, y, fold = (torch.cat(parts) for parts in zip(*self.rows, strict=True))
        self.rows = []
        F, y = F.transpose(0, 1), y.mT
        snr = float(t.logsnr.exp())
        left = fold == 0
        if bool(left.any()) and not bool(left.all()):
            fitted = self._fit(F[:, ~left], y[:, ~left])
            constant = fitted["const"][:, None].exp().expand(y[:, left].shape)
            plain = self._cost(y[:, left], constant, snr)
            for i, trust in enumerate(TRUST):
                log_V = self._log_V(F[:, left], fitted, trust)
                self.scores[i] += float(((y[:, left] * (-log_V).exp() + log_V).mean(1) * self.coordinates).sum())
                self.gains[i, node] = self._cost(y[:, left], log_V.exp(), snr) - plain
        self.full.append(self._fit(F, y))

    def _fit(self, F: Tensor, y: Tensor) -> dict[str, Tensor]:
        centre, scale = F.mean(1, keepdim=True), F.std(1, keepdim=True)
        scale = torch.where(scale > 1e-6 * (1 + centre.abs()), scale, torch.ones_like(scale))
        X = self._design(F, centre, scale)
        level = y.mean(1).clamp_min(1e-300)
        ridge = max(2e-3, 1.0 / max(1, self.count))
        w = gamma.fit(X, y / level[:, None], ridge)
        w[:, 0] += level.log()
        found = {"centre": centre[:, 0], "scale": scale[:, 0], "w": w, "const": level.log()}
        for trust in TRUST[1:]:
            eta = trust * (X[..., 1:].double() @ w[:, 1:, None])[..., 0]
            found[f"w0 {trust}"] = (y * (-eta).exp()).mean(1).clamp_min(1e-300).log()
        found[f"w0 {TRUST[0]}"] = w[:, 0]
        return {k: v.double() for k, v in found.items()}

    def _design(self, F: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
        X = ((F - centre) / scale).clamp(-CLIP, CLIP)
        return torch.cat([torch.ones_like(X[..., :1]), X, *([X.clamp_min(0)] if self.bent else [])], -1)

    def _log_V(self, F: Tensor, fitted: dict[str, Tensor], trust: float) -> Tensor:
        X = self._design(F.double(), fitted["centre"][:, None], fitted["scale"][:, None])
        return fitted[f"w0 {trust}"][:, None] + trust * (X[..., 1:] @ fitted["w"][:, 1:, None])[..., 0]

    def _cost(self, square: Tensor, V: Tensor, snr: float) -> Tensor:
        """Nats an example for every w, (len(LOG_W),): the mean over rows, times the coordinates they stand for."""
        return expected(square, V, snr).mean(2) @ self.coordinates

    def chosen(self) -> tuple[float, StepCost, dict[str, Tensor]]:
        """The share of the weights that is kept, the cost, and the tables (N, G, …) of all levels."""
        i = int(self.scores.argmin())
        trust = TRUST[i]
        base = self.base.found().cost
        nats = (base.nats + self.gains[i]).clamp_min(1e-12)
        tables = {k: torch.stack([f[k] for f in self.full]) for k in ("centre", "scale")}
        w = torch.stack([torch.cat([f[f"w0 {trust}"][:, None], trust * f["w"][:, 1:]], 1) for f in self.full])
        return trust, StepCost(self.logsnr, nats), {**tables, "w": w}


class Local(Regression):
    """`LocalVariance`: a regression a colour and frequency, on blocks drawn from every example."""

    bent = True

    def __init__(self, base: Diagonal, floor: float, seed: int):
        super().__init__(base)
        assert isinstance(base.basis, Cosine)
        self.basis, self.floor, self.seed = base.basis, floor, seed
        there = folded(self.basis, torch.ones(1, *self.shape))
        self.coordinates = there[0].sum((-1, -2)).flatten().double()
        self.whole = there[0].amin((0, 1, 2)).flatten().nonzero()[:, 0]  # blocks that are not cut short

    def take(self, seen: Seen) -> None:
        b, blocks = len(seen.error), len(self.whole)
        n = max(1, min(blocks, round(ROWS / self.count)))
        u = random.uniform(self.seed, seen.examples, seen.node, 0, (blocks,), stream=random.Stream.SELECT)
        chosen = self.whole[u.argsort(1)[:, :n]].to(seen.error.device)  # (b, n)
        square = folded(self.basis, self.basis.coordinates(seen.error)).square()
        groups = square.shape[1:4].numel()

        def rows(values: Tensor) -> Tensor:
            flat = values.expand(square.shape).reshape(b, groups, -1)
            return flat.gather(2, chosen[:, None].expand(b, groups, n)).transpose(1, 2).reshape(b * n, groups).cpu()

        features = torch.stack([rows(f) for f in energies(self.basis, seen.t, seen.prediction, self.floor)], -1)
        assert features.shape[-1] == FEATURES
        self.keep(features, rows(square), seen.fold.repeat_interleave(n))

    def found(self) -> Found:
        trust, cost, tables = self.chosen()
        C, n = len(self.basis.colours), self.basis.block
        policy = LocalVariance(
            self.basis,
            self.logsnr,
            tables["w"].reshape(len(self.logsnr), C, n, n, -1),
            tables["centre"].reshape(len(self.logsnr), C, n, n, -1),
            tables["scale"].reshape(len(self.logsnr), C, n, n, -1),
            self.base.moments().mean(1),
            self.floor,
        )
        return Found(policy, cost, f"{trust:.0%} of its dependence on the input kept" if trust < 1 else "")


class Learned(Regression):
    """`FittedRange`: one regression on what the network says of its own variance."""

    def __init__(self, base: Diagonal, logarithmic: bool, seed: int):
        super().__init__(base)
        self.logarithmic, self.seed = logarithmic, seed
        self.coordinates = torch.tensor([float(len(base.ties[0]))], dtype=torch.float64)

    def take(self, seen: Seen) -> None:
        b, D = len(seen.error), len(self.base.ties[0])
        n = max(1, min(D, round(4 * ROWS / self.count)))
        u = random.uniform(self.seed, seen.examples, seen.node, 0, (D,), stream=random.Stream.SELECT)
        chosen = u.argsort(1)[:, :n].to(seen.error.device)
        feature = said(seen.prediction, self.logarithmic).flatten(1).gather(1, chosen).reshape(b * n, 1, 1).cpu()
        square = seen.error.flatten(1).gather(1, chosen).square().reshape(b * n, 1).cpu()
        self.keep(feature, square, seen.fold.repeat_interleave(n))

    def found(self) -> Found:
        _, cost, tables = self.chosen()
        # the word of the network is taken as it is: undo the scale, which its tables do not have
        slope = tables["w"][:, 0, 1] / tables["scale"][:, 0, 0]
        offset = tables["w"][:, 0, 0] - slope * tables["centre"][:, 0, 0]
        rows = (-1, *(1,) * len(self.shape))
        mean = self.base.moments().mean(1)
        policy = FittedRange(self.logsnr, offset.reshape(rows), slope.reshape(rows), mean, self.logarithmic)
        return Found(policy, cost)


def fitter(family: Family, basis: Basis, shape: Shape, logsnr: Tensor, count: int) -> Diagonal:
    """The fitter of a family that is diagonal in `basis`."""
    every = torch.arange(torch.Size(shape).numel()).reshape(shape)
    one = torch.zeros(shape, dtype=torch.int64)
    if family is Family.SCALAR:
        return Diagonal(shape, logsnr, count, Pixel(), [one])
    bands = basis.bands(shape)
    ties = [bands, one] if family is Family.CHANNEL else [every, bands, one]
    return Diagonal(shape, logsnr, count, basis, ties, BASIS_FOLDS if family is Family.PCA else 0)

"""Fitters of variances that depend on the input: regressions at every level, on rows of features kept from batches."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nelbo.maths import random
from nelbo.model.fitted.basis import Cosine
from nelbo.model.fitted.local import LocalVariance, by_block, energies
from nelbo.model.fitted.log_linear import CLIP
from nelbo.model.fitted.pixel_map import MapVariance, surroundings
from nelbo.model.fitted.variance import CalibratedVariance, predicted_log_variance
from nelbo.process.levels import Levels
from nelbo.tightening import regress
from nelbo.tightening.families import FOLDS, Diagonal, Fitter, Found, Seen
from nelbo.tightening.steps import LOG_W, StepCost, expected

TRUST = (1.0, 0.5, 0.0)
"""Shares of fitted weights of which the best is kept at every level."""
ROWS = 5000
"""Squares of errors that a regression at one level sees, spread over all examples; those of pixels twice as many."""
WIDTHS = (0.3, 3.0)
"""Lengths w = e^{λ_s − λ_t} − 1 of the steps that a regression is to be good for: those of about 100 and 10 in all."""
RIDGE, SHRINKAGE = 5e-4, 0.3
"""Least ridge of a regression, and the ridge of one example, which falls as examples grow in number."""


class Regression(Fitter):
    """Abstract: regressions at every level, G of them.

    Two halves of the examples take turns: what is fitted to one is scored on the other, so that what the steps cost is
    known from every example, and the share of the weights that pays is kept.
    """

    base: Diagonal
    """What has the same coordinates: the gain is taken from its cost with one constant variance a band."""
    coordinates: Tensor
    """How many coordinates of an example each regression stands for, (G,)."""
    bent: bool = False
    """Whether a feature counts differently above its mean and below."""

    def __init__(self, base: Diagonal, seed: int):
        super().__init__(base.shape, base.logsnr, base.count)
        self.base, self.seed = base, seed
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.full: list[dict[str, Tensor]] = []
        self.last: Tensor | None = None
        self.gains = torch.zeros(len(self.logsnr), len(LOG_W), dtype=torch.float64)
        self.trust: list[float] = []

    def keep(self, features: Tensor, square: Tensor, fold: Tensor) -> None:
        """Rows of a batch: features (r, G, k), squares (r, G), folds (r,)."""
        self.rows.append((features.float(), square.double(), fold))

    def close(self, node: int, t: Levels) -> None:
        F, y, fold = (torch.cat(parts) for parts in zip(*self.rows, strict=True))
        self.rows = []
        F, y = F.transpose(0, 1), y.mT
        snr = float(t.logsnr.exp())
        rho = snr * torch.tensor(WIDTHS, dtype=torch.float64)
        whole, X = self._fit(F, y, rho, self.last)
        self.last = whole["w"]
        first = fold < FOLDS // 2
        scores = torch.zeros(len(TRUST), dtype=torch.float64)
        told, plain = torch.zeros(len(TRUST), *y.shape, dtype=torch.float64), torch.zeros_like(y)
        for left in (first, ~first):
            half, X_half = self._fit(F[:, ~left], y[:, ~left], rho, whole["w"])
            X_left = self._design(F[:, left], half["centre"], half["scale"])
            plain[:, left] = y[:, ~left].mean(1, keepdim=True).clamp_min(1e-300)
            for i, trust in enumerate(TRUST):
                w = self._kept(X_half, y[:, ~left], rho, half["w"], trust)
                V = (X_left @ w[..., None].float())[..., 0].double().exp()
                told[i][:, left] = V
                scores[i] += float(regress.cost(y[:, left], V, rho) @ self.coordinates) * float(left.double().mean())
        best = int(scores.argmin())
        self.gains[node] = self._cost(y, told[best], snr) - self._cost(y, plain, snr)
        self.trust.append(TRUST[best])
        self.full.append({**whole, "w": self._kept(X, y, rho, whole["w"], TRUST[best])})

    def _fit(self, F: Tensor, y: Tensor, rho: Tensor, start: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Centres and scales of features and the weights of these centred and scaled, (G, ·), and the rows of all; from
        the weights of a fit like it that is done, but for the mean."""
        centre, scale = F.mean(1), F.std(1)
        scale = torch.where(scale > 1e-6 * (1 + centre.abs()), scale, torch.ones_like(scale))
        X = self._design(F, centre, scale)
        if start is not None:
            eta = (X[..., 1:] @ start[:, 1:, None].float())[..., 0]
            level = (y * (-eta).double().exp()).mean(1).clamp_min(1e-300).log()
            start = torch.cat([level[:, None], start[:, 1:]], 1)
        w = regress.fit(X, y, rho, max(RIDGE, SHRINKAGE / max(1, self.count)), start)
        return {"centre": centre, "scale": scale, "w": w}, X

    def _kept(self, X: Tensor, y: Tensor, rho: Tensor, w: Tensor, trust: float) -> Tensor:
        """A share of the weights, with the constant that suits it."""
        if trust == 1:
            return w
        eta = trust * (X[..., 1:] @ w[:, 1:, None].float())[..., 0].double()
        return torch.cat([regress.fit(X[..., :1], y, rho, 0.0, None, eta), trust * w[:, 1:]], 1)

    def _design(self, F: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
        X = ((F - centre[:, None]) / scale[:, None]).clamp(-CLIP, CLIP)
        return torch.cat([torch.ones_like(X[..., :1]), X, *([X.clamp_min(0)] if self.bent else [])], -1)

    def _cost(self, square: Tensor, V: Tensor, snr: float) -> Tensor:
        """Nats an example for every w, (len(LOG_W),): the mean over rows, times the coordinates they stand for."""
        each = [expected(s, v, snr).mean(1) for s, v in zip(square.float(), V.float(), strict=True)]
        return torch.stack(each, 1).double() @ self.coordinates

    def chosen(self) -> tuple[str, StepCost, dict[str, Tensor]]:
        """What of the weights is kept, in words, the cost, and the tables (N, G, …) of all levels."""
        nats = (self.base.banded().nats + self.gains).clamp_min(1e-12)
        tables = {k: torch.stack([f[k] for f in self.full]).double() for k in ("centre", "scale", "w")}
        least = min(self.trust)
        note = f"{least:.0%} of its dependence on the input kept at some levels" if least < 1 else ""
        return note, StepCost(self.logsnr, nats), tables

    def drawn(self, seen: Seen, places: Tensor, rows: int) -> Tensor:
        """Of the `places` of every example about as many as make `rows` in all, (b, m); keyed by the example."""
        m = max(1, min(len(places), round(rows / self.count)))
        u = random.uniform(self.seed, seen.examples, seen.node, 0, (len(places),), stream=random.Stream.SELECT)
        return places[u.argsort(1)[:, :m]].to(seen.error.device)

    def keep_of(self, features: Iterable[Tensor], square: Tensor, chosen: Tensor, fold: Tensor) -> None:
        """Rows at the `chosen` (b, m) of the last axes of square (b, G, …); features broadcast to (b, G, …)."""
        b, G = square.shape[:2]
        m = chosen.shape[1]

        def rows(values: Tensor) -> Tensor:
            flat = values.expand(square.shape).reshape(b, G, -1)
            return flat.gather(2, chosen[:, None].expand(b, G, m)).transpose(1, 2).reshape(b * m, G).cpu()

        self.keep(torch.stack([rows(f) for f in features], -1), rows(square), fold.repeat_interleave(m))


class Local(Regression):
    """`LocalVariance`: a regression a colour and frequency, on blocks drawn from every example."""

    bent = True

    def __init__(self, base: Diagonal, floor: float, seed: int):
        super().__init__(base, seed)
        assert isinstance(base.basis, Cosine)
        self.basis, self.floor = base.basis, floor
        there = by_block(self.basis, torch.ones(1, *self.shape))
        self.coordinates = there[0].sum((-1, -2)).flatten().double()
        self.whole = there[0].amin((0, 1, 2)).flatten().nonzero()[:, 0]  # blocks that are not cut short

    def take(self, seen: Seen) -> None:
        square = by_block(self.basis, self.basis.coordinates(seen.error)).square()
        features = (f.expand(square.shape).flatten(1, 3) for f in self._features(seen))
        self.keep_of(features, square.flatten(1, 3), self.drawn(seen, self.whole, ROWS), seen.fold)

    def _features(self, seen: Seen) -> Iterable[Tensor]:
        return energies(self.basis, seen.t, seen.prediction, self.floor)

    def found(self) -> Found:
        note, cost, tables = self.chosen()
        C, n = len(self.basis.colours), self.basis.block
        w, centre, scale = (tables[k].reshape(len(self.logsnr), C, n, n, -1) for k in ("w", "centre", "scale"))
        mean = self.base.moments().mean(1)
        return Found(LocalVariance(self.basis, self.logsnr, w, centre, scale, mean, self.floor), cost, note)


class Map(Regression):
    """`MapVariance`: a regression a channel, on pixels drawn from every example. low, high: the range of x."""

    bent = True

    def __init__(self, base: Diagonal, floor: float, low: float, high: float, seed: int):
        super().__init__(base, seed)
        self.floor, self.low, self.high = floor, low, high
        H, W = self.shape[-2:]
        self.places = torch.arange(H * W)
        channels = len(base.ties[0]) // (H * W)
        self.coordinates = torch.full((channels,), float(H * W), dtype=torch.float64)

    def take(self, seen: Seen) -> None:
        square = seen.error.reshape(len(seen.error), -1, *self.shape[-2:]).square()
        features = surroundings(seen.t, seen.prediction, self.floor, self.low, self.high)
        self.keep_of(features, square, self.drawn(seen, self.places, 2 * ROWS), seen.fold)

    def found(self) -> Found:
        note, cost, tables = self.chosen()
        mean = self.base.moments().mean(1)
        w, centre, scale = (tables[k] for k in ("w", "centre", "scale"))
        policy = MapVariance(self.logsnr, w, centre, scale, mean, self.floor, self.low, self.high)
        return Found(policy, cost, note)


class Learned(Regression):
    """`CalibratedVariance`: one regression on what the network says of its own variance."""

    def __init__(self, base: Diagonal, logarithmic: bool, seed: int):
        super().__init__(base, seed)
        self.logarithmic = logarithmic
        self.places = torch.arange(len(base.ties[0]))
        self.coordinates = torch.tensor([float(len(self.places))], dtype=torch.float64)

    def take(self, seen: Seen) -> None:
        feature = predicted_log_variance(seen.prediction, self.logarithmic).flatten(1)[:, None]
        square = seen.error.flatten(1)[:, None].square()
        self.keep_of([feature], square, self.drawn(seen, self.places, 4 * ROWS), seen.fold)

    def found(self) -> Found:
        _, cost, tables = self.chosen()
        # the word of the network is taken as it is: undo the scale, which its tables do not have
        slope = tables["w"][:, 0, 1] / tables["scale"][:, 0, 0]
        offset = tables["w"][:, 0, 0] - slope * tables["centre"][:, 0, 0]
        rows = (-1, *(1,) * len(self.shape))
        mean = self.base.moments().mean(1)
        policy = CalibratedVariance(self.logsnr, offset.reshape(rows), slope.reshape(rows), mean, self.logarithmic)
        return Found(policy, cost)

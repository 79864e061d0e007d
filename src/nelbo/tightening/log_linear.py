"""Fitters of variances that depend on the input: log-linear regressions on features of the prediction."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nelbo.maths.keys import Purpose
from nelbo.model.fitted.basis import Cosine
from nelbo.model.fitted.local import LocalVariance, by_block, energies
from nelbo.model.fitted.log_linear import CLIP
from nelbo.model.fitted.pixel_map import MapVariance, surroundings
from nelbo.model.fitted.variance import CalibratedVariance, predicted_log_variance
from nelbo.process.levels import Levels
from nelbo.tightening.costs import LOG_W, StepCost, expected_kl
from nelbo.tightening.diagonal import FOLDS, DiagonalFitter, ErrorBatch, FamilyFit, Fitter
from nelbo.tightening.regression import cost, fit_cost

SHARES = (1.0, 0.5, 0.0)
"""Multiples of the fitted weights, of which the best is kept at every level."""
ROWS = 5000
"""Squares of errors that a regression uses at one level, spread over all examples; of pixels twice as many."""
WIDTHS = (0.3, 3.0)
"""Lengths w = e^{λ_s − λ_t} − 1 of the steps that a regression is fitted for: those of about 100 and 10 in all."""
RIDGE, SHRINKAGE = 5e-4, 0.3
"""Least ridge of a regression, and the ridge with one example; the ridge falls as 1/examples between them."""


class RegressionFitter(Fitter):
    """Abstract: G regressions at every level.

    The examples are halved; what is fitted to one half is scored on the other, so that the cost of steps is known for
    every example, and the multiple of the weights that costs least is kept.
    """

    base: DiagonalFitter
    """A fitter in the same coordinates; the gain is subtracted from its cost with one constant variance a band."""
    coordinates: Tensor
    """How many coordinates of an example each regression stands for, (G,)."""
    bent: bool = False
    """Whether a feature has another slope above its mean than below."""

    def __init__(self, base: DiagonalFitter, seed: int):
        super().__init__(base.shape, base.logsnr, base.count)
        self.base, self.seed = base, seed
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self.tables: list[dict[str, Tensor]] = []
        self.last_weights: Tensor | None = None
        self.gains = torch.zeros(len(self.logsnr), len(LOG_W), dtype=torch.float64)
        self.shares: list[float] = []

    def add_rows(self, features: Tensor, square: Tensor, fold: Tensor) -> None:
        """Rows of a batch: features (r, G, k), squares (r, G), folds (r,)."""
        self.rows.append((features.float(), square.double(), fold))

    def finish_level(self, node: int, t: Levels) -> None:
        F, y, fold = (torch.cat(parts) for parts in zip(*self.rows, strict=True))
        self.rows = []
        F, y = F.transpose(0, 1), y.mT
        snr = float(t.logsnr.exp())
        rho = snr * torch.tensor(WIDTHS, dtype=torch.float64)
        whole, X = self._fit(F, y, rho, self.last_weights)
        self.last_weights = whole["w"]
        first = fold < FOLDS // 2
        scores = torch.zeros(len(SHARES), dtype=torch.float64)
        V, constant = torch.zeros(len(SHARES), *y.shape, dtype=torch.float64), torch.zeros_like(y)
        for held_out in (first, ~first):
            half, X_half = self._fit(F[:, ~held_out], y[:, ~held_out], rho, whole["w"])
            X_held_out = self._design(F[:, held_out], half["centre"], half["scale"])
            constant[:, held_out] = y[:, ~held_out].mean(1, keepdim=True).clamp_min(1e-300)
            for i, share in enumerate(SHARES):
                w = self._scaled(X_half, y[:, ~held_out], rho, half["w"], share)
                of_share = (X_held_out @ w[..., None].float())[..., 0].double().exp()
                V[i][:, held_out] = of_share
                nats = float(cost(y[:, held_out], of_share, rho) @ self.coordinates)
                scores[i] += nats * float(held_out.double().mean())
        best = int(scores.argmin())
        self.gains[node] = self._cost(y, V[best], snr) - self._cost(y, constant, snr)
        self.shares.append(SHARES[best])
        self.tables.append({**whole, "w": self._scaled(X, y, rho, whole["w"], SHARES[best])})

    def _fit(self, F: Tensor, y: Tensor, rho: Tensor, start: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Centres and scales of the features and the weights of the standardised ones, (G, ·), and the design matrix.

        start: weights of a similar fit, from which this one begins after its constant has been set to suit.
        """
        centre, scale = F.mean(1), F.std(1)
        scale = torch.where(scale > 1e-6 * (1 + centre.abs()), scale, torch.ones_like(scale))
        X = self._design(F, centre, scale)
        if start is not None:
            eta = (X[..., 1:] @ start[:, 1:, None].float())[..., 0]
            level = (y * (-eta).double().exp()).mean(1).clamp_min(1e-300).log()
            start = torch.cat([level[:, None], start[:, 1:]], 1)
        w = fit_cost(X, y, rho, max(RIDGE, SHRINKAGE / max(1, self.count)), start)
        return {"centre": centre, "scale": scale, "w": w}, X

    def _scaled(self, X: Tensor, y: Tensor, rho: Tensor, w: Tensor, share: float) -> Tensor:
        """The weights times `share`, with the constant that suits them."""
        if share == 1:
            return w
        eta = share * (X[..., 1:] @ w[:, 1:, None].float())[..., 0].double()
        return torch.cat([fit_cost(X[..., :1], y, rho, 0.0, None, eta), share * w[:, 1:]], 1)

    def _design(self, F: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
        X = ((F - centre[:, None]) / scale[:, None]).clamp(-CLIP, CLIP)
        return torch.cat([torch.ones_like(X[..., :1]), X, *([X.clamp_min(0)] if self.bent else [])], -1)

    def _cost(self, square: Tensor, V: Tensor, snr: float) -> Tensor:
        """Nats an example for every w, (len(LOG_W),): the mean over rows, times the coordinates they stand for."""
        each = [expected_kl(s, v, snr).mean(1) for s, v in zip(square.float(), V.float(), strict=True)]
        return torch.stack(each, 1).double() @ self.coordinates

    def combined(self) -> tuple[str, StepCost, dict[str, Tensor]]:
        """A note on the shares kept, the cost, and the tables (N, G, …) of all levels."""
        nats = (self.base.band_cost().nats + self.gains).clamp_min(1e-12)
        tables = {k: torch.stack([level[k] for level in self.tables]).double() for k in ("centre", "scale", "w")}
        least = min(self.shares)
        note = f"{least:.0%} of its dependence on the input kept at some levels" if least < 1 else ""
        return note, StepCost(self.logsnr, nats), tables

    def select(self, batch: ErrorBatch, places: Tensor, rows: int) -> Tensor:
        """Random `places` of every example, (b, m), about `rows` over all examples; keyed by the example."""
        m = max(1, min(len(places), round(rows / self.count)))
        u = Purpose.REGRESSION_PLACES.uniform(self.seed, batch.examples, batch.node, 0, (len(places),))
        return places[u.argsort(1)[:, :m]].to(batch.error.device)

    def add_at(self, features: Iterable[Tensor], square: Tensor, places: Tensor, fold: Tensor) -> None:
        """Add rows at `places` (b, m) of the flattened last axes of square (b, G, …); features broadcast to square."""
        b, G = square.shape[:2]
        m = places.shape[1]

        def rows(values: Tensor) -> Tensor:
            flat = values.expand(square.shape).reshape(b, G, -1)
            return flat.gather(2, places[:, None].expand(b, G, m)).transpose(1, 2).reshape(b * m, G).cpu()

        self.add_rows(torch.stack([rows(f) for f in features], -1), rows(square), fold.repeat_interleave(m))


class LocalFitter(RegressionFitter):
    """`LocalVariance`: a regression for each colour and frequency, on blocks selected from every example."""

    bent = True

    def __init__(self, base: DiagonalFitter, floor: float, seed: int):
        super().__init__(base, seed)
        assert isinstance(base.basis, Cosine)
        self.basis, self.floor = base.basis, floor
        present = by_block(self.basis, torch.ones(1, *self.shape))
        self.coordinates = present[0].sum((-1, -2)).flatten().double()
        self.whole_blocks = present[0].amin((0, 1, 2)).flatten().nonzero()[:, 0]

    def add(self, batch: ErrorBatch) -> None:
        square = by_block(self.basis, self.basis.coordinates(batch.error)).square()
        features = energies(self.basis, batch.t, batch.prediction, self.floor)
        flat = (f.expand(square.shape).flatten(1, 3) for f in features)
        self.add_at(flat, square.flatten(1, 3), self.select(batch, self.whole_blocks, ROWS), batch.fold)

    def result(self) -> FamilyFit:
        note, step_cost, tables = self.combined()
        C, n = len(self.basis.colours), self.basis.block
        w, centre, scale = (tables[k].reshape(len(self.logsnr), C, n, n, -1) for k in ("w", "centre", "scale"))
        mean = self.base.moments().mean(1)
        policy = LocalVariance(self.basis, self.logsnr, w, centre, scale, mean, self.floor)
        return FamilyFit(policy, step_cost, note)


class MapFitter(RegressionFitter):
    """`MapVariance`: a regression for each channel, on pixels selected from every example. low, high: range of x."""

    bent = True

    def __init__(self, base: DiagonalFitter, floor: float, low: float, high: float, seed: int):
        super().__init__(base, seed)
        self.floor, self.low, self.high = floor, low, high
        H, W = self.shape[-2:]
        self.pixels = torch.arange(H * W)
        channels = len(base.ties[0]) // (H * W)
        self.coordinates = torch.full((channels,), float(H * W), dtype=torch.float64)

    def add(self, batch: ErrorBatch) -> None:
        square = batch.error.reshape(len(batch.error), -1, *self.shape[-2:]).square()
        features = surroundings(batch.t, batch.prediction, self.floor, self.low, self.high)
        self.add_at(features, square, self.select(batch, self.pixels, 2 * ROWS), batch.fold)

    def result(self) -> FamilyFit:
        note, step_cost, tables = self.combined()
        mean = self.base.moments().mean(1)
        w, centre, scale = (tables[k] for k in ("w", "centre", "scale"))
        policy = MapVariance(self.logsnr, w, centre, scale, mean, self.floor, self.low, self.high)
        return FamilyFit(policy, step_cost, note)


class CalibrationFitter(RegressionFitter):
    """`CalibratedVariance`: one regression on the variance that the network predicts."""

    def __init__(self, base: DiagonalFitter, logarithmic: bool, seed: int):
        super().__init__(base, seed)
        self.logarithmic = logarithmic
        self.elements = torch.arange(len(base.ties[0]))
        self.coordinates = torch.tensor([float(len(self.elements))], dtype=torch.float64)

    def add(self, batch: ErrorBatch) -> None:
        feature = predicted_log_variance(batch.prediction, self.logarithmic).flatten(1)[:, None]
        square = batch.error.flatten(1)[:, None].square()
        self.add_at([feature], square, self.select(batch, self.elements, 4 * ROWS), batch.fold)

    def result(self) -> FamilyFit:
        _, step_cost, tables = self.combined()
        # the policy takes the network's output as it is: undo the standardisation of the feature
        slope = tables["w"][:, 0, 1] / tables["scale"][:, 0, 0]
        offset = tables["w"][:, 0, 0] - slope * tables["centre"][:, 0, 0]
        rows = (-1, *(1,) * len(self.shape))
        mean = self.base.moments().mean(1)
        policy = CalibratedVariance(self.logsnr, offset.reshape(rows), slope.reshape(rows), mean, self.logarithmic)
        return FamilyFit(policy, step_cost)

"""A fit of one term: its mean at every cell, the part that features of the example foretell, and that of the controls.

With y the term, m its mean at a node, F_i features of example i, e_i its expected error there over that of the mean
example, less 1, and n the control columns of mean zero, all in nats, the fit at each node is

    y = m + |m| (e_i b + F_i·W) + a·n + residual.

b and a are fitted together, by a node and its neighbours, and m is the mean of the examples less what the controls say
of their noise; what is left is fitted by the features, in a ridge regression whose strength is chosen by leave-one-out.
Between nodes, y divided by the cell's scale, W, b, a and the residual's relative standard deviation are interpolated in
the coordinate of the chain, and so is e_i between the places at which it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nelbo.bound.problem import Cells

_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 1e6)
"""Strengths of the ridge to choose from, of features of variance 1; the last leaves the features out."""
_LEAST_KEPT = 0.3
"""Least share of a mean that controls may leave of it."""
_CONTROL_RIDGE = 1e-3
"""Strength of the ridge of the expected error and the controls, of their mean square: enough for two that are nearly
the same."""
_STEEPEST = 1.0
"""Standard deviation of slopes of terms in expected errors, both relative to their means, from what is believed."""
_CALIBRATED = 0.25
"""Standard deviation of slopes from 1 that is believed where terms are foretold."""
_LEAST_NOISE = 0.05
"""Least share of a residual's variance that is taken for noise: a bend of nearly zero is an accident of few draws."""
_BEND = 1.5
"""Variance of e_k − (e_{k−1} + e_{k+1})/2 for independent e of variance 1."""
_LEAST_NEIGHBOUR = 0.1
"""Least standard deviation at a node, of its neighbours': see `_guarded`."""
_DEGREE = 2
"""Of the curve of standard deviations of a chain whose terms are foretold."""
_TRACE = 1e-12
"""Of the largest number of its kind, so that logarithms of zeros are finite."""
_BLOCK = 256
"""Rows of features that are widened to float64 at once."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features (N, q + E) of all examples: kept in float32, since they grow with the data, and given in float64.

    The first q are those of the regression; then come the E expected errors along the chain, relative to the mean
    example's, less 1. typical (E,): logarithms of the latter, as far as they go with the mean of terms along the chain.
    slope: of terms in expected errors, both relative to their means, where the pilot's examples do not say otherwise.
    """

    values: Tensor
    places: int = 0
    typical: Tensor = field(default_factory=lambda: torch.zeros(0))
    slope: float = 0.0

    def __post_init__(self):
        if not len(self.typical):
            object.__setattr__(self, "typical", torch.zeros(self.places, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[rows].double()

    @property
    def number(self) -> int:
        """q + E."""
        return self.values.shape[1]

    @property
    def own(self) -> int:
        """q."""
        return self.number - self.places

    def times(self, weights: Tensor, rows: Tensor | None = None) -> Tensor:
        """F·w of all examples or of `rows`, for weights w (q,); no copy of all features is made."""
        if rows is None:
            return torch.cat([part.double() @ weights for part in self.values.split(_BLOCK)])
        return torch.cat([self[part] @ weights for part in rows.split(_BLOCK)])


@dataclass(frozen=True, eq=False)
class TermFit:
    """Cells (M,) of the diffusion term, or the one cell of the reconstruction: mean m in nats and its size |m|,
    regression W (M, q + E) with that of the expected errors, coefficients a (M, C) of the controls, and standard
    deviations (M,) relative to |m|: `raw` of y about m, `residual` after the fit, `noise` that part of it which is not
    the example's. near (M, E): the parts that expected errors have in that of a cell."""

    mean: Tensor
    size: Tensor
    weights: Tensor
    controls: Tensor
    raw: Tensor
    residual: Tensor
    noise: Tensor
    near: Tensor

    @property
    def total_weights(self) -> Tensor:
        """|m|·W summed over cells, (q,): the fit's total for an example is Σ m + F_i·(this)."""
        return self.size @ self.weights

    def predict(self, cells: Tensor, features: Tensor) -> Tensor:
        """m + |m| F·W for draws in `cells` (n,) with features (n, q), nats."""
        return self.mean[cells] + self.size[cells] * (features * self.weights[cells]).sum(1)

    def control(self, cells: Tensor, columns: Tensor) -> Tensor:
        """a·n for draws in `cells` with controls (n, C), nats."""
        return (self.controls[cells] * columns).sum(1)


def at_nodes(
    columns: np.ndarray,
    scale: np.ndarray,
    F: np.ndarray,
    near: np.ndarray,
    pooled: int,
    foretold: bool = False,
    measure: np.ndarray | None = None,
    slope: float = 0.0,
) -> dict[str, np.ndarray]:
    """The fit at every node from columns (P, K, 1 + C) and features F (P, q + E) of the examples; near (K, E): as of
    `TermFit`, at the nodes; `pooled` neighbours on each side share b and a. foretold: as of `Problem.foretold`; b and a
    are then 1 as far as the examples do not say otherwise, and these are too few for the features. measure (P, K): what
    |m| is the mean of, where terms may have either sign and m may be near 0; the terms where None. slope: b as far as
    the examples do not say otherwise."""
    P, K, C = columns.shape[0], columns.shape[1], columns.shape[2] - 1
    q = F.shape[1] - near.shape[1]
    y = columns[..., 0] / np.where(scale > 0, scale, 1)
    mean = y.mean(0)
    size = np.abs(mean if measure is None else (measure / np.where(scale > 0, scale, 1)).mean(0))
    # where all was exactly zero, no more than a trace of the largest
    size = np.maximum(size, 1e-9 * size.max(initial=0.0)) if size.max(initial=0.0) > 0 else np.ones_like(size)
    r = y / size - mean / size
    n = columns[..., 1:] / (scale * size)[None, :, None] if K else columns[..., 1:]
    centre = F.mean(0)
    F = F - centre
    raw = (r**2).mean(0) * P / max(1, P - 1)
    offset = n.mean(0) * (not foretold)  # of the controls, whose means are 0
    regressors = np.concatenate([(F[:, q:] @ near.T)[..., None], n - offset], 2)
    prior = np.full((K, 1 + C), float(foretold))
    if measure is None:  # of a difference nothing is known
        prior[:, 0] = np.maximum(prior[:, 0], slope * (mean != 0))
    r = r - (regressors * prior).sum(2)
    slopes, leverage = np.zeros((K, 1 + C)), np.full((P, K), 1 / P)
    if np.any(regressors):
        for k in range(K):
            some = slice(max(0, k - pooled), k + pooled + 1)
            A, b = regressors[:, some].reshape(-1, 1 + C), r[:, some].reshape(-1)
            gram = A.T @ A
            ridge = _CONTROL_RIDGE * np.diag(gram) + 1e-9 * np.trace(gram) + 1e-300
            # terms are about proportional to the expected errors: one far from `slope` is not believed where the errors
            # of these examples hardly differ, since those of others may differ much
            ridge[0] += (b**2).mean() / _STEEPEST**2
            if foretold:
                ridge += (b**2).mean() / _CALIBRATED**2
            inverse = np.linalg.inv(gram + np.diag(ridge))
            slopes[k] = inverse @ (A.T @ b)
            own = regressors[:, k]
            leverage[:, k] += np.einsum("ij,jk,ik->i", own, inverse, own)
    residual = r - (regressors * slopes).sum(-1)
    slopes += prior
    # the mean of examples without what their noise, seen in the controls, has added to it; near 0 that is not believed
    shown = (slopes[:, 1:] * offset).sum(1)
    if measure is not None:
        mean = mean - size * shown
    else:
        kept = 1 - np.sign(mean) * shown
        kept = np.where((mean != 0) & (kept > _LEAST_KEPT), kept, 1.0)
        mean, size, slopes[:, 0] = mean * kept, size * kept, slopes[:, 0] / kept
        residual, raw = residual / kept, raw / kept**2
    weights, fitted, features = np.zeros((K, q)), np.zeros((P, K)), np.zeros(P)
    if q and P > 4 and not foretold:
        own = F[:, :q]
        G = own.T @ own
        best = np.inf
        for ridge in _RIDGES:
            inverse = np.linalg.inv(G + ridge * P * np.eye(q))
            W = inverse @ own.T @ residual
            of_features = np.einsum("ij,jk,ik->i", own, inverse, own)
            error = (residual - own @ W) / (1 - np.clip(leverage + of_features[:, None], 0, 0.5))
            score = float((error**2).mean(0).sum())
            if score < best:
                best, weights, fitted, features = score, W.T, own @ W, of_features
    left_out = (residual - fitted) / (1 - np.clip(leverage + features[:, None], 0, 0.5))
    return {
        "mean": mean - size * (weights @ centre[:q] + slopes[:, 0] * (near @ centre[q:])),
        "centre": centre,
        "weights": weights,
        "slope": slopes[:, 0],
        "near": near,
        "controls": slopes[:, 1:],
        "raw": raw,
        "residual": (left_out**2).mean(0),
        "noise": noise_of(left_out),
        "in_sample": residual - fitted,
        "size": size,
        "share": mean / size,
    }


def noise_of(residual: np.ndarray) -> np.ndarray:
    """That part (K,) of the mean square of residuals (P, K) that is not the example's."""
    variance = (residual**2).mean(0)
    noise = variance.copy()
    if len(noise) > 2:
        # an example's own deviation is smooth along the chain; noise is what a line through neighbours misses
        bend = residual[:, 1:-1] - (residual[:, :-2] + residual[:, 2:]) / 2
        noise[1:-1] = (bend**2).mean(0) / _BEND
        noise[[0, -1]] = noise[[1, -2]]
    return np.clip(noise, _LEAST_NOISE * variance, variance)


def noise_of_two(node: dict[str, np.ndarray], columns: np.ndarray) -> None:
    """Replace the noise of a one-node fit by half the mean squared difference of two draws, columns (2, P, 1 + C)."""
    y = (columns[..., 0] - columns[..., 1:] @ node["controls"][0]) / node["size"][0]
    node["noise"] = np.array([((y[0] - y[1]) ** 2).mean() / 2])


def as_fit(node: dict[str, np.ndarray]) -> TermFit:
    """One cell a node. The controls multiply columns in nats and were fitted relative to m, which cancels."""
    keys = ("mean", "size", "weights", "slope", "near", "controls", "raw", "residual", "noise")
    t = {k: torch.from_numpy(np.asarray(v, dtype=np.float64)) for k, v in node.items() if k in keys}
    weights = torch.cat([t["weights"], t["slope"][:, None] * t["near"]], 1)
    raw, residual, noise = (t[name].sqrt() for name in ("raw", "residual", "noise"))
    return TermFit(t["mean"], t["size"], weights, t["controls"], raw, residual, noise, t["near"])


def _smooth(v: np.ndarray) -> np.ndarray:
    """Mean of a node and its neighbours: a variance from a few dozen examples wants pooling."""
    if len(v) < 3:
        return v
    padded = np.pad(v, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def spread_over_cells(
    node: dict[str, np.ndarray],
    nodes: Tensor,
    cells: Cells,
    near: np.ndarray,
    foretold: bool = False,
    typical: np.ndarray | float = 0.0,
) -> TermFit:
    """The fit at the nodes, interpolated to every cell linearly in the coordinate: of |m| per unit of scale its log
    less `typical` (M,), the mean expected error's, and m/|m|. near (M, E): as of `TermFit`. foretold: standard
    deviations then are a curve along the chain, see `_curve`."""
    place, scale = cells.place.numpy(), cells.scale.numpy()
    at = place[nodes.numpy()]

    def along(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        flat = values.reshape(len(at), -1)
        out = np.stack([np.interp(place, at, column) for column in flat.T], 1) if flat.shape[1] else flat[:0]
        return out.reshape(len(place), *values.shape[1:])

    size = np.log(np.maximum(node["size"], _TRACE * max(1e-300, float(node["size"].max()))))
    typical = np.broadcast_to(typical, len(place))
    size = np.exp(along(size - typical[nodes.numpy()]) + typical) * scale
    weights, slope = along(node["weights"]), along(node["slope"])
    q = weights.shape[1]
    values = {
        "mean": size * (along(node["share"]) - weights @ node["centre"][:q] - slope * (near @ node["centre"][q:])),
        "size": size,
        "weights": weights,
        "slope": slope,
        "near": near,
        "controls": along(node["controls"]),
    }
    bare = size / scale
    for name in ("raw", "residual", "noise"):
        if foretold and len(at) > _DEGREE:
            values[name] = (_curve(at, node["size"] * np.sqrt(node[name]), place) / bare) ** 2
            continue
        spread = _guarded(node["size"] * np.sqrt(_smooth(node[name])))
        floor = _TRACE * max(1e-300, float(spread.max()))
        between = np.maximum(along(spread), np.exp(along(np.log(np.maximum(spread, floor)))))
        values[name] = (between / bare) ** 2
    return as_fit(values)


def _curve(at: np.ndarray, spread: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Standard deviations at `place` (M,) by a quadratic of their logarithm through those at the nodes `at` (K,), large
    ones first; what examples few as a pilot's show at a node is less sure than that."""
    floor = _LEAST_NEIGHBOUR**2 * max(1e-300, float(spread.max()))
    kept = np.maximum(spread, floor)
    curve = np.polynomial.Polynomial.fit(at, np.log(kept), _DEGREE, w=np.sqrt(kept))
    return np.maximum(np.exp(np.clip(curve(place), np.log(floor), np.log(2 * kept.max()))), floor)


def _guarded(spread: np.ndarray) -> np.ndarray:
    """A standard deviation at every node, at least a tenth of its neighbours': errors that are rare there, and frequent
    one node on, are easily missed by a few dozen draws. For the same reason it is interpolated linearly at least."""
    padded = np.pad(spread, 1, mode="edge")
    return np.maximum(spread, _LEAST_NEIGHBOUR * np.maximum(padded[:-2], padded[2:]))

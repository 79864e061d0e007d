"""The pilot: a few hundred evaluations that say where the bound sits and what predicts it. Counted, never averaged in.

Some examples are evaluated twice at the first level and once at K nodes along the chain, spaced evenly in λ. With y the
term, m its mean at a node, F_i closed-form features of example i (`features.py`), and n the surrogate's two zero-mean
columns, all in nats, the fit at each node is

    y = m + |m| F_i·W + a·n + residual,

ridge regression whose strength is chosen by leave-one-out. Between nodes, y divided by the cell's scale, W, a and the
residual's relative standard deviation are interpolated in λ. The estimate that uses the fit draws its own noise, so
that it is unbiased whatever the fit says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import features as closed_form
from nelbo.bound.problem import Problem
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random

NODES = 9
EXAMPLES = 24
"""Examples of a pilot, where nothing else is said."""
DRAW = 1 << 31
"""Draw number of the pilot's noise, out of the way of the estimate's own."""
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 1e6)


@dataclass(frozen=True, eq=False)
class Fit:
    """Cells (M,) of the diffusion term, or the one cell of the reconstruction: mean m in nats and its size |m|,
    regression W (M, q), coefficients a (M, 2) of the zero-mean columns, and standard deviations (M,) relative to |m|:
    `raw` of y about m, `residual` after the fit, `noise` that part of it which is not the example's."""

    mean: Tensor
    size: Tensor
    weights: Tensor
    controls: Tensor
    raw: Tensor
    residual: Tensor
    noise: Tensor

    @property
    def total_weights(self) -> Tensor:
        """|m|·W summed over cells, (q,): the fit's total for an example is Σ m + F_i·(this)."""
        return self.size @ self.weights

    def predict(self, cells: Tensor, features: Tensor) -> Tensor:
        """m + |m| F·W for draws in `cells` (n,) with features (n, q), nats."""
        return self.mean[cells] + self.size[cells] * (features * self.weights[cells]).sum(1)

    def control(self, cells: Tensor, columns: Tensor) -> Tensor:
        """a·n for draws in `cells` with zero-mean columns (n, 2), nats."""
        return (self.controls[cells] * columns).sum(1)


@dataclass(frozen=True, eq=False)
class Left:
    """Of the pilot's examples `who` (P,): what the fit leaves of each, in sample and relative to |m|, at the first
    level (P,) and at the `nodes` (K,), (P, K), and the cells that a node stands for, by scale over its own (K,)."""

    who: Tensor
    reconstruction: Tensor
    diffusion: Tensor
    nodes: Tensor
    shares: Tensor


@dataclass(frozen=True, eq=False)
class Pilot:
    """What the pilot found: features of every example (N, q), fits of both terms, and what they cost."""

    surrogate: GaussianSurrogate | None
    features: Tensor
    chance: Tensor
    """Probabilities (N,) with which a design draws examples at random: see `_chance`."""
    reconstruction: Fit
    diffusion: Fit
    left: Left
    nfe: int

    @property
    def between(self) -> float:
        """Variance between examples of what the pilot's own fit leaves of the whole bound, nats²."""
        return self.between_by(self.reconstruction, self.diffusion)

    def between_by(self, reconstruction: Fit, diffusion: Fit, credited: bool = False) -> float:
        """Variance between examples of what corrections of the pilot's fits leave of the whole bound, nats².

        Observed in the pilot's examples, less its noise. credited: that part alone which n ≤ N draws with
        probabilities q save by not repeating examples, min(1, 1/(N q_i)) of an example's square.
        """
        left = self.left
        F = self.features[left.who]
        r, d, nodes = self.reconstruction, self.diffusion, left.nodes
        change = reconstruction.predict(nodes.new_zeros(len(F)), F) - r.predict(nodes.new_zeros(len(F)), F)
        total = left.reconstruction * r.size[0] - change
        noise = float(r.noise[0] * r.size[0]) ** 2
        if len(nodes):
            size = d.size[nodes].clamp_min(1e-300)
            change = (diffusion.mean - d.mean)[nodes] / size + F @ (diffusion.weights - d.weights)[nodes].mT
            rest = left.diffusion - change
            weight = left.shares * size
            total = total + rest @ weight
            noise += float((torch.from_numpy(_noise(rest.numpy())) * weight.square()).sum())
        if len(total) < 2:
            return 0.0
        share = torch.ones_like(total)
        if credited:
            share = (len(self.chance) * self.chance[left.who]).reciprocal().clamp_max(1)
        square = (total - total.mean()).square()
        return max(0.0, float((share * square).sum()) / (len(total) - 1) - noise * float(share.mean()))


def run(
    problem: Problem, examples: int, *, regression: bool = True, controls: bool = True, fit_on: int = 2048
) -> Pilot:
    """Evaluate `examples` keyed random examples at the nodes and fit. Deterministic in the problem's seed."""
    before = problem.nfe
    N, M = problem.examples, len(problem.cells)
    order = random.permutation(problem.seed, N, draw=1)
    surrogate = None
    features = torch.zeros(N, 0, dtype=torch.float64)
    chance = torch.full((N,), 1 / N, dtype=torch.float64)
    if regression or controls:
        surrogate = GaussianSurrogate.fit(problem.values(order[: min(fit_on, N)].sort().values).flatten(1).cpu())
        surrogate = surrogate.to(problem.device)
        if regression:
            features, expected = closed_form.of(problem, surrogate)
            chance = _chance(expected)
    chosen = order[: min(examples, N)].sort().values
    P = len(chosen)
    nodes = _nodes(problem)
    K = len(nodes)
    draws = DRAW + torch.arange(2).repeat_interleave(P)
    first = problem.reconstruction_columns(chosen.repeat(2), draws, surrogate if controls else None)
    F = features[chosen].numpy()
    reconstruction = _fit_nodes(first[:P].reshape(P, 1, 3).numpy(), np.ones(1), F, pooled=0)
    _noise_of_two(reconstruction, first.reshape(2, P, 3).numpy())
    if K:
        who, where = chosen.repeat_interleave(K), nodes.repeat(P)
        inner = torch.full((P * K,), 0.5)
        columns = problem.cell_columns(who, where, inner, where + 1, torch.full((P * K,), DRAW), surrogate)
        diffusion = _fit_nodes(columns.reshape(P, K, 3).numpy(), problem.cells.scale[nodes].numpy(), F, pooled=1)
    else:
        diffusion = _fit_nodes(np.zeros((P, 0, 3)), np.zeros(0), F, pooled=1)
    cells = _spread(diffusion, nodes, problem) if M else _as_fit(diffusion)
    return Pilot(
        surrogate=surrogate,
        features=features,
        chance=chance,
        reconstruction=_as_fit(reconstruction),
        diffusion=cells,
        left=Left(
            chosen,
            torch.from_numpy(reconstruction["left"][:, 0]),
            torch.from_numpy(diffusion["left"]),
            nodes,
            _shares(nodes, problem),
        ),
        nfe=problem.nfe - before,
    )


def _chance(expected: Tensor) -> Tensor:
    """q_i ∝ ½ + ½ s_i, with s_i the example's expected error over that of the mean example, averaged over levels.

    Examples that stand out carry much of the variance, and a uniform sample meets too few of them to say so. Weights
    1/(N q_i) keep the estimate unbiased and never exceed 2.
    """
    s = (expected / expected.mean(0).clamp_min(1e-300)).mean(1)
    q = 0.5 + 0.5 * s / s.mean()
    return q / q.sum()


def _nodes(problem: Problem) -> Tensor:
    """NODES cells, each once: the first, the last, and even quantiles of half the scale and half the stretch of λ, so
    that neither the steep start of a table of betas nor its long end is left to interpolation."""
    cells = problem.cells
    M = len(cells)
    if M <= NODES:
        return torch.arange(M)
    stretch = cells.upper - cells.lower
    weight = (cells.scale / cells.scale.sum() + stretch / stretch.sum()) / 2
    middle = weight.cumsum(0) - weight / 2
    wanted = torch.arange(1, NODES - 1, dtype=torch.float64) / (NODES - 1)
    inner = (middle[None, :] - wanted[:, None]).abs().argmin(1)
    return torch.unique(torch.cat([torch.tensor([0, M - 1]), inner]))


def _fit_nodes(columns: np.ndarray, scale: np.ndarray, F: np.ndarray, pooled: int) -> dict[str, np.ndarray]:
    """The fit at every node from columns (P, K, 3); `pooled` neighbours on each side share the controls' fit."""
    P, K, _ = columns.shape
    q = F.shape[1]
    y = columns[..., 0] / np.where(scale > 0, scale, 1)
    mean = y.mean(0)
    size = np.abs(mean)  # where all was exactly zero, no more than a trace of the largest
    size = np.maximum(size, 1e-9 * size.max(initial=0.0)) if size.max(initial=0.0) > 0 else np.ones_like(size)
    r = y / size - mean / size
    n = columns[..., 1:] / (scale * size)[None, :, None] if K else columns[..., 1:]
    centre = F.mean(0)
    F = F - centre
    weights, fitted, left = np.zeros((K, q)), np.zeros((P, K)), np.zeros((P, K))
    if q and P > 4:
        G = F.T @ F
        best = np.inf
        for ridge in _RIDGES:
            inverse = np.linalg.inv(G + ridge * P * np.eye(q))
            W = inverse @ F.T @ r
            leverage = np.einsum("ij,jk,ik->i", F, inverse, F) + 1 / P
            error = (r - F @ W) / (1 - np.clip(leverage, 0, 0.5))[:, None]
            score = float((error**2).mean(0).sum())
            if score < best:
                best, weights, fitted, left = score, W.T, F @ W, error
    else:
        left = r * P / max(1, P - 1)
    controls = np.zeros((K, 2))
    residual = r - fitted
    if np.any(n):
        for k in range(K):
            near = slice(max(0, k - pooled), k + pooled + 1)
            A, b = n[:, near].reshape(-1, 2), residual[:, near].reshape(-1)
            gram = A.T @ A
            controls[k] = np.linalg.solve(gram + 1e-3 * np.trace(gram) * np.eye(2) + 1e-300 * np.eye(2), A.T @ b)
        left = left - (n * controls).sum(-1) * P / max(1, P - 2)
    variance = (left**2).mean(0)
    return {
        "mean": mean - size * (weights @ centre),
        "centre": centre,
        "weights": weights,
        "controls": controls,
        "raw": (r**2).mean(0) * P / max(1, P - 1),
        "residual": variance,
        "noise": _noise(left),
        "left": residual - (n * controls).sum(-1),
        "size": size,
    }


def _noise(left: np.ndarray) -> np.ndarray:
    """That part (K,) of the mean square of `left` (P, K) that is not the example's."""
    variance = (left**2).mean(0)
    noise = variance.copy()
    if len(noise) > 2:
        # an example's own deviation is smooth along the chain; noise is what a line through neighbours misses
        bend = left[:, 1:-1] - (left[:, :-2] + left[:, 2:]) / 2
        noise[1:-1] = (bend**2).mean(0) / 1.5
        noise[[0, -1]] = noise[[1, -2]]
    return np.clip(noise, 0.05 * variance, variance)


def _noise_of_two(node: dict[str, np.ndarray], columns: np.ndarray) -> None:
    """Replace the noise of a one-node fit by half the mean squared difference of two draws, columns (2, P, 3)."""
    y = (columns[..., 0] - columns[..., 1:] @ node["controls"][0]) / node["size"][0]
    node["noise"] = np.array([((y[0] - y[1]) ** 2).mean() / 2])


def _as_fit(node: dict[str, np.ndarray]) -> Fit:
    """One cell a node. The controls multiply columns in nats and were fitted relative to m, which cancels."""
    keys = ("mean", "size", "weights", "controls", "raw", "residual", "noise")
    t = {k: torch.from_numpy(np.asarray(v, dtype=np.float64)) for k, v in node.items() if k in keys}
    spreads = (t[name].sqrt() for name in ("raw", "residual", "noise"))
    return Fit(t["mean"], t["size"], t["weights"], t["controls"], *spreads)


def _smooth(v: np.ndarray) -> np.ndarray:
    """Mean of a node and its neighbours: a variance from a few dozen examples wants pooling."""
    if len(v) < 3:
        return v
    padded = np.pad(v, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _spread(node: dict[str, np.ndarray], nodes: Tensor, problem: Problem) -> Fit:
    """The fit at the nodes interpolated to every cell, linearly in λ (the mean's logarithm per unit of scale)."""
    logsnr = problem.cells.logsnr.numpy()
    at = -logsnr[nodes.numpy()]

    def along(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        flat = values.reshape(len(at), -1)
        out = np.stack([np.interp(-logsnr, at, column) for column in flat.T], 1) if flat.shape[1] else flat[:0]
        return out.reshape(len(logsnr), *values.shape[1:])

    size = np.exp(along(np.log(np.maximum(node["size"], 1e-12 * max(1e-300, float(node["size"].max()))))))
    size = size * problem.cells.scale.numpy()
    weights = along(node["weights"])
    values = {
        "mean": size * (1 - weights @ node["centre"]),
        "size": size,
        "weights": weights,
        "controls": along(node["controls"]),
    }
    bare = size / problem.cells.scale.numpy()
    for name in ("raw", "residual", "noise"):
        spread = _guarded(node["size"] * np.sqrt(_smooth(node[name])))
        floor = 1e-12 * max(1e-300, float(spread.max()))
        between = np.maximum(along(spread), np.exp(along(np.log(np.maximum(spread, floor)))))
        values[name] = (between / bare) ** 2
    return _as_fit(values)


def _guarded(spread: np.ndarray) -> np.ndarray:
    """A standard deviation at every node, at least a tenth of its neighbours': errors that are rare there, and frequent
    one node on, are easily missed by a few dozen draws. For the same reason it is interpolated linearly at least."""
    padded = np.pad(spread, 1, mode="edge")
    return np.maximum(spread, 0.1 * np.maximum(padded[:-2], padded[2:]))


def _shares(nodes: Tensor, problem: Problem) -> Tensor:
    """Scale of the cells that are nearest to each node, over the node's own, (K,)."""
    if not len(nodes):
        return torch.zeros(0, dtype=torch.float64)
    at, scale = problem.cells.logsnr, problem.cells.scale
    nearest = (at[:, None] - at[nodes]).abs().argmin(1)
    return torch.zeros(len(nodes), dtype=torch.float64).index_add(0, nearest, scale) / scale[nodes].clamp_min(1e-300)

"""The pilot: a few hundred evaluations that say where the bound sits and what predicts it. Counted, never averaged in.

Some examples are evaluated twice at the first level and once at K nodes along the chain, spaced evenly in λ. With y the
term, m its mean at a node, F_i closed-form features of example i (logarithms of the surrogate's expected error), and
n the surrogate's two zero-mean columns, all in nats, the fit at each node is

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

from nelbo.bound.problem import Problem
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random

NODES = 9
EXAMPLES = 24
"""Examples of a pilot, where nothing else is said."""
FEATURES = 8
DRAW = 1 << 31
"""Draw number of the pilot's noise, out of the way of the estimate's own."""
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 1e6)


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
class Pilot:
    """What the pilot found: features of every example (N, q), fits of both terms, and what they cost."""

    surrogate: GaussianSurrogate | None
    features: Tensor
    reconstruction: Fit
    diffusion: Fit
    between: float
    """Variance between examples of what the fit leaves of the whole bound, nats²."""
    nfe: int


def run(
    problem: Problem, examples: int, *, regression: bool = True, controls: bool = True, fit_on: int = 2048
) -> Pilot:
    """Evaluate `examples` keyed random examples at the nodes and fit. Deterministic in the problem's seed."""
    before = problem.nfe
    N, M = problem.examples, len(problem.cells)
    order = random.permutation(problem.seed, N, draw=1)
    surrogate = None
    features = torch.zeros(N, 0, dtype=torch.float64)
    if regression or controls:
        surrogate = GaussianSurrogate.fit(problem.values(order[: min(fit_on, N)].sort().values).flatten(1).cpu())
        surrogate = surrogate.to(problem.device)
        if regression:
            features = _features(problem, surrogate)
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
        reconstruction=_as_fit(reconstruction),
        diffusion=cells,
        between=_between(diffusion, reconstruction, nodes, problem),
        nfe=problem.nfe - before,
    )


def _features(problem: Problem, surrogate: GaussianSurrogate) -> Tensor:
    """Logarithms of the surrogate's expected error at FEATURES levels, standardised over all examples, within ±4."""
    levels = problem.levels.logsnr
    logsnr = torch.linspace(float(levels[0]), float(levels[-1]), FEATURES, dtype=torch.float64, device=problem.device)
    log = torch.empty(problem.examples, FEATURES, dtype=torch.float64)
    for rows in torch.arange(problem.examples).split(1024):
        log[rows] = surrogate.expected(problem.values(rows), logsnr).log().cpu()
    spread = log.std(0, unbiased=False)
    return log.sub_(log.mean(0)).div_(spread.clamp_min(1e-9)).clamp_(-4, 4)


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
    size = np.where(np.abs(mean) > 0, np.abs(mean), 1.0)
    r = y / size - mean / size
    n = columns[..., 1:] / (scale * size)[None, :, None] if K else columns[..., 1:]
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
    noise = variance.copy()
    if K > 2:
        # an example's own deviation is smooth along the chain; noise is what a line through neighbours misses
        bend = left[:, 1:-1] - (left[:, :-2] + left[:, 2:]) / 2
        noise[1:-1] = (bend**2).mean(0) / 1.5
        noise[[0, -1]] = noise[[1, -2]]
    return {
        "mean": mean,
        "weights": weights,
        "controls": controls,
        "raw": (r**2).mean(0) * P / max(1, P - 1),
        "residual": variance,
        "noise": np.clip(noise, 0.05 * variance, variance),
        "left": left,
        "size": size,
    }


def _noise_of_two(node: dict[str, np.ndarray], columns: np.ndarray) -> None:
    """Replace the noise of a one-node fit by half the mean squared difference of two draws, columns (2, P, 3)."""
    y = (columns[..., 0] - columns[..., 1:] @ node["controls"][0]) / node["size"][0]
    node["noise"] = np.array([((y[0] - y[1]) ** 2).mean() / 2])


def _as_fit(node: dict[str, np.ndarray]) -> Fit:
    """One cell a node. The controls multiply columns in nats and were fitted relative to m, which cancels."""
    t = {k: torch.from_numpy(np.asarray(v, dtype=np.float64)) for k, v in node.items()}
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

    size = np.maximum(np.abs(node["mean"]), 1e-12 * max(1e-300, float(np.abs(node["mean"]).max())))
    mean = np.exp(along(np.log(size))) * problem.cells.scale.numpy()
    values = {
        "mean": mean,
        "size": mean,
        "weights": along(node["weights"]),
        "controls": along(node["controls"]),
        **{k: along(_smooth(node[k])) for k in ("raw", "residual", "noise")},
    }
    return _as_fit(values)


def _between(diffusion: dict, reconstruction: dict, nodes: Tensor, problem: Problem) -> float:
    """Variance between examples of the residual of the whole bound: observed in the pilot, less its noise."""
    total = reconstruction["left"][:, 0] * reconstruction["size"][0]
    noise = float(reconstruction["noise"][0] * reconstruction["size"][0] ** 2)
    if len(nodes):
        edges = -problem.cells.logsnr.numpy()
        nearest = np.abs(edges[:, None] - edges[nodes.numpy()]).argmin(1)
        shares = np.bincount(nearest, weights=problem.cells.scale.numpy(), minlength=len(nodes))
        weight = shares * diffusion["size"]
        total = total + diffusion["left"] @ weight
        noise += float((diffusion["noise"] * weight**2).sum())
    return max(0.0, float(total.var(ddof=1)) - noise) if len(total) > 1 else 0.0

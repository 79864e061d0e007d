"""The pilot: a few hundred evaluations that say where the bound sits and what predicts it. Counted, never averaged in.

Some examples are evaluated twice at the first level and once at K nodes along the chain, and a model of the terms is
fitted to them (`fit.py`) on closed-form features of the examples (`features.py`). The estimate that uses the fit draws
its own noise, so that it is unbiased whatever the fit says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import features as closed_form
from nelbo.bound import fit
from nelbo.bound.features import Features
from nelbo.bound.fit import Fit
from nelbo.bound.problem import Problem
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import random

NODES = 9
EXAMPLES = 24
"""Examples of a pilot, where nothing else is said."""
DRAW = 1 << 31
"""Draw number of the pilot's noise, out of the way of the estimate's own."""


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
    """What the pilot found: features of every example, fits of both terms, and what they cost."""

    surrogate: GaussianSurrogate | None
    features: Features
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

    def between_by(self, reconstruction: Fit | None, diffusion: Fit | None, credited: bool = False) -> float:
        """Variance between examples of what corrections of the pilot's fits leave of the whole bound, or of one of its
        terms, nats².

        Observed in the pilot's examples, less its noise. credited: that part alone which n ≤ N draws with
        probabilities q save by not repeating examples, min(1, 1/(N q_i)) of an example's square.
        """
        left = self.left
        F = self.features[left.who]
        total, noise = torch.zeros(len(F), dtype=torch.float64), 0.0
        if reconstruction is not None:
            r, zero = self.reconstruction, torch.zeros(len(F), dtype=torch.long)
            change = reconstruction.predict(zero, F) - r.predict(zero, F)
            total = left.reconstruction * r.size[0] - change
            noise = float(r.noise[0] * r.size[0]) ** 2
        if diffusion is not None and len(left.nodes):
            d, nodes = self.diffusion, left.nodes
            size = d.size[nodes].clamp_min(1e-300)
            change = (diffusion.mean - d.mean)[nodes] / size + F @ (diffusion.weights - d.weights)[nodes].mT
            rest = left.diffusion - change
            weight = left.shares * size
            total = total + rest @ weight
            noise += float((torch.from_numpy(fit.noise_of(rest.numpy())) * weight.square()).sum())
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
    features = Features(torch.zeros(N, 0))
    chance = torch.full((N,), 1 / N, dtype=torch.float64)
    if regression or controls:
        surrogate = _surrogate(problem, order[: min(fit_on, N)].sort().values)
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
    reconstruction = fit.at_nodes(first[:P].reshape(P, 1, 3).numpy(), np.ones(1), F, pooled=0)
    fit.noise_of_two(reconstruction, first.reshape(2, P, 3).numpy())
    if K:
        who, where = chosen.repeat_interleave(K), nodes.repeat(P)
        inner = torch.full((P * K,), 0.5)
        columns = problem.cell_columns(who, where, inner, where + 1, torch.full((P * K,), DRAW), surrogate)
        diffusion = fit.at_nodes(columns.reshape(P, K, 3).numpy(), problem.cells.scale[nodes].numpy(), F, pooled=1)
    else:
        diffusion = fit.at_nodes(np.zeros((P, 0, 3)), np.zeros(0), F, pooled=1)
    cells = fit.spread_over_cells(diffusion, nodes, problem) if M else fit.as_fit(diffusion)
    return Pilot(
        surrogate=surrogate,
        features=features,
        chance=chance,
        reconstruction=fit.as_fit(reconstruction),
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


def _surrogate(problem: Problem, rows: Tensor) -> GaussianSurrogate:
    """Fitted to the examples `rows` by the worker of rank 0, and given to the others as it is: all are to plan the same
    draws, and another machine may round otherwise."""
    workers, D = problem.workers, problem.model.domain.dimensions
    table, scale = torch.zeros(0, D, dtype=torch.float64), torch.zeros(0, 1, dtype=torch.float64)
    if workers.rank == 0:
        found = GaussianSurrogate.fit(problem.values(rows).flatten(1).cpu())
        if workers.size == 1:
            return found.to(problem.device)
        table = torch.cat([found.mean[None], found.basis.mT]).double()
        scale = torch.cat([found.variances, torch.tensor([found.rest])])[:, None].double()
    table, scale = workers.gather(table)[0], workers.gather(scale)[0][:, 0]
    basis = table[1:].mT.float().contiguous()
    return GaussianSurrogate(table[0].float(), basis, scale[:-1], float(scale[-1])).to(problem.device)


def _chance(expected: Tensor) -> Tensor:
    """q_i ∝ ½ + ½ s_i, with s_i the example's expected error over that of the mean example, averaged over levels.

    Examples that stand out carry much of the variance, and a uniform sample meets too few of them to say so. Weights
    1/(N q_i) keep the estimate unbiased and never exceed 2.
    """
    s = (expected / expected.mean(0).clamp_min(1e-30)).mean(1).double()
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


def _shares(nodes: Tensor, problem: Problem) -> Tensor:
    """Scale of the cells that are nearest to each node, over the node's own, (K,)."""
    if not len(nodes):
        return torch.zeros(0, dtype=torch.float64)
    at, scale = problem.cells.logsnr, problem.cells.scale
    nearest = (at[:, None] - at[nodes]).abs().argmin(1)
    return torch.zeros(len(nodes), dtype=torch.float64).index_add(0, nearest, scale) / scale[nodes].clamp_min(1e-300)

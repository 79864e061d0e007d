"""The pilot: a few hundred evaluations that say where the bound sits and what predicts it. Counted, never averaged in.

Some examples are evaluated twice at the first level and once at K nodes along the chain, and a model of the terms is
fitted to them (`regression.py`) on closed-form features of the examples. The estimate that uses the fit draws its own
noise, so that it is unbiased whatever the fit says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nelbo.bound.planned import regression
from nelbo.bound.planned.regression import Features, TermFit
from nelbo.bound.problem import Cells, Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.maths.keys import Purpose

NODES = 9
"""Cells along the chain that a pilot evaluates."""
FORETOLD_NODES = 6
"""The same of a chain whose terms are foretold: their spread along the chain is a curve, and slopes begin with 1."""
EXAMPLES = 24
"""Examples of a pilot, where nothing else is said."""
_CONTROLS_ON = 2048
"""Most examples that controls are fitted to."""
_BLOCK = 256
_ROUND = 8
"""Blocks of examples whose features a worker computes between two exchanges."""
_MOST_DEVIATIONS = 4
"""Standard deviations at which features are cut off, so that no example is extrapolated far."""


@dataclass(frozen=True, eq=False)
class PilotResiduals:
    """Of the pilot's `examples` (P,): the residual of the fit, in sample and relative to |m|, at the first level (P,)
    and at the `nodes` (K,), (P, K), and the cells that a node stands for, by scale over its own (K,)."""

    examples: Tensor
    reconstruction: Tensor
    diffusion: Tensor
    nodes: Tensor
    shares: Tensor


@dataclass(frozen=True, eq=False)
class Pilot:
    """The result of a pilot: controls, features of every example, fits of both terms, and what they cost.

    chance: probabilities (N,) with which a design draws examples at random, see `_chance`.
    """

    controls: object
    features: Features
    chance: Tensor
    reconstruction: TermFit
    diffusion: TermFit
    residuals: PilotResiduals
    nfe: int

    def between_by(self, reconstruction: TermFit | None, diffusion: TermFit | None) -> float:
        """Variance between examples of what corrections of the pilot's fits leave of the whole bound, or of one of its
        terms, nats². Observed in the pilot's examples, less its noise."""
        return max(0.0, self._between(reconstruction, diffusion, None)[0])

    def saved_by(self, reconstruction: TermFit | None, diffusion: TermFit | None) -> tuple[float, float]:
        """That part of `between_by` which n ≤ N draws with probabilities q save by not repeating examples,
        min(1, 1/(N q_i)) of an example's square; and the variance of this number, 2/(P − 1) of the square of all that
        P examples show, as of normal ones."""
        share = (len(self.chance) * self.chance[self.residuals.examples]).reciprocal().clamp_max(1)
        saved, noise = self._between(reconstruction, diffusion, share)
        return saved, 2 * (saved + noise) ** 2 / max(1, len(share) - 1)

    def _between(
        self, reconstruction: TermFit | None, diffusion: TermFit | None, share: Tensor | None
    ) -> tuple[float, float]:
        """The variance between examples of a `share` (P,) of the square of each, and the noise that was taken away."""
        pilot = self.residuals
        F = self.features[pilot.examples]
        total, noise = torch.zeros(len(F), dtype=torch.float64), 0.0
        if reconstruction is not None:
            r, zero = self.reconstruction, torch.zeros(len(F), dtype=torch.long)
            change = reconstruction.predict(zero, F) - r.predict(zero, F)
            total = pilot.reconstruction * r.size[0] - change
            noise = float(r.noise[0] * r.size[0]) ** 2
        if diffusion is not None and len(pilot.nodes):
            d, nodes = self.diffusion, pilot.nodes
            size = d.size[nodes].clamp_min(1e-300)
            change = (diffusion.mean - d.mean)[nodes] / size + F @ (diffusion.weights - d.weights)[nodes].mT
            residual = pilot.diffusion - change
            weight = pilot.shares * size
            total = total + residual @ weight
            noise += float((torch.from_numpy(regression.noise_of(residual.numpy())) * weight.square()).sum())
        if len(total) < 2:
            return 0.0, 0.0
        share = torch.ones_like(total) if share is None else share
        square, noise = (total - total.mean()).square(), noise * float(share.mean())
        return float((share * square).sum()) / (len(total) - 1) - noise, noise


def run(
    problem: Problem,
    runner: Runner,
    examples: int,
    *,
    regressed: bool = True,
    controlled: bool = True,
    most: float = math.inf,
) -> Pilot:
    """Evaluate `examples` keyed random examples at the nodes and fit. Deterministic in the problem's seed. Where there
    are fewer, each is taken several times, with no more than about `most` evaluations.

    regressed: whether the fit uses features of examples; controlled: whether it uses controls.
    """
    before = runner.nfe
    N, cells = problem.examples, problem.cells
    order = Purpose.PILOT_EXAMPLES.permutation(problem.seed, N)
    controls = None
    features = Features(torch.zeros(N, 0))
    chance = torch.full((N,), 1 / N, dtype=torch.float64)
    if regressed or controlled:
        controls = problem.fit_controls(order[: min(_CONTROLS_ON, N)].sort().values, runner.workers)
    few = order[: min(examples, N)].sort().values
    once = len(few) * (2 * problem.first_cost + len(_nodes(cells)) * problem.cell_cost)
    # so that few examples tell their variance as well; draws that can be alike tell hardly more
    draws_each = 1 if problem.alike else int(max(1, min(math.ceil(examples / len(few)), most / max(1, once))))
    chosen, repeat = few.repeat(draws_each), torch.arange(draws_each).repeat_interleave(len(few))
    P = len(chosen)
    nodes = _nodes(cells, FORETOLD_NODES if problem.foretold else NODES)
    K, width = len(nodes), 1 + problem.control_columns
    number = Purpose.PILOT_NOISE.draw + torch.cat([2 * repeat, 2 * repeat + 1])
    draws = Draws.first_level(chosen.repeat(2), number)
    first = runner.columns(problem, draws, controls if controlled else None)
    columns = torch.zeros(P * K, width, dtype=torch.float64)
    if K:
        which, inner = nodes.repeat(P), torch.full((P * K,), 0.5)
        number = Purpose.PILOT_NOISE.draw + 2 * repeat.repeat_interleave(K)
        draws = Draws(chosen.repeat_interleave(K), which + 1, number, which, inner)
        columns = runner.columns(problem, draws, controls)
        if controls is not None:
            controls, columns = problem.refine(controls, draws, columns, runner.workers)
    if regressed:
        features, expected = _features(problem, runner, controls)
        if not problem.foretold:
            slope = float(problem.follows(controls))
            features = replace(features, typical=expected.double().mean(0).clamp_min(1e-30).log(), slope=slope)
        chance = _chance(expected)
    fits = fitted(problem, features, (chosen, nodes), (first, columns), (problem.measure(0), problem.measure(1)))
    return Pilot(controls, features, chance, *fits, runner.nfe - before)


def fitted(
    problem: Problem,
    features: Features,
    at: tuple[Tensor, Tensor],
    drawn: tuple[Tensor, Tensor],
    measures: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[TermFit, TermFit, PilotResiduals]:
    """The fits of both terms, and what they leave, from draws of the examples `at`[0] (P,), twice at the first level
    and once at the nodes `at`[1] (K,): their columns (2P, 1 + C) and (P·K, 1 + C). measures: as of
    `Problem.measure`."""
    (chosen, nodes), (first, columns), cells = at, drawn, problem.cells
    P, K, width, F = len(chosen), len(nodes), columns.shape[1], features[chosen].numpy()
    of_first, of_nodes = measures
    first_measure = None if of_first is None else of_first[:P].reshape(P, 1).numpy()
    first_near = torch.eye(1, features.places).numpy()
    reconstruction = regression.at_nodes(
        first[:P].reshape(P, 1, width).numpy(),
        np.ones(1),
        F,
        first_near,
        0,
        measure=first_measure,
        slope=features.slope,
    )
    regression.noise_of_two(reconstruction, first.reshape(2, P, width).numpy())
    near = near_of(cells, features.places).double().numpy()
    diffusion = regression.at_nodes(
        columns.reshape(P, K, width).numpy(),
        cells.scale[nodes].numpy(),
        F,
        near[nodes.numpy()],  # a tensor of one node would index as a number does
        1,
        problem.foretold,
        None if of_nodes is None else of_nodes.reshape(P, K).numpy(),
        features.slope,
    )
    return (
        regression.as_fit(reconstruction),
        regression.spread_over_cells(diffusion, nodes, cells, near, problem.foretold, near @ features.typical.numpy())
        if K
        else regression.as_fit(diffusion),
        PilotResiduals(
            chosen,
            torch.from_numpy(reconstruction["in_sample"][:, 0]),
            torch.from_numpy(diffusion["in_sample"]),
            nodes,
            _shares(nodes, cells),
        ),
    )


def _features(problem: Problem, runner: Runner, controls: object) -> tuple[Features, Tensor]:
    """Features, standardised over all examples and cut off, with the expected errors (N, E) relative to their mean;
    and these as they are."""
    N = problem.examples
    blocks = torch.arange(N).split(_BLOCK)
    W, rank = runner.workers.size, runner.workers.rank
    features, expected = torch.empty(0), torch.empty(0)
    for start in range(0, len(blocks), _ROUND * W):
        some = blocks[start : start + _ROUND * W]
        mine = some[rank::W] or [blocks[0][:0]]
        parts = [problem.features(rows, controls) for rows in mine]
        q, E = parts[0][0].shape[1], parts[0][1].shape[1]
        table = torch.cat([torch.cat(part, 1) for part in parts])
        # every worker computes its share, and all know the same numbers: they are to plan the same draws
        shared = [table] if W == 1 else runner.workers.gather(table.double())
        if not start:
            features, expected = torch.empty(N, q), torch.empty(N, E)
        for k, theirs in enumerate(shared):
            if some[k::W]:
                rows = torch.cat(some[k::W])
                features[rows], expected[rows] = theirs[:, :q].float(), theirs[:, q:].float()
    relative = expected / torch.stack([column.double().mean() for column in expected.T]).clamp_min(1e-30).float() - 1
    if not features.shape[1]:
        return Features(relative, relative.shape[1]), expected
    mean = torch.stack([column.double().mean() for column in features.T])
    spread = torch.stack([column.double().std(unbiased=False) for column in features.T])
    varies = spread > 1e-6 * (1 + mean.abs())  # more than float32 rounds
    if not bool(varies.all()):
        features, mean, spread = features[:, varies], mean[varies], spread[varies]
    values = features.sub_(mean.float()).div_(spread.float()).clamp_(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    return Features(torch.cat([values, relative], 1), relative.shape[1]), expected


def _chance(expected: Tensor) -> Tensor:
    """q_i ∝ ½ + ½ s_i, with s_i the example's expected error over that of the mean example, averaged over levels.

    Examples that stand out carry much of the variance, and a uniform sample meets too few of them to say so. Weights
    1/(N q_i) keep the estimate unbiased and never exceed 2.
    """
    s = (expected / expected.mean(0).clamp_min(1e-30)).mean(1).double()
    q = 0.5 + 0.5 * s / s.mean()
    return q / q.sum()


def near_of(cells: Cells, places: int) -> Tensor:
    """The parts (M, E) of `places` even ones along the chain in the value of a cell, by linear interpolation."""
    if not len(cells) or places < 2:
        return torch.ones(len(cells), places)
    first, last = cells.start[0], cells.stop[-1]
    at = (cells.place - first) / (last - first) * (places - 1)
    return (1 - (at[:, None] - torch.arange(places)).abs()).clamp_min(0)


def _nodes(cells: Cells, number: int = NODES) -> Tensor:
    """`number` cells, each once: the first, the last, and even quantiles of half the scale and half the length, so that
    neither the steep start of a table of betas nor its long end is left to interpolation."""
    M = len(cells)
    if number >= M:
        return torch.arange(M)
    length = cells.stop - cells.start
    weight = (cells.scale / cells.scale.sum() + length / length.sum()) / 2
    middle = weight.cumsum(0) - weight / 2
    quantiles = torch.arange(1, number - 1, dtype=torch.float64) / (number - 1)
    inner = (middle[None, :] - quantiles[:, None]).abs().argmin(1)
    return torch.unique(torch.cat([torch.tensor([0, M - 1]), inner]))


def _shares(nodes: Tensor, cells: Cells) -> Tensor:
    """Scale of the cells that are nearest to each node, over the node's own, (K,)."""
    if not len(nodes):
        return torch.zeros(0, dtype=torch.float64)
    nearest = (cells.place[:, None] - cells.place[nodes]).abs().argmin(1)
    shares = torch.zeros(len(nodes), dtype=torch.float64).index_add(0, nearest, cells.scale)
    return shares / cells.scale[nodes].clamp_min(1e-300)

"""The fixed draws of a monitor: which examples, where along the chain, with which noise, and with which weights.

    diffusion       n draws y_k of cells in S = n/2 strata of the chain, two in each, of random examples;
                    estimate (1/n) Σ y_k/p(cell_k)
    first level     m draws r_i of the reconstruction, each with the exact prior term of its example;
                    estimate (1/m) Σ r_i

p is planned before there is a network (`planned`). Two draws of a stratum differ by noise,
example and place, and their differences give the standard error: of the value, and of a change, whose draws are the
differences of the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import paired
from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.monitoring import planned

FIRST_SHARE = 4
"""One of so many evaluations is of the first level, where its decoder calls the network."""
LEAST = 16
"""Fewest evaluations whose spread says something of their error."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One evaluation of the design in nats: weighted diffusion draws (S, 2) of the strata, first-level draws (m,)."""

    diffusion: Tensor
    first: Tensor

    @property
    def mean(self) -> float:
        """The estimate."""
        return paired.estimate(self.diffusion[:, 0], self.diffusion[:, 1], self.first)[0]

    @property
    def error(self) -> float:
        """Its standard error."""
        return math.sqrt(paired.widened(self.diffusion[:, 0], self.diffusion[:, 1], self.first))

    def __sub__(self, other: Rows) -> Rows:
        return Rows(self.diffusion - other.diffusion, self.first - other.first)


@dataclass(frozen=True, eq=False)
class Design:
    """The draws of every reading; weights (n,) of the diffusion draws, 1/p."""

    diffusion: Draws
    weights: Tensor
    first: Draws

    @classmethod
    def of(cls, problem: Problem, runner: Runner, budget: int) -> Design:
        """With at most `budget` evaluations a reading. Errors: UsageError where these are too few."""
        N, seed, calls = problem.examples, problem.seed, problem.first_cost
        if budget < LEAST:
            raise UsageError(f"a monitor of {budget} evaluations", f"give budget={LEAST} or more")
        m = max(LEAST // 2, budget // (FIRST_SHARE if calls else 2))
        S = (budget - m * calls) // 2 if len(problem.cells) else 0
        orders = (Purpose.MONITOR_EXAMPLES.permutation(seed, N, draw=k) for k in range(2))
        along, at_first = (o.repeat(math.ceil(k / N))[:k] for o, k in zip(orders, (2 * S, m), strict=True))
        scale = problem.cells.scale
        density = CellDensity.of(planned.density(problem, problem.cells.place, scale, runner.workers) if S else scale)
        k = torch.arange(2 * S)
        inside = Purpose.MONITOR_PLACE.uniform(seed, along, 0, k)
        cells, inner = density.place((k // 2 + inside) / S) if S else (k, k.double())
        numbers = Purpose.MONITOR_NOISE.draw
        return cls(
            Draws(along, cells + 1, numbers + k, cells, inner),
            1 / density.p[cells],
            Draws.first_level(at_first, numbers + torch.arange(m)),
        )

    def evaluate(self, problem: Problem, runner: Runner) -> Rows:
        """The draws under the network as it is now. Errors: NumericalError."""
        first = problem.prior(self.first.examples) + runner.nats(problem, self.first)
        diffusion = torch.zeros(0, 2, dtype=torch.float64)
        if len(self.diffusion):
            diffusion = (runner.nats(problem, self.diffusion) * self.weights).reshape(-1, 2)
        return Rows(diffusion, first)

"""Draws that all declarations share, and what one declaration makes of them.

A stage has S strata of a coordinate u ∈ [0, 1] with two draws each, and R draws of the first level. Every declaration
maps u to its own chain by a density p over its cells, half along its length and half like the term without a network,
so that at common noise the same u asks for the same level where two chains are the same. With y = term/p,

    bound = prior + mean of y + mean of the first level's term,        variance = Σ_k (y_k1 − y_k2)²/4 / S²  +  that of
                                                                                 the mean of the first level's
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import checks, paired
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.problem import Draws
from nelbo.bound.runner import Runner
from nelbo.maths.keys import Purpose

FREE_DRAWS = 32
"""Draws of the first level where they cost no evaluation."""


@dataclass(frozen=True, eq=False)
class Stage:
    """What is drawn: 2 S places and examples along the chain, R examples at the first level, and numbers of noise."""

    u: Tensor
    examples: Tensor
    first_examples: Tensor
    numbers: Tensor
    first_numbers: Tensor

    @classmethod
    def of(cls, seed: int, count: int, start: int, strata: int, first: int, examples: int) -> Stage:
        """Stage number `count`, whose noise is numbered from `start` on, over so many examples."""
        order = Purpose.DIAGNOSIS_EXAMPLES.permutation(seed, examples, 1 + count)
        rows = order[torch.arange(2 * strata + first) % examples]
        numbers = start + torch.arange(2 * strata)
        inside = Purpose.DIAGNOSIS_PLACE.uniform(seed, 0, 0, numbers)
        u = (torch.arange(strata).repeat(2) + inside) / max(1, strata)
        noise = Purpose.DIAGNOSIS_NOISE.draw
        first_numbers = noise + start + torch.arange(first)
        return cls(u, rows[: 2 * strata], rows[2 * strata :], noise + numbers, first_numbers)

    @property
    def strata(self) -> int:
        """S."""
        return len(self.u) // 2


@dataclass(frozen=True, eq=False)
class Values:
    """In nats: y of the draws along the chain (2, S), the terms of the first level (R,), and what is exact. logsnr
    (2, S): of the draws along the chain."""

    along: Tensor
    first: Tensor
    exact: float
    logsnr: Tensor

    @property
    def total(self) -> float:
        """The bound."""
        return self.exact + paired.estimate(self.along[0], self.along[1], self.first)[0]

    @property
    def variance(self) -> float:
        """Of the total."""
        return paired.estimate(self.along[0], self.along[1], self.first)[1]

    def __sub__(self, other: Values) -> Values:
        return Values(self.along - other.along, self.first - other.first, self.exact - other.exact, self.logsnr)

    def inside(self, low: float, high: float) -> Values:
        """The part of the draws along the chain whose log-SNR is between these."""
        part = (self.logsnr >= low) & (self.logsnr <= high)
        return Values(self.along * part, torch.zeros_like(self.first), 0.0, self.logsnr)


def pooled(stages: list[Values]) -> tuple[float, float]:
    """Value and variance of several stages, each by its strata."""
    weights = [values.along.shape[1] for values in stages]
    total = sum(weights)
    value = sum(w * v.total for w, v in zip(weights, stages, strict=True)) / total
    return value, sum((w / total) ** 2 * v.variance for w, v in zip(weights, stages, strict=True))


def density(chain: GaussianChain) -> Tensor:
    """p of every cell, (M,), which sums to one."""
    cells = chain.cells
    length = cells.stop - cells.start
    without = checks.without_network(chain)
    return 0.5 * length / length.sum() + 0.5 * without / without.sum()


def evaluated(chain: GaussianChain, runner: Runner, stage: Stage, p: Tensor) -> Values:
    """The stage under one declaration, without what is exact. Errors: NumericalError, and those of the network."""
    along, logsnr = (torch.zeros(2, stage.strata, dtype=torch.float64) for _ in range(2))
    if len(p):
        ends = p.cumsum(0)
        cells = torch.searchsorted(ends, stage.u * ends[-1]).clamp(max=len(p) - 1)
        inner = ((stage.u * ends[-1] - (ends[cells] - p[cells])) / p[cells]).clamp(0, math.nextafter(1, 0))
        draws = Draws(stage.examples, torch.ones_like(cells), stage.numbers, cells, inner)
        along = (runner.nats(chain, draws) / p[cells]).reshape(2, -1)
        logsnr = -chain.cells.place[cells].reshape(2, -1)
    first = runner.nats(chain, Draws.first_level(stage.first_examples, stage.first_numbers))
    return Values(along, first, 0.0, logsnr)

"""Estimators of the bound that others use, for comparison with ours: one random time an example and pass.

    uniform           t uniform, independent                                    (Ho et al. 2020, algorithm 1)
    low_discrepancy   t_i = (u + i/B) mod 1 within batches of B examples        (Kingma et al. 2021, app. I.1)
    importance        t ∝ √E[L_t²], independent, from the pilot                 (Nichol & Dhariwal 2021, eq. 18)

All are unbiased. Several passes over the same examples are independent, so their spread within an example (within a
batch, where examples share u) is an unbiased error bar about the exact bound of these examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate, TermEstimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.planned import allocation, pilot
from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.typing import Json

KINDS = ("uniform", "low_discrepancy", "importance")


@dataclass(frozen=True)
class OneTime(Estimator):
    """`passes` over all examples, one random time each, and as many first-level draws of every example, at most four.

    kind: "uniform", "low_discrepancy" or "importance". batch: examples that share a low-discrepancy sequence.
    """

    kind: str = "uniform"
    passes: int = 8
    batch: int = 64
    name = "one_time"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UnknownNameError.of("one-time estimator", self.kind, KINDS)
        if self.passes < 2 or self.batch < 1:
            raise UsageError(
                f"{self.passes} passes in batches of {self.batch}",
                "give at least two passes, so that there is an error bar, and a batch of at least one",
            )

    def describe(self) -> Json:
        return {"name": self.kind, "passes": self.passes}

    def cost(self, problem: Problem) -> int:
        return problem.examples * (self.passes * problem.cell_cost + problem.first_cost * min(4, self.passes))

    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        N, M, R = problem.examples, len(problem.cells), self.passes
        if M == 0:
            raise UsageError("a chain of one level has no diffusion term", "use estimator='exhaustive'")
        prior = problem.priors()
        density = CellDensity.of(torch.ones(M, dtype=torch.float64))
        if self.kind == "importance":
            first = pilot.run(problem, runner, pilot.EXAMPLES, regressed=False, controlled=False)
            density = allocation.density(first.diffusion, "importance")
        together = self.batch if self.kind == "low_discrepancy" else 1
        # which examples share a sequence, and their places in it: the same in every pass, at random
        place = torch.empty(N, dtype=torch.long)
        place[Purpose.ONE_TIME_GROUPS.permutation(problem.seed, N)] = torch.arange(N)
        examples, number = torch.arange(N).repeat(R), torch.arange(R).repeat_interleave(N)
        group = (place // together).repeat(R)
        u = Purpose.ONE_TIME_PLACE.uniform(problem.seed, group, 0, number)
        if together > 1:
            u = (u + (place % together).repeat(R) / together) % 1
        cells, inner = density.place(u)
        y = runner.nats(problem, Draws(examples, cells + 1, number, cells, inner)) / density.p[cells]
        draws = min(4, R)
        number = torch.arange(draws).repeat_interleave(N)
        r = runner.nats(problem, Draws.first_level(torch.arange(N).repeat(draws), number))
        terms = [_term(y.reshape(R, N), place // together), _term(r.reshape(draws, N), torch.arange(N))]
        total = terms[0].mean + terms[1].mean
        return Estimate(
            prior=TermEstimate.of(prior, torch.zeros_like(prior)),
            diffusion=terms[0],
            reconstruction=terms[1],
            total=TermEstimate(float(prior.mean()) + total, terms[0].variance + terms[1].variance, math.nan),
            strata=(),
            per_example=None,
            estimator=self.describe(),
        )


def _term(values: Tensor, group: Tensor) -> TermEstimate:
    """From values (R, N) of independent passes; examples of one `group` (N,) are dependent within a pass."""
    R, N = values.shape
    sums = torch.zeros(R, int(group.max()) + 1, dtype=values.dtype).index_add(1, group, values)
    return TermEstimate(float(values.mean()), float(sums.var(0).sum()) / R / N**2, math.nan)

"""The estimators that others use, as they use them, for comparison: one random time an example, pooled.

    uniform           t uniform, independent                                    (Ho et al. 2020, algorithm 1)
    low_discrepancy   t_i = (u + i/B) mod 1 within batches of B examples        (Kingma et al. 2021, app. I.1)
    importance        t ∝ √E[L_t²], independent, from the pilot                 (Nichol & Dhariwal 2021, eq. 18)

All are unbiased. Error bars: the spread of independent draws, or of independently shifted batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import designs, pilot
from nelbo.bound.estimate import Estimate, TermEstimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.problem import Problem
from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.typing import Json


@dataclass(frozen=True)
class OneTime(Estimator):
    """`draws` random times in all, each of an example drawn at random, and as many first-level draws divided by
    `share`; the reconstruction term is a term of its own, as VDM scores it.

    kind: "uniform", "low_discrepancy" or "importance". batch: size of a low-discrepancy batch.
    """

    kind: str = "uniform"
    draws: int = 4096
    batch: int = 64
    share: int = 8
    name = "one_time"

    def __post_init__(self):
        if self.kind not in ("uniform", "low_discrepancy", "importance"):
            raise UsageError(f"an estimator of kind {self.kind!r}", "choose uniform, low_discrepancy or importance")
        if self.draws < 4 * self.batch:
            raise UsageError(f"{self.draws} draws in batches of {self.batch}", "give at least four batches of draws")

    def describe(self) -> Json:
        return {"name": self.kind, "draws": self.draws}

    def cost(self, problem: Problem) -> int:
        return self.draws + problem.decoder_cost * max(2, self.draws // self.share)

    def estimate(self, problem: Problem) -> Estimate:
        N, M = problem.examples, len(problem.cells)
        if M == 0:
            raise UsageError("a chain of one level has no diffusion term", "use estimator='exhaustive'")
        prior = problem.prior()
        density = designs.Density.of(torch.ones(M, dtype=torch.float64))
        if self.kind == "importance":
            fit = pilot.run(problem, pilot.EXAMPLES, regression=False, controls=False).diffusion
            density = designs.neyman(fit, (1 + fit.raw.square()).sqrt())
        draws = torch.arange(self.draws)
        u = random.uniform(problem.seed, 0, 2, draws, stream=random.Stream.TIME)
        if self.kind == "low_discrepancy":
            u = (u[draws // self.batch * self.batch] + (draws % self.batch) / self.batch) % 1
        who = designs.anyone(problem.seed, N, 2, draws)
        cells, inner = density.place(u)
        y = problem.cell_columns(who, cells, inner, cells + 1, draws, None)[:, 0] / density.p[cells]
        if self.kind == "low_discrepancy":
            y = y[: self.draws // self.batch * self.batch].reshape(-1, self.batch).mean(1)
        draws = torch.arange(max(2, self.draws // self.share))
        r = problem.reconstruction(designs.anyone(problem.seed, N, 3, draws), draws)
        terms = [_term(v) for v in (y, r)]
        return Estimate(
            prior=TermEstimate.of(prior, torch.zeros_like(prior)),
            diffusion=terms[0],
            reconstruction=terms[1],
            total=TermEstimate(
                float(prior.mean()) + terms[0].mean + terms[1].mean, terms[0].variance + terms[1].variance, math.nan
            ),
            strata=(),
            per_example=None,
            estimator=self.describe(),
        )


def _term(values: Tensor) -> TermEstimate:
    return TermEstimate(float(values.mean()), float(values.var()) / len(values), math.nan)

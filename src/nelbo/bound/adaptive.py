"""`Adaptive`: the estimator that plans its own budget from a pilot and stops when the error bar is short enough.

The pilot is counted and never averaged in. Draws are then added in stages (`stages.py`), whose shares of the estimate
do not depend on what they showed, and the error bar is looked at between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import designs, plan, stages, stretches
from nelbo.bound.designs import Density, Said
from nelbo.bound.estimate import Estimate, TermEstimate
from nelbo.bound.estimate import PerExample as PerExampleEstimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.per_example import PerExample
from nelbo.bound.pilot import EXAMPLES, Pilot, run
from nelbo.bound.pooled import Pooled
from nelbo.bound.problem import Problem
from nelbo.errors import Interrupted, UsageError
from nelbo.maths.units import nats as to_nats
from nelbo.typing import Json


@dataclass(frozen=True)
class Adaptive(Estimator):
    """Pilot, Neyman allocation, control variates and regression, to a tolerance in bits/dim.

    design: "auto", "pooled" or "per_example". controls: the surrogate's and ‖ε‖² control variates. regression: the
    fit over examples. max_nfe: most evaluations, pilot included. strata: a fixed number of strata instead of a plan.
    """

    tolerance: float = 0.01
    max_nfe: int | None = None
    design: str = "auto"
    controls: bool = True
    regression: bool = True
    allocation: str = "neyman"
    pilot: int = EXAMPLES
    strata: int | None = None
    name = "adaptive"

    def __post_init__(self):
        if not (isinstance(self.tolerance, (int, float)) and math.isfinite(self.tolerance) and self.tolerance > 0):
            raise UsageError(f"a tolerance of {self.tolerance!r} bits/dim", "give a number > 0, such as 0.01")
        if self.pilot < 8:
            raise UsageError(f"a pilot of {self.pilot} examples", "a pilot needs at least 8 to fit anything")

    def describe(self) -> Json:
        return {
            "name": self.name,
            "design": self.design,
            "tolerance": self.tolerance,
            "max_nfe": self.max_nfe,
            "controls": self.controls,
            "regression": self.regression,
            "allocation": self.allocation,
        }

    def cost(self, problem: Problem) -> int:
        return self.max_nfe or 0

    def estimate(self, problem: Problem) -> Estimate:
        target = float(to_nats(self.tolerance, problem.model.domain.dimensions))
        prior = problem.prior()
        pilot = run(problem, self.pilot, regression=self.regression, controls=self.controls)

        def left() -> float:
            return math.inf if self.max_nfe is None else self.max_nfe - problem.nfe

        drawn, parts = self._design(problem, pilot, target, left)
        found: Said | None = None
        count = 0
        try:
            for cost in parts:
                if count and self._ends(drawn, found := self._looked(drawn, found, prior), target):
                    break
                problem.planned = problem.nfe + cost
                count += 1
            else:
                found = self._looked(drawn, found, prior) if count else None
        except KeyboardInterrupt:  # between two batches that it was waiting for
            problem.stopped = True
        if found is None and problem.stopped:
            raise Interrupted(
                f"interrupted after {problem.nfe} network evaluations, before there was an estimate",
                "run the same command again; with --state FILE it goes on where it was stopped",
            )
        if found is None:
            least = PerExample.least(problem) if self.design == "per_example" else Pooled.least(problem)
            raise UsageError(
                f"--max-nfe {self.max_nfe} leaves nothing after the pilot of {pilot.nfe} evaluations",
                f"allow at least {pilot.nfe + least} evaluations",
            )
        note = None
        if problem.stopped:
            note = "interrupted: the estimate is of the draws made until then"
        elif self.strata is None and math.sqrt(found.variance) > target:
            note = f"the tolerance {self.tolerance} was not reached with {problem.nfe} evaluations"
            if self.max_nfe is not None:
                note = f"--max-nfe {self.max_nfe} was reached before the tolerance {self.tolerance}"
        return self._result(problem, prior, pilot, drawn, found, count, note)

    def _looked(self, drawn: Pooled | PerExample, before: Said | None, prior: Tensor) -> Said | None:
        """What the draws say, told to those who watch; `before` where an interrupt left less than was known then."""
        found = drawn.said()
        if not math.isfinite(found.variance):
            return before
        drawn.problem.watch(float(prior.mean()) + found.value, math.sqrt(found.variance))
        return found

    def _ends(self, drawn: Pooled | PerExample, found: Said | None, target: float) -> bool:
        if drawn.problem.stopped:
            return True
        return found is not None and drawn.complete and self.strata is None and math.sqrt(found.variance) <= target

    def _design(
        self, problem: Problem, pilot: Pilot, target: float, left: Callable[[], float]
    ) -> tuple[Pooled | PerExample, Iterator[int]]:
        """The cheaper of the designs asked for, and its stages; none where there are not evaluations enough."""
        if self.design not in ("auto", "pooled", "per_example"):
            raise UsageError(f"unknown design {self.design!r}", "choose one of: auto, per_example, pooled")
        density = self._density(pilot)
        together = plan.pooled(problem, pilot, target)
        apart = plan.per_example(problem, pilot, target, self.strata)
        # beyond three evaluations an example, strata of its own serve it better, and tell their variance better
        finer = apart.cost < together.cost or together.cost > 3 * problem.examples
        if self.design == "per_example" or (self.design == "auto" and finer):
            if PerExample.least(problem) <= left():
                drawn = PerExample(problem, pilot, density)
                return drawn, stages.of_blocks(drawn, apart, target, left, self.strata)
            if self.design == "per_example":
                return PerExample(problem, pilot, density), iter(())
        drawn = Pooled(problem, pilot, density)
        return drawn, stages.of_pooled(drawn, together, left)

    def _density(self, pilot: Pilot) -> Density:
        fit = pilot.diffusion
        if len(fit.mean) == 0:
            return Density(fit.mean, torch.zeros(1, dtype=torch.float64))
        if self.allocation == "uniform":
            return Density.of(torch.ones_like(fit.mean))
        if self.allocation == "importance":
            return designs.neyman(fit, (1 + fit.raw.square()).sqrt())
        return designs.neyman(fit, fit.residual)

    def _result(
        self,
        problem: Problem,
        prior: Tensor,
        pilot: Pilot,
        drawn: Pooled | PerExample,
        found: Said,
        count: int,
        note: str | None,
    ) -> Estimate:
        N, zero = problem.examples, torch.zeros_like(prior)
        rows = None
        if found.examples is not None:
            v, rv = found.examples.diffusion, found.examples.reconstruction
            w, rw = (e.square().sum(1) for e in (found.examples.diffusion_errors, found.examples.reconstruction_errors))
            rows = PerExampleEstimate(prior + v + rv, (w + rw).sqrt(), prior, v, rv)
            data = [TermEstimate.of(*p).data_variance for p in ((v, w), (rv, rw), (rows.nats, w + rw))]
        else:
            data = [v / N for v in drawn.between(prior)]
        estimator = {
            **self.describe(),
            "picked": drawn.name,
            "stages": count,
            "pilot": {"examples": min(self.pilot, N), "evaluations": pilot.nfe},
        }
        return Estimate(
            prior=TermEstimate.of(prior, zero),
            diffusion=TermEstimate(*found.diffusion, data[0]),
            reconstruction=TermEstimate(*found.reconstruction, data[1]),
            total=TermEstimate(float(prior.mean()) + found.value, found.variance, data[2]),
            strata=stretches.of(problem, found.bins),
            per_example=rows,
            estimator=estimator,
            note=note,
        )

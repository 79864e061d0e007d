"""`Adaptive`: the estimator that plans its own budget from a pilot and stops when the error bar is short enough.

The pilot is counted and never averaged in. Draws are then added in stages, whose shares of the estimate do not depend
on what they showed, and the error bar is looked at between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate, PerExample, TermEstimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.planned import allocation, summary
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.pilot import EXAMPLES, Pilot, run
from nelbo.bound.planned.pooled import PooledDesign
from nelbo.bound.planned.summary import Summary
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Runner
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

    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        target = float(to_nats(self.tolerance, problem.dimensions))
        prior = problem.priors()
        pilot = run(problem, runner, self.pilot, regressed=self.regression, controlled=self.controls)
        design, stages = self._design(problem, runner, pilot, target)
        result: Summary | None = None
        count = 0
        try:
            for cost in stages:
                if count:
                    result = _latest(design, runner, prior, result)
                    if runner.stopped or (result is not None and self._reached(design, result, target)):
                        break
                runner.plan(runner.nfe + cost)
                count += 1
            else:
                result = _latest(design, runner, prior, result) if count else None
        except KeyboardInterrupt:  # between two batches that it was waiting for
            runner.stop()
        if result is None and runner.stopped:
            raise Interrupted(
                f"interrupted after {runner.nfe} network evaluations, before there was an estimate",
                "run the same command again; with --state FILE it goes on where it was stopped",
            )
        if result is None:
            least = (PerExampleDesign if self.design == "per_example" else PooledDesign).least(problem)
            raise UsageError(
                f"--max-nfe {self.max_nfe} leaves nothing after the pilot of {pilot.nfe} evaluations",
                f"allow at least {pilot.nfe + least} evaluations",
            )
        note = None
        if runner.stopped:
            note = "interrupted: the estimate is of the draws made until then"
        elif self.strata is None and math.sqrt(result.variance) > target:
            note = f"the tolerance {self.tolerance} was not reached with {runner.nfe} evaluations"
            if self.max_nfe is not None:
                note = f"--max-nfe {self.max_nfe} was reached before the tolerance {self.tolerance}"
        estimator = {
            **self.describe(),
            "picked": design.name,
            "stages": count,
            "pilot": {"examples": min(self.pilot, problem.examples), "evaluations": pilot.nfe},
        }
        return _estimate(problem, prior, design, result, estimator, note)

    def _reached(self, design: PooledDesign | PerExampleDesign, result: Summary, target: float) -> bool:
        return design.complete and self.strata is None and math.sqrt(result.variance) <= target

    def _design(
        self, problem: Problem, runner: Runner, pilot: Pilot, target: float
    ) -> tuple[PooledDesign | PerExampleDesign, Iterator[int]]:
        """The cheaper of the designs asked for, and its stages; none where there are not evaluations enough."""
        if self.design not in ("auto", "pooled", "per_example"):
            raise UsageError(f"unknown design {self.design!r}", "choose one of: auto, per_example, pooled")

        def remaining() -> float:
            return math.inf if self.max_nfe is None else self.max_nfe - runner.nfe

        density = allocation.density(pilot.diffusion, self.allocation)
        together = allocation.pooled(problem, pilot, target)
        apart = allocation.per_example(problem, pilot, target, self.strata)
        finer = apart.cost < together.cost or together.cost > allocation.FINER * problem.examples
        if self.design == "per_example" or (self.design == "auto" and finer):
            if PerExampleDesign.least(problem) <= remaining():
                design = PerExampleDesign(problem, runner, pilot, density)
                return design, design.run(apart, target, remaining, self.strata)
            if self.design == "per_example":
                return PerExampleDesign(problem, runner, pilot, density), iter(())
        design = PooledDesign(problem, runner, pilot, density)
        return design, design.run(together, remaining)


def _latest(
    design: PooledDesign | PerExampleDesign, runner: Runner, prior: Tensor, before: Summary | None
) -> Summary | None:
    """The result of the draws so far, reported; `before` where an interrupt left less than was known then."""
    result = design.summary()
    if not math.isfinite(result.variance):
        return before
    runner.report(float(prior.mean()) + result.value, math.sqrt(result.variance))
    return result


def _estimate(
    problem: Problem,
    prior: Tensor,
    design: PooledDesign | PerExampleDesign,
    result: Summary,
    estimator: Json,
    note: str | None,
) -> Estimate:
    rows = None
    if result.examples is not None:
        v, rv = result.examples.diffusion, result.examples.reconstruction
        w, rw = (e.square().sum(1) for e in (result.examples.diffusion_errors, result.examples.reconstruction_errors))
        rows = PerExample(prior + v + rv, (w + rw).sqrt(), prior, v, rv)
        data = [TermEstimate.of(*p).data_variance for p in ((v, w), (rv, rw), (rows.nats, w + rw))]
    else:
        data = [v / problem.examples for v in design.between(prior)]
    return Estimate(
        prior=TermEstimate.of(prior, torch.zeros_like(prior)),
        diffusion=TermEstimate(*result.diffusion, data[0]),
        reconstruction=TermEstimate(*result.reconstruction, data[1]),
        total=TermEstimate(float(prior.mean()) + result.value, result.variance, data[2]),
        strata=summary.strata(problem, result.bins),
        per_example=rows,
        estimator=estimator,
        note=note,
    )

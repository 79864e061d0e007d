"""`Adaptive`: the estimator that plans its own budget from a pilot and stops when the error bar is short enough.

The pilot is counted and never averaged in. What the whole will cost is then known, and announced or refused
(`cost.py`). Draws are added in stages, whose shares of the estimate do not depend on what they showed, and the error
bar is looked at between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from nelbo.arguments import numbers
from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.planned import allocation, blocks_plan, cost, error_bars, sides, summary
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.pilot import EXAMPLES, Pilot, run
from nelbo.bound.planned.pooled import PooledDesign
from nelbo.bound.planned.sign import Sign
from nelbo.bound.planned.summary import Summary
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Runner
from nelbo.bound.tolerance import Relative, Tolerance, in_nats, parse
from nelbo.errors import Interrupted, UsageError
from nelbo.typing import Json

_COARSEST = 3.0
"""Most that a first plan is coarser than the tolerance: the pooled design grows to 33 times of it."""


@numbers
@dataclass(frozen=True)
class Adaptive(Estimator):
    """Pilot, Neyman allocation, control variates and regression, to a tolerance in bits/dim or `Relative` to the value.

    design: "auto", "pooled" or "per_example". controls: the surrogate's and ‖ε‖² control variates. regression: the
    fit over examples. max_nfe: most evaluations, pilot included. strata: a fixed number of strata instead of a plan.
    any_cost: go on after the pilot whatever the plan costs; no draw depends on it. confidence: end as soon as the sign
    of the value is known at this level (`sign.py`), if not at the tolerance.
    """

    tolerance: Tolerance = 0.01
    max_nfe: int | None = None
    design: str = "auto"
    controls: bool = True
    regression: bool = True
    allocation: str = "neyman"
    pilot: int = EXAMPLES
    strata: int | None = None
    any_cost: bool = field(default=False, repr=False, compare=False)
    confidence: float | None = field(default=None, repr=False)
    name = "adaptive"

    def __post_init__(self):
        object.__setattr__(self, "tolerance", parse(self.tolerance))
        cost.check_budget(self.max_nfe, self.any_cost)
        if self.strata is not None and self.strata < 1:
            raise UsageError(f"strata={self.strata}", "give at least 1, or None for a plan")
        if self.pilot < 8:
            raise UsageError(f"a pilot of {self.pilot} examples", "a pilot needs at least 8 to fit anything")

    def describe(self) -> Json:
        return {
            "name": self.name,
            "design": self.design,
            "tolerance": str(self.tolerance) if isinstance(self.tolerance, Relative) else self.tolerance,
            "max_nfe": self.max_nfe,
            "controls": self.controls,
            "regression": self.regression,
            "allocation": self.allocation,
        }

    def cost(self, problem: Problem) -> int:
        return self.max_nfe or 0

    def within(self, max_nfe: int | None) -> Adaptive:
        """The same with another budget."""
        return replace(self, max_nfe=max_nfe)

    def estimate(self, problem: Problem, runner: Runner, first: int = 0, sign: Sign | None = None) -> Estimate:
        """first: the number of the first draw, where those before were made by another estimator; sign: of the looks
        that it had."""
        prior, before, sign = problem.priors(), runner.nfe, sign or Sign(self.confidence)
        if problem.along is not None:
            problem.along.begin()
        most = math.inf if self.max_nfe is None else (self.max_nfe - runner.nfe) / 4
        pilot = run(problem, runner, self.pilot, regressed=self.regression, controlled=self.controls, most=most)
        known = cost.of_pilot(problem, pilot, prior)
        result: Summary | None = None

        def target() -> float:
            """The standard error to reach, in nats: it follows what is known of the value where it is relative."""
            value = known.total.mean if result is None else float(prior.mean()) + result.value
            return in_nats(self.tolerance, value, problem.dimensions)

        def wanted() -> float:
            return sign.target(target(), known.total.mean if result is None else float(prior.mean()) + result.value)

        design, stages, needed = self._design(problem, runner, pilot, target, wanted)
        design.offset = first
        self._announce(problem, runner, known, needed)
        count = 0
        try:
            for evaluations in stages:
                if count:
                    result = _latest(design, runner, prior, result)
                    if runner.stopped:
                        break
                    reached = result is not None and self._reached(design, result, target())
                    if result is not None and self._known(sign, design, result, prior, runner.nfe - before, reached):
                        break
                    if result is not None and reached:
                        result = result.stopped() if count > 1 or design.name == "per_example" else result
                        break
                if count:
                    runner.plan(runner.nfe + evaluations)
                count += 1
            else:
                result = _latest(design, runner, prior, result) if count else None
                if result is not None:
                    self._known(sign, design, result, prior, runner.nfe - before, True)
        except KeyboardInterrupt:  # between two batches that it was waiting for
            runner.stop()
        if result is None and runner.stopped:
            raise Interrupted(
                f"interrupted after {runner.nfe} network evaluations, before there was an estimate",
                "do the same again; with state=FILE it goes on where it was stopped",
            )
        if result is None:
            least = (PerExampleDesign if self.design == "per_example" else PooledDesign).least(problem)
            raise UsageError(
                f"max_nfe={self.max_nfe} leaves nothing after the pilot of {pilot.nfe} evaluations",
                f"allow at least max_nfe={pilot.nfe + least}",
            )
        note = None
        if runner.stopped:
            note = "interrupted: the estimate is of the draws made until then"
        elif self.strata is None and math.sqrt(result.variance) > target() and not sign.known:
            note = f"the tolerance {self.tolerance} was not reached with {runner.nfe} evaluations"
            if self.max_nfe is not None:
                note = f"max_nfe={self.max_nfe} was reached before the tolerance {self.tolerance}"
        elif problem.alike:
            note = error_bars.of_few((runner.nfe - before - pilot.nfe) / 2)
        estimator = {
            **self.describe(),
            "picked": design.name,
            "stages": count,
            "pilot": {"examples": min(self.pilot, problem.examples), "evaluations": pilot.nfe},
            **({} if self.confidence is None else {"decided": sign.known}),
        }
        spreads = [] if result.examples is not None else design.spreads(prior)
        estimate = result.estimate(prior, summary.strata(problem, result.bins), spreads, estimator, note)
        return replace(estimate, sides=sides.of_design(problem, design))

    def _announce(self, problem: Problem, runner: Runner, pilot: Estimate, needed: float) -> None:
        """Say what the estimate will cost. Errors: CostError where that is more than is spent without a consent; a
        budget is one, and a number of strata."""
        unbounded = self.max_nfe is None and self.strata is None
        if unbounded and not self.any_cost and runner.nfe + needed > cost.unasked(problem):
            raise cost.refusal(problem, runner, self.tolerance, needed, pilot)
        planned = needed if self.max_nfe is None else min(needed, max(0, self.max_nfe - runner.nfe))
        seconds = runner.seconds_for(planned)
        runner.announce(round(runner.nfe + planned), cost.in_numbers(planned, problem.examples, seconds))

    def _reached(self, design: PooledDesign | PerExampleDesign, result: Summary, target: float) -> bool:
        enough = error_bars.enough(result.variance, result.freedom, target)
        return design.complete and self.strata is None and enough

    def _known(
        self,
        sign: Sign,
        design: PooledDesign | PerExampleDesign,
        result: Summary,
        prior: Tensor,
        evaluations: int,
        reached: bool,
    ) -> bool:
        """Whether the sign is known; not before every example has its draws where these were asked for."""
        if self.design == "per_example" and not design.complete:
            return False
        return sign.look(float(prior.mean()) + result.value, result.variance, result.freedom, evaluations, reached)

    def _design(
        self,
        problem: Problem,
        runner: Runner,
        pilot: Pilot,
        target: Callable[[], float],
        wanted: Callable[[], float],
    ) -> tuple[PooledDesign | PerExampleDesign, Iterator[int], float]:
        """The cheaper of the designs asked for, its stages, and the evaluations that it needs; no stages where there
        are not evaluations enough. target: the standard error to reach; wanted: that which is enough at first."""
        if self.design not in ("auto", "pooled", "per_example"):
            raise UsageError(f"unknown design {self.design!r}", "choose one of: auto, per_example, pooled")

        def remaining() -> float:
            return math.inf if self.max_nfe is None else self.max_nfe - runner.nfe

        density = allocation.density(pilot.diffusion, self.allocation, problem.foretold)
        coarse = min(wanted(), _COARSEST * target())
        together = allocation.pooled(problem, pilot, coarse)
        apart = blocks_plan.for_error(problem, pilot, coarse, self.strata)
        whole = [together.needed, apart.needed]
        if coarse > target():  # the tolerance is what an estimate is announced with
            plans = (plan(problem, pilot, target()) for plan in (allocation.pooled, blocks_plan.for_error))
            whole = [plan.needed for plan in plans]
        expected = allocation.CORRECTED * together.cost
        N = problem.examples
        finer = N < allocation.FEW or apart.cost < expected or expected > allocation.FINER * N
        if self.design == "per_example" or (self.design == "auto" and finer):
            if PerExampleDesign.least(problem) <= remaining():
                design = PerExampleDesign(problem, runner, pilot, density)
                return design, design.run(apart, wanted, remaining, self.strata), whole[1]
            if self.design == "per_example":
                return PerExampleDesign(problem, runner, pilot, density), iter(()), whole[1]
        design = PooledDesign(problem, runner, pilot, density)
        return design, design.run(together, wanted, remaining), whole[0]


def _latest(
    design: PooledDesign | PerExampleDesign, runner: Runner, prior: Tensor, before: Summary | None
) -> Summary | None:
    """The result of the draws so far, reported; `before` where an interrupt left less than was known then."""
    result = design.summary()
    if not math.isfinite(result.variance):
        return before
    runner.report(float(prior.mean()) + result.value, math.sqrt(result.variance))
    return result

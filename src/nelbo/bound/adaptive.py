"""`Adaptive`: the estimator that plans its own budget from a pilot and stops when the error bar is short enough.

The pilot is counted and never averaged in. The plan aims a little below the tolerance; the error bar is then looked
at only at preset multiples of the plan, because stopping at the first lucky look would favour samples whose skewed
tail has not shown yet. Stages are averaged with weights that were fixed before they were drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound import designs
from nelbo.bound.designs import FALL, Density, Stage
from nelbo.bound.estimate import Estimate, PerExample, TermEstimate
from nelbo.bound.estimators import Estimator
from nelbo.bound.pilot import EXAMPLES, Pilot, run
from nelbo.bound.pooled import pooled
from nelbo.bound.problem import Problem
from nelbo.bound.stages import averaged, merge_rows, stretches
from nelbo.errors import Interrupted, UsageError
from nelbo.maths.units import nats as to_nats
from nelbo.typing import Json

LOOKS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.1, 2.5, 3.0, 4.0, 5.5, 8.0, 12.0, 20.0, 35.0)
"""Multiples of the plan at which the error bar is looked at."""
FIRST_STRATA = 3
"""Most strata an example gets before the error bar is looked at: a small pilot overrates what they leave."""
CREDIT = 0.75
"""Share of the variance between examples that a pooled design is credited for drawing examples without replacement:
the pilot knows that variance roughly, and an error bar should rather be a little long."""
MIN_DRAWS = 384
"""Draws of the smallest pooled stage: fewer would not tell their own variance."""


@dataclass(frozen=True)
class Plan:
    """A design and its size: strata and first-level draws (of all examples together, or of each one)."""

    design: str
    strata: int
    reconstructions: int
    cost: int


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
        density = self._density(pilot)
        plan = self._plan(problem, pilot, target)
        stages: list[Stage] = []
        done, offset = 0.0, 0
        note = None
        for look in LOOKS:
            if plan.design == "pooled":
                step = self._part(problem, plan, look - done)
            else:
                step = self._strata(problem, plan, stages, target)
            if self.max_nfe is not None and problem.nfe + step.cost > self.max_nfe:
                step = self._within(problem, plan, self.max_nfe - problem.nfe)
                note = f"--max-nfe {self.max_nfe} was reached before the tolerance {self.tolerance}"
                if step is None:
                    break
            problem.planned = self._expected(problem, plan, pilot, step)
            try:
                size = (step.strata, step.reconstructions, offset)
                if step.design == "pooled":
                    stage = pooled(problem, pilot, density, *size, past=stages)
                else:
                    stage = designs.per_example(problem, pilot, density, *size)
            except KeyboardInterrupt:  # between two batches that it was waiting for
                problem.stopped = True
                break
            if problem.stopped and not self._adds(stage, stages):
                break
            stages.append(stage)
            offset += 2 * max(step.strata, step.reconstructions)
            done = look
            total = self._combined(problem, pilot, plan, stages)
            problem.watch(float(prior.mean()) + total.value, math.sqrt(total.variance))
            if problem.stopped or note is not None or self.strata is not None:
                break
            if math.sqrt(total.variance) <= target:
                break
        else:
            note = f"the tolerance {self.tolerance} was not reached at {LOOKS[-1]} times the planned budget"
        if problem.stopped and not stages:
            raise Interrupted(
                f"interrupted after {problem.nfe} network evaluations, before there was an estimate",
                "run the same command again; with --state FILE it goes on where it was stopped",
            )
        if not stages:
            raise UsageError(
                f"--max-nfe {self.max_nfe} leaves nothing after the pilot of {pilot.nfe} evaluations",
                f"allow at least {pilot.nfe + self._part(problem, plan, 1.0).cost} evaluations",
            )
        if problem.stopped:
            note = "interrupted: the estimate is of the draws made until then"
        return self._result(problem, prior, pilot, plan, stages, note)

    def _adds(self, stage: Stage, stages: list[Stage]) -> bool:
        """Whether an interrupted stage is worth keeping: it knows its variance, and takes no rows of examples away."""
        rows = bool(stages) and all(s.examples is not None for s in stages) and stage.examples is None
        return math.isfinite(stage.variance) and not rows

    def _expected(self, problem: Problem, plan: Plan, pilot: Pilot, step: Plan) -> int:
        """Evaluations of the whole estimate as they look now."""
        whole = max(problem.nfe + step.cost, round(pilot.nfe + LOOKS[0] * plan.cost))
        return whole if self.max_nfe is None else min(whole, self.max_nfe)

    def _density(self, pilot: Pilot) -> Density:
        fit = pilot.diffusion
        if len(fit.mean) == 0:
            return Density(fit.mean, torch.zeros(1, dtype=torch.float64))
        if self.allocation == "uniform":
            return Density.of(torch.ones_like(fit.mean))
        if self.allocation == "importance":
            return designs.neyman(fit, (1 + fit.raw.square()).sqrt())
        return designs.neyman(fit, fit.residual)

    def _plan(self, problem: Problem, pilot: Pilot, target: float) -> Plan:
        """The cheaper of the two designs for a standard error of `target`, from the pilot's variances."""
        goal = target**2
        d, r = pilot.diffusion, pilot.reconstruction
        spread = float((d.size * d.residual).sum())
        spread_r = float(r.size[0] * r.residual[0])
        cost_r = max(problem.decoder_cost, 0.05)
        # Neyman between the two terms: draws ∝ sd / √cost
        both = spread + spread_r * math.sqrt(cost_r)
        N = problem.examples
        credit = CREDIT * min(pilot.between_by(r, d, credited=True), spread**2)
        share = both / (goal + credit / N)
        if share * spread > N:
            share = (both - credit / max(spread, 1e-300)) / goal
        n = max(MIN_DRAWS / 2, share * spread) if spread else 0
        n_r = max(MIN_DRAWS / 2, share * spread_r / math.sqrt(cost_r))
        pairs, n_r = math.ceil(n / 2), math.ceil(n_r)
        choices = [Plan("pooled", pairs, n_r, 2 * pairs + problem.decoder_cost * n_r)]
        noise = float((d.size * d.noise).sum()) ** 2
        image = max(0.0, spread**2 - noise)
        noise_r = float(r.size[0] * r.noise[0]) ** 2
        sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
        least = self._least(N)
        sizes = [self.strata] if self.strata else [least, *(n for n in sizes if n > least)]
        for strata in sizes:
            # draws of the two terms in proportion to their standard deviations
            m = max(1, round(strata * math.sqrt(noise_r / max(noise + image / 2, 1e-300) / cost_r)))
            if (noise / strata + image / 2 / strata**1.7 + noise_r / m) / 2 <= goal * N or strata == sizes[-1]:
                cost = N * (2 * strata * bool(len(problem.cells)) + 2 * m * problem.decoder_cost)
                choices.append(Plan("per_example", strata, m, cost))
                break
        if choices[0].cost > 3 * N and self.design == "auto":
            choices = choices[1:]  # strata of its own serve an example better, and tell their variance better
        wanted = [c for c in choices if self.design in ("auto", c.design)]
        if not wanted:
            raise UsageError(f"unknown design {self.design!r}", "choose one of: auto, per_example, pooled")
        return min(wanted, key=lambda c: c.cost)

    def _least(self, N: int) -> int:
        """Fewest strata of an example: as many pairs in all as the smallest pooled stage has draws."""
        return math.ceil(MIN_DRAWS / N)

    def _part(self, problem: Problem, plan: Plan, share: float) -> Plan:
        """The stage that is `share` of the plan; at least one stratum, or a stage that knows its variance."""
        least = MIN_DRAWS // 4 if plan.design == "pooled" else 1
        strata = max(least, math.ceil(plan.strata * share))
        reconstructions = max(least, math.ceil(plan.reconstructions * share))
        cost = 2 * strata * bool(len(problem.cells)) + reconstructions * problem.decoder_cost * (
            1 if plan.design == "pooled" else 2
        )
        return replace(
            plan,
            strata=strata,
            reconstructions=reconstructions,
            cost=cost * (1 if plan.design == "pooled" else problem.examples),
        )

    def _strata(self, problem: Problem, plan: Plan, stages: list[Stage], target: float) -> Plan:
        """The next per-example stage: the plan's at first, then what the variance seen so far still asks for."""
        if self.strata is not None:
            return replace(plan, strata=self.strata)
        if not stages:
            strata = min(plan.strata, max(FIRST_STRATA, self._least(problem.examples)))
        else:
            total = averaged(stages)
            missing = max(0.0, total.variance / target**2 - 1)
            had = sum(s.weight for s in stages) ** (1 / FALL)
            strata = min(1024, max(1, math.ceil(had * missing ** (1 / FALL))))
        m = max(1, round(plan.reconstructions * strata / plan.strata))
        return replace(
            plan,
            strata=strata,
            reconstructions=m,
            cost=problem.examples * (2 * strata * bool(len(problem.cells)) + 2 * m * problem.decoder_cost),
        )

    def _within(self, problem: Problem, plan: Plan, left: int) -> Plan | None:
        """The largest stage of the plan's design, else the pooled one, that costs at most `left`; None if none does."""
        for share in (0.9, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05):
            step = self._part(problem, plan, share)
            if step.cost <= left:
                return step
        least = self._part(problem, Plan("pooled", 1, 1, 0), 1.0)
        if self.design != "per_example" and least.cost <= left:
            return self._part(problem, Plan("pooled", left // 3, left // 3, 0), 1.0)
        return None

    def _combined(self, problem: Problem, pilot: Pilot, plan: Plan, stages: list[Stage]) -> Stage:
        """The stages so far as one, with the credit for drawing examples without replacement."""
        total = averaged(stages)
        if plan.design == "per_example" or not len(problem.cells):
            return total
        value, variance = total.diffusion
        n = float(total.bins[:, 2].sum())
        between = sum(s.weight * s.between for s in stages) / total.weight
        credit = CREDIT * between * min(1 / problem.examples, 1 / max(1.0, n))
        return replace(total, diffusion=(value, max(variance - credit, 0.4 * variance)))

    def _result(
        self, problem: Problem, prior: Tensor, pilot: Pilot, plan: Plan, stages: list[Stage], note: str | None
    ) -> Estimate:
        total = self._combined(problem, pilot, plan, stages)
        N = problem.examples
        rows = None
        merged = merge_rows(stages)
        if merged is not None:
            v, rv = merged.diffusion, merged.reconstruction
            w, rw = (e.square().sum(1) for e in (merged.diffusion_errors, merged.reconstruction_errors))
            rows = PerExample(prior + v + rv, (w + rw).sqrt(), prior, v, rv)
            data = [TermEstimate.of(*p).data_variance for p in ((v, w), (rv, rw), (rows.nats, w + rw))]
        else:
            d, r = pilot.diffusion, pilot.reconstruction
            fits = [pilot.features @ d.total_weights, pilot.features @ r.total_weights]
            spread = [float(f.var()) if N > 1 else math.nan for f in (*fits, prior + fits[0] + fits[1])]
            own = float((r.size[0] * r.noise[0]) ** 2)
            left = [pilot.between, max(0.0, pilot.between - own), pilot.between]
            data = [(s + b) / N for s, b in zip(spread, left, strict=True)]
        estimator = {
            **self.describe(),
            "picked": plan.design,
            "stages": len(stages),
            "pilot": {"examples": min(self.pilot, N), "evaluations": pilot.nfe},
        }
        return Estimate(
            prior=TermEstimate.of(prior, torch.zeros_like(prior)),
            diffusion=TermEstimate(*total.diffusion, data[0]),
            reconstruction=TermEstimate(*total.reconstruction, data[1]),
            total=TermEstimate(float(prior.mean()) + total.value, total.variance, data[2]),
            strata=stretches(problem, total.bins),
            per_example=rows,
            estimator=estimator,
            note=note,
        )

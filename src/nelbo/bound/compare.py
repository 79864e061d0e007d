"""`compare`: the difference of two models' bounds on the same examples, with common random numbers.

Both models are evaluated by the per-example design at the same positions of the chain and the same noise, wherever
their chains have the same levels. What the draws have in common cancels in the difference, and so does what examples
have in common: its standard errors are those of the paired differences, not of two numbers.

The draws are where both bounds vary, not where their difference does, and noise has no opposite: a contrast of two
models (`nelbo.contrast`, `nelbo.log_ratio`) takes about half of the evaluations for the same error of the difference,
but its draws say next to nothing of either bound, whose error is some ten times longer there than here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import checks
from nelbo.bound.contrast.asked import same_chain
from nelbo.bound.contrast.race import Goal, threshold
from nelbo.bound.difference import Comparison
from nelbo.bound.estimate import TermEstimate
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import allocation, cost, pilot
from nelbo.bound.planned.allocation import FALL, LARGEST, CellDensity
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.summary import ExampleValues
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.runner import Runner
from nelbo.bound.tolerance import Relative, Tolerance, in_nats, in_words, parse
from nelbo.bound.trial import trial
from nelbo.bound.values import StandardError
from nelbo.errors import CostError, UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.progress import with_error
from nelbo.workers import Run

STAGES = 12
"""Most stages; each is planned from the paired variance that the ones before have shown, so that few are needed."""


def compare(
    model_a: DiffusionModel,
    model_b: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    tolerance: float | str | Relative = 0.01,
    max_nfe: int | None = None,
    any_cost: bool = False,
    condition: Mapping[str, Tensor] | None = None,
    confidence: float | None = None,
) -> Comparison:
    """The difference of the bounds of `data` under two models, A − B, to a paired standard error of `tolerance`.

    Options as of `evaluate`; max_nfe is for both models together, a relative tolerance is relative to the difference,
    and what the tolerance will cost is known after the first stage, of two strata an example. confidence: end as soon
    as the sign of the difference is known at this level, see `sign_is_known`. Errors: those of `evaluate`, and
    UsageError where the models have other data domains, since their bits/dim are then of unlike quantities.
    """
    started, tolerance = time.perf_counter(), parse(tolerance)
    budget = Budget(tolerance, max_nfe, any_cost, None if confidence is None else Goal(confidence))
    domains = model_a.domain, model_b.domain
    if domains[0].to_config() != domains[1].to_config():
        raise UsageError(
            f"the models score unlike data: {domains[0].to_config()} and {domains[1].to_config()}",
            "compare models of one data domain: same shape, bins and range",
        )
    a = prepare(model_a, data, run, condition=condition)
    b = prepare(model_b, a.examples, run, condition=condition, runner=a.runner)
    both, runner = (a, b), a.runner
    notes = [note for one in both for note in checks.overlap(one.model, one.examples)]
    D, sizes = a.chain.dimensions, a.examples.sizes
    how = {"compared_with": str(b.fingerprint), "tolerance": repr(tolerance), "max_nfe": repr(max_nfe)}
    how |= {} if confidence is None else {"confidence": repr(confidence)}
    a.agree("compare", **how)
    claims = [one.claims() for one in both]
    a.open_state(**how)
    try:
        with a.chain.model.denoiser.inference(), b.chain.model.denoiser.inference():
            notes += [note for one in both for note in trial(one.chain, runner)]
            rows, reached, decided, common = _differences(both, budget)
    finally:
        runner.close()
    if not reached and not decided:
        notes.append(f"the tolerance {tolerance} was not reached with {runner.nfe} evaluations")
    values = [p.chain.priors() + r.diffusion + r.reconstruction for p, r in zip(both, rows, strict=True)]
    difference = TermEstimate.of(values[0] - values[1], _errors(*rows).square().sum(1))
    share = D * len(sizes) / int(sizes.sum())  # 1 but for examples of different size, whose mean D is rounded
    if bool((sizes != sizes[0]).any()):
        difference = difference.over(sizes).scaled(share)
    checks.warn(notes)
    return Comparison(
        difference=float(bits_per_dim(difference.mean, D)),
        standard_error=StandardError.of(
            difference.variance, difference.data_variance, D, representative=a.examples.representative
        ),
        a=float(bits_per_dim(share * float(values[0].mean()), D)),
        b=float(bits_per_dim(share * float(values[1].mean()), D)),
        per_example=values[0] - values[1],
        sizes=sizes if a.examples.mask is not None else None,
        examples=len(values[0]),
        dimensions=D,
        nfe_total=runner.nfe,
        common_noise=common,
        confidence=confidence,
        decided=decided if confidence is not None else None,
        tolerance=tolerance,
        seed=a.run.seed,
        precision=a.run.precision,
        data=claims[0]["data"],
        models=({**claims[0]["model"], **claims[0]["description"]}, {**claims[1]["model"], **claims[1]["description"]}),
        version=__version__,
        warnings=tuple(notes),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class Budget:
    """How far to go: a tolerance of the difference, and evaluations, see `evaluate`; a decision about its sign."""

    tolerance: Tolerance
    max_nfe: int | None
    any_cost: bool
    decision: Goal | None = None

    def __post_init__(self):
        cost.check_budget(self.max_nfe, self.any_cost)

    def check(self, chain: GaussianChain, runner: Runner, planned: float, difference: float, error: float) -> None:
        """Say what a comparison will cost. Errors: CostError where that is more than is spent without a consent; the
        difference and its standard error, in nats, are what is known of it."""
        N, D, most = chain.examples, chain.dimensions, 2 * cost.unasked(chain)
        words = cost.in_numbers(planned, N, runner.seconds_for(planned))
        if self.max_nfe is not None or self.any_cost or runner.nfe + planned <= most:
            runner.announce(round(min(runner.nfe + planned, self.max_nfe or math.inf)), words)
            return
        known, spread = (float(bits_per_dim(v, D)) for v in (difference, error))
        refused = CostError(
            f"a standard error of {in_words(self.tolerance)} takes {words}, and no more than {most:,} are spent "
            f"unasked; the first {runner.nfe:,} say that the difference is about {known:.3g} ± {spread:.2g} bits/dim",
            f"give a larger tolerance=…, a budget of evaluations such as max_nfe={most}, or "
            "any_cost=True to spend them all",
        )
        refused.evaluations = planned
        raise refused


def sign_is_known(goal: Goal, stage: int, difference: float, errors: Tensor) -> bool:
    """Whether a mean of N differences is further from 0 than chance takes it, after `stage` looks before; errors
    (N, k): of each, whose squares add up to its variance.

    The level 1 − confidence is shared out among the stages as among the looks of a race, so that the probability that
    the worse model is ever called the better one is at most that. t has 3 (Σ e²)²/Σ e⁴ − 2 degrees of freedom.
    """
    squares = errors.square()
    variance = squares.sum()
    freedom = (3 * variance.square() / squares.square().sum().clamp_min(1e-300) - 2).clamp_min(2.0)
    bar = threshold(goal, stage, torch.ones((), dtype=torch.int64), freedom) * variance.sqrt() / len(errors)
    return abs(difference) > float(bar)


def _differences(both: tuple[Prepared, Prepared], budget: Budget) -> tuple[list[ExampleValues], bool, bool, bool]:
    """Per-example values of both models from as many stages as the paired standard error asks for, or the sign takes;
    whether the error was reached; whether the sign is known; whether the models share their noise."""
    a, b = (one.chain for one in both)
    runner, N = both[0].runner, a.examples
    pilots = [pilot.run(chain, runner, pilot.EXAMPLES) for chain in (a, b)]
    densities = [allocation.density(p.diffusion) for p in pilots]
    common = same_chain(a, b)
    if common and len(a.cells):
        densities = [CellDensity.of(densities[0].p + densities[1].p)] * 2
    designs = [PerExampleDesign(*parts) for parts in zip((a, b), (runner, runner), pilots, densities, strict=True)]
    for design in designs:
        for rows in torch.arange(N).split(LARGEST):
            design.new(len(rows))
    prior = float((a.priors() - b.priors()).mean())

    def price(strata: float) -> float:
        return sum(allocation.per_example_cost(chain, N, strata, max(1, strata // 2)) for chain in (a, b))

    strata, values = 2, []
    for stage in range(STAGES):
        pairs = max(1, strata // 2)
        if stage and budget.max_nfe is not None and runner.nfe + price(strata) > budget.max_nfe:
            return values, False, False, common
        for design in designs:
            for block in design.blocks:
                design.draw(block, strata, pairs)
                if runner.stopped:
                    raise KeyboardInterrupt
        values = [examples for design in designs if (examples := design.summary().examples) is not None]
        errors = _errors(*values)
        variance = float(errors.square().sum()) / N**2
        means = [float((v.diffusion + v.reconstruction).mean()) for v in values]
        difference = prior + means[0] - means[1]
        value, error = (float(bits_per_dim(v, a.dimensions)) for v in (difference, variance**0.5))
        runner.tell(f"difference {with_error(value, error)}")
        target = in_nats(budget.tolerance, difference, a.dimensions)
        known = budget.decision is not None and sign_is_known(budget.decision, stage, difference, errors)
        if known or variance <= target**2:
            return values, variance <= target**2, known, common
        weight = designs[0].blocks[0].weight ** (1 / FALL)
        wanted = weight * (variance / target**2 - 1) ** (1 / FALL)
        if not stage:
            budget.check(a, runner, price(wanted), difference, math.sqrt(variance))
        strata = min(allocation.MOST, max(1, math.ceil(wanted)))
    return values, False, False, common


def _errors(a: ExampleValues, b: ExampleValues) -> Tensor:
    """Errors (N, k) of every example's difference: their squares add up to its Monte Carlo variance."""
    return torch.cat(
        [a.diffusion_errors - b.diffusion_errors, a.reconstruction_errors - b.reconstruction_errors], dim=1
    )

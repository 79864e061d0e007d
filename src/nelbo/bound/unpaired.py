"""The difference of two chains that have no levels in common: two estimates of every example.

Every example is drawn in both chains, in stages that are planned from the variance that the ones before have shown,
until the error of the difference is short enough, or its sign is known. Draws with the same number may share their
noise, at levels of their own: the error is that of the difference of pairs, whatever these have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.contrast.race import Goal, threshold
from nelbo.bound.estimate import Estimate, Sides
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import allocation, blocks_plan, cost, pilot
from nelbo.bound.planned.allocation import LARGEST
from nelbo.bound.planned.blocks_plan import FALL
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.summary import ExampleValues
from nelbo.bound.runner import Runner
from nelbo.bound.tolerance import Tolerance, in_nats, in_words
from nelbo.errors import CostError
from nelbo.maths.units import bits_per_dim
from nelbo.progress import with_error

STAGES = 12
"""Most stages; each is planned from the variance that the ones before have shown, so that few are needed."""


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


def difference(a: GaussianChain, b: GaussianChain, runner: Runner, budget: Budget) -> Estimate:
    """A − B from as many stages as the error asks for, or the sign takes. Errors: CostError."""
    N = a.examples
    designs = []
    for chain in (a, b):
        known = pilot.run(chain, runner, pilot.EXAMPLES)
        designs.append(PerExampleDesign(chain, runner, known, allocation.density(known.diffusion)))
        for rows in torch.arange(N).split(LARGEST):
            designs[-1].new(len(rows))
    priors = [chain.priors() for chain in (a, b)]
    prior = priors[0] - priors[1]

    def price(strata: float) -> float:
        return sum(blocks_plan.cost_of(chain, N, strata, max(1, strata // 2)) for chain in (a, b))

    strata, values, reached, known = 2, [], False, False
    for stage in range(STAGES):
        pairs = max(1, strata // 2)
        if stage and budget.max_nfe is not None and runner.nfe + price(strata) > budget.max_nfe:
            break
        for design in designs:
            for block in design.blocks:
                design.draw(block, strata, pairs)
                if runner.stopped:
                    raise KeyboardInterrupt
        values = [examples for design in designs if (examples := design.summary().examples) is not None]
        errors = _errors(*values)
        variance = float(errors.square().sum()) / N**2
        means = [float((v.diffusion + v.reconstruction).mean()) for v in values]
        difference = float(prior.mean()) + means[0] - means[1]
        value, error = (float(bits_per_dim(v, a.dimensions)) for v in (difference, variance**0.5))
        runner.tell(f"difference {with_error(value, error)}")
        target = in_nats(budget.tolerance, difference, a.dimensions)
        known = budget.decision is not None and sign_is_known(budget.decision, stage, difference, errors)
        reached = variance <= target**2
        if known or reached:
            break
        weight = designs[0].blocks[0].weight ** (1 / FALL)
        wanted = weight * (variance / target**2 - 1) ** (1 / FALL)
        if not stage:
            budget.check(a, runner, price(wanted), difference, math.sqrt(variance))
        strata = min(allocation.MOST, max(1, math.ceil(wanted)))
    one, other = values
    errors = [
        (one.diffusion_errors, other.diffusion_errors),
        (one.reconstruction_errors, other.reconstruction_errors),
    ]
    of_cells, of_first = (_apart(*both).square().sum(1) for both in errors)
    own = [sum(float(both[k].square().sum()) for both in errors) / N**2 for k in (0, 1)]
    estimate = Estimate.of(
        prior,
        (one.diffusion - other.diffusion, of_cells),
        (one.reconstruction - other.reconstruction, of_first),
        [],
        {"name": "per_example", "picked": "per_example", **({} if budget.decision is None else {"decided": known})},
    )
    note = (
        None if reached or known else f"the tolerance {budget.tolerance} was not reached with {runner.nfe} evaluations"
    )
    mean = sum(float((v.diffusion + v.reconstruction).mean()) for v in values) / 2
    return replace(estimate, note=note, sides=Sides(mean, *own))


def _errors(a: ExampleValues, b: ExampleValues) -> Tensor:
    """Errors (N, k) of every example's difference: their squares add up to its Monte Carlo variance."""
    parts = (a.diffusion_errors, b.diffusion_errors), (a.reconstruction_errors, b.reconstruction_errors)
    return torch.cat([_apart(*both) for both in parts], dim=1)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """a − b, (N, k) each, where one may have fewer errors: none of a chain without cells."""
    k = max(a.shape[1], b.shape[1])
    return torch.nn.functional.pad(a, (0, k - a.shape[1])) - torch.nn.functional.pad(b, (0, k - b.shape[1]))

"""The difference of two chains that have no levels in common: two estimates of every example.

Every example is drawn in both chains, in stages that are planned from the variance that the ones before have shown,
until the error of the difference is short enough, or its sign is known (`planned/sign.py`). Draws with the same number
may share their noise, at levels of their own: the error is that of the difference of pairs, whatever these have in
common, widened for how few they are (`planned/error_bars.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate, Sides
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import allocation, blocks_plan, cost, error_bars, pilot
from nelbo.bound.planned.allocation import LARGEST
from nelbo.bound.planned.blocks_plan import FALL
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.planned.sign import Sign
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
    """How far to go: a tolerance of the difference, and evaluations, see `evaluate`; and at which confidence its sign
    is enough."""

    tolerance: Tolerance
    max_nfe: int | None
    any_cost: bool
    confidence: float | None = None

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

    strata, values, errors, reached, sign = 2, [], [], False, Sign(budget.confidence)
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
        errors = _errors(*values, freedom=designs[0].r_freedom)
        variance = sum(error for error, _ in errors)
        means = [float((v.diffusion + v.reconstruction).mean()) for v in values]
        difference = float(prior.mean()) + means[0] - means[1]
        value, error = (float(bits_per_dim(v, a.dimensions)) for v in (difference, variance**0.5))
        runner.tell(f"difference {with_error(value, error)}")
        target = in_nats(budget.tolerance, difference, a.dimensions)
        freedom = error_bars.together(*zip(*errors, strict=True))
        reached = error_bars.enough(variance, freedom, target)
        if sign.look(difference, variance, freedom, runner.nfe, last=reached) or reached:
            break
        weight = designs[0].blocks[0].weight ** (1 / FALL)
        wanted = weight * (max(variance / target**2, error_bars.ENOUGH / freedom) - 1) ** (1 / FALL)
        if not stage:
            budget.check(a, runner, price(wanted), difference, math.sqrt(variance))
        strata = min(allocation.MOST, max(1, math.ceil(wanted)))
    one, other = values
    of_cells, of_first = (squares.sum(1) for squares in _squares(one, other))
    own = [float(v.diffusion_errors.square().sum() + v.reconstruction_errors.square().sum()) / N**2 for v in values]
    decided = {} if budget.confidence is None else {"decided": sign.known}
    estimate = Estimate.of(
        prior,
        (one.diffusion - other.diffusion, of_cells),
        (one.reconstruction - other.reconstruction, of_first),
        [],
        {"name": "per_example", "picked": "per_example", **decided},
    )
    note = f"the tolerance {budget.tolerance} was not reached with {runner.nfe} evaluations"
    note = None if reached or sign.known else note
    mean = sum(float((v.diffusion + v.reconstruction).mean()) for v in values) / 2
    return replace(estimate.widened(*(error for error, _ in errors)), note=note, sides=Sides(mean, *own))


def _squares(a: ExampleValues, b: ExampleValues) -> list[Tensor]:
    """Squared errors of every example's difference in both terms, (N, k) each."""
    parts = (a.diffusion_errors, b.diffusion_errors), (a.reconstruction_errors, b.reconstruction_errors)
    return [_apart(*both).square() for both in parts]


def _errors(a: ExampleValues, b: ExampleValues, freedom: Tensor) -> list[tuple[float, float]]:
    """Widened variances of the mean difference in both terms, and their degrees of freedom; those (N,) of the first
    level's draws of every example."""
    of_cells, of_first = (squares / len(freedom) ** 2 for squares in _squares(a, b))
    return [error_bars.of_squares(of_cells.flatten()), error_bars.of_squares(of_first.sum(1), freedom)]


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """a − b, (N, k) each, where one may have fewer errors: none of a chain without cells."""
    k = max(a.shape[1], b.shape[1])
    return torch.nn.functional.pad(a, (0, k - a.shape[1])) - torch.nn.functional.pad(b, (0, k - b.shape[1]))

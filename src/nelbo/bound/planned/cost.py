"""What an estimate will cost, stated before it is spent, and refused where nobody agreed to it.

The pilot knows the number of evaluations that a tolerance takes. An absolute tolerance on a bad model takes millions,
and hours; so an estimate that is planned to cost more than `unasked` stops after the pilot, with what the pilot knows
of the value, unless a budget or an explicit consent was given. The rule looks at evaluations and never at the clock:
whether a command works must not depend on the machine.
"""

from __future__ import annotations

import math

import torch

from nelbo.bound.estimate import Estimate, TermEstimate
from nelbo.bound.planned import summary
from nelbo.bound.planned.pilot import Pilot
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Runner
from nelbo.bound.tolerance import Relative, Tolerance, in_words
from nelbo.duration import duration
from nelbo.errors import CostError, UsageError
from nelbo.maths.units import bits_per_dim

MULTIPLE = 100
"""Evaluations an example from which an estimate costs more than anybody expects: a model that fits its data takes 1 to
20 an example to 0.01 bits/dim."""
LEAST = 20_000
"""Evaluations that are never refused: of a few examples a hundred each are soon made."""
NUMBERS = 20_000_000
"""Numbers (evaluations times dimensions) that are never refused. The noise of a draw grows as √D nats where a network
is right, and a tolerance in bits/dim as D: such a model takes about 1/D of the evaluations, of a single number some
10⁶; and a pilot of two or three examples knows its plan to a factor of ten."""


def unasked(problem: Problem) -> int:
    """The most evaluations that are spent without a budget or a consent: 100 an example, or more where all is small;
    of a problem that asks several networks at every draw, of each of them."""
    return max(1, problem.cell_cost) * max(MULTIPLE * problem.examples, LEAST, NUMBERS // problem.dimensions)


def of_pilot(problem: Problem, pilot: Pilot, prior: torch.Tensor) -> Estimate:
    """What the pilot alone knows of the bound, from its few examples; prior (N,): the exact term of every example.

    Rough, and never averaged into a result: it says about where the bound is and on which stretch of the chain.
    """
    rows, d, r = pilot.residuals.examples, pilot.diffusion, pilot.reconstruction
    P, F, rest = len(rows), pilot.features[pilot.residuals.examples], pilot.residuals
    first = r.mean[0] + r.size[0] * (F @ r.weights[0] + rest.reconstruction)
    cells = d.mean.sum() + F @ d.total_weights + rest.diffusion @ (rest.shares * d.size[rest.nodes])
    values = prior[rows] + first + cells
    spread = [float(v.var()) / P if P > 1 else math.nan for v in (cells, first, values)]
    bins = torch.zeros(summary.BINS, 3, dtype=torch.float64)
    of_cells = summary.bin_of_cells(problem)
    bins[:, 0].index_add_(0, of_cells, d.mean + d.size * (d.weights @ F.mean(0)))
    bins[:, 1].index_add_(0, of_cells, d.size * d.raw)  # the errors of neighbouring cells go together
    bins[:, 1] = bins[:, 1].square() / P
    return Estimate(
        prior=TermEstimate(float(prior.mean()), 0.0, math.nan),
        diffusion=TermEstimate(float(cells.mean()), spread[0], math.nan),
        reconstruction=TermEstimate(float(first.mean()), spread[1], math.nan),
        total=TermEstimate(float(values.mean()), spread[2], math.nan),
        strata=summary.strata(problem, bins),
        per_example=None,
        estimator={},
    )


def refusal(problem: Problem, runner: Runner, tolerance: Tolerance, planned: float, pilot: Estimate) -> CostError:
    """The error for an estimate that is planned to cost more than `unasked`, after the pilot."""
    N, D, most = problem.examples, problem.dimensions, unasked(problem)
    value = float(bits_per_dim(pilot.total.mean, D))
    spread = float(bits_per_dim(math.sqrt(pilot.total.variance), D))
    about = f"about {value:.4g} bits/dim" if math.isnan(spread) else f"about {value:.4g} ± {spread:.2g} bits/dim"
    about = about if problem.value_name is None else f"that {problem.value_name} is {about}"
    reached = value if isinstance(tolerance, Relative) else 1.0
    reached = abs(reached) * (tolerance.share if isinstance(tolerance, Relative) else tolerance)
    coarse = _up(reached * math.sqrt(planned / most))
    error = CostError(
        f"a standard error of {in_words(tolerance)} takes {in_numbers(planned, N, runner.seconds_for(planned))}, and "
        f"no more than {most:,} are spent unasked; the first {runner.nfe:,} evaluations say {about}",
        f"give tolerance={coarse:g} or tolerance='5%' (of the value), a budget of evaluations such as "
        f"max_nfe={most}, or any_cost=True to spend them all",
    )
    error.pilot, error.evaluations = pilot, planned
    return error


def check_budget(max_nfe: int | None, any_cost: bool) -> None:
    """Errors: UsageError for a budget of nothing, and for a budget together with the consent to any cost."""
    if max_nfe is not None and max_nfe < 1:
        raise UsageError(f"max_nfe={max_nfe}", "give a budget of at least 1 evaluation, or None for none")
    if any_cost and max_nfe is not None:
        raise UsageError(f"max_nfe={max_nfe} and any_cost=True", "give a budget, or any_cost=True for none")


def in_numbers(evaluations: float, examples: int, seconds: float) -> str:
    """A planned cost in words: evaluations, those an example, and the time where it is known."""
    each = evaluations / examples
    time = "" if math.isnan(seconds) else f", about {duration(seconds)}"
    return f"about {_count(evaluations)} network evaluations ({_count(each)} an example{time})"


def _count(n: float) -> str:
    """Two digits are known of it."""
    if n < 1e10:
        size = 10 ** max(0, math.floor(math.log10(max(n, 1))) - 1)
        return f"{round(n / size) * size:,}"
    return f"{n:.1e}"


def _up(value: float) -> float:
    """`value` rounded up to one digit."""
    if not (math.isfinite(value) and value > 0):
        return value
    size = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / size - 1e-9) * size

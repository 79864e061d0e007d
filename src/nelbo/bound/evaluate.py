"""`evaluate`: the bound of a model on examples, term by term, with its error bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

from torch import Tensor

from nelbo.bound import calibration, checks, contradictions, lattices
from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.passes import Passes
from nelbo.bound.planned.pilot import EXAMPLES, NODES
from nelbo.bound.prepare import PRECISIONS, Prepared, prepare
from nelbo.bound.problem import Problem
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.result import Bound
from nelbo.bound.tolerance import Relative, parse
from nelbo.bound.trial import trial
from nelbo.equation import equation
from nelbo.errors import CostError, UnknownNameError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.grid import Grid
from nelbo.typing import Json
from nelbo.workers import Run


class Effort(TypedDict, total=False):
    """What an evaluation may spend, and how: the same for every kind of model.

    tolerance: standard error of the estimator to reach, in bits/dim or relative to the value ("5%", `Relative(0.05)`),
    0.01 by default. max_nfe: most network evaluations to spend. Without it, an estimate that is planned to take more
    than is usual (`planned.cost.unasked`) stops after the pilot; any_cost: go on all the same. estimator: "auto" (plans
    its budget from a pilot), another name of `ESTIMATORS`, or an `Estimator`. per_example: keep the per-example bounds,
    with their own standard errors, in `Bound.per_example`.
    """

    tolerance: float | str | Relative
    max_nfe: int | None
    any_cost: bool
    estimator: str | Estimator
    per_example: bool


@equation("vlb-average-data")
def evaluate(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
    **effort: Unpack[Effort],
) -> Bound:
    """The variational bound −log p_θ(x) ≤ prior + diffusion + reconstruction of `data` under `model`.

    Of `Examples` with a mask all terms are sums over what is there, D is that of each example, and bits/dim are all
    nats over all of them, with the sampling error of a ratio; it is the bound of p(x | which elements are there).

    data: `Examples`, or an array or tensor (N, *shape) of codes (real values where the domain has no bins).
    run: device, precision, batches, seed, state, workers, progress. bf16 says how far it shifts the value.
    grid: another grid than the model's own (the network, decoder and prior stay).
    condition: keyword arguments of the network, one row an example.
    watch: called with (bits/dim, standard error) as they become known.
    effort: see `Effort`.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, CostError.
    Source: Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11–17.
    """
    started = time.perf_counter()
    prepared = prepare(model, data, run, grid=grid, condition=condition, watch=watch)
    chain, runner = prepared.chain, prepared.runner
    sizes = chain.sizes if isinstance(chain, RaggedChain) else None
    notes = checks.overlap(model, prepared.examples)
    if sizes is None:  # padding is no lattice
        notes += lattices.notes(model.domain, chain.data, chain.release)
    estimate, fields = estimated(
        prepared,
        chain,
        choose(chain, **effort),
        notes,
        effort,
        before=lambda: trial(chain, runner),
        amiss=lambda estimate: _amiss(chain, estimate),
    )
    fields["seconds"] = time.perf_counter() - started
    if sizes is not None:
        estimate = estimate.a_number(chain.dimensions, sizes)
        if fields["per_example"] is not None:
            fields["per_example"] = fields["per_example"].with_sizes(sizes)
    return Bound.of(estimate, chain.dimensions, fields, representative=prepared.examples.representative)


def estimated(
    prepared: Prepared[Any, Any],
    problem: Any,
    chosen: Estimator,
    notes: list[str],
    effort: Effort,
    *,
    before: Callable[[], list[str]] = list,
    finish: Callable[[Estimate], Estimate] = lambda estimate: estimate,
    amiss: Callable[[Estimate], list[str]],
    **how: str,
) -> tuple[Estimate, Json]:
    """The estimate of a prepared chain by the estimator that was chosen, and the fields of its result but for the time
    it took: what every kind of chain has in common.

    problem: the prepared chain, or that with what was computed before. notes: warnings so far. before: what is tried
    first, with its warnings. finish: adds to the estimate what the draws do not hold. amiss: warnings of an estimate,
    which an error of its cost gets too. how: what else an evaluation depends on, see `Prepared.open_state`.

    Errors: those of the estimator; UsageError where the workers differ, where the state file is of another evaluation,
    and where per-example values are asked for that the estimator does not have.
    """
    runner, precision = prepared.runner, prepared.run.precision
    per_example, max_nfe = effort.get("per_example", False), effort.get("max_nfe")
    prepared.agree("evaluate", estimator=repr(chosen), per_example=repr(per_example), **how)
    claims = prepared.claims()
    prepared.open_state(estimator=repr(chosen), **how)
    runner.plan(runner.nfe + chosen.cost(problem))
    try:
        with problem.model.denoiser.inference():
            notes = notes + before()
            estimate = finish(chosen.estimate(problem, runner))
            notes += amiss(estimate)
            if precision == "bf16" and not runner.stopped:
                reference = prepared.model.in_precision(PRECISIONS["float32"], problem.device)
                notes.append(checks.precision_shift(prepared.chain, runner, reference, precision, max_nfe))
    except CostError as error:
        raise checks.with_notes(error, amiss(error.pilot)) from None
    finally:
        runner.close()
    if per_example and estimate.per_example is None and not runner.stopped:
        raise UsageError(
            f"the estimator {chosen.describe()['name']!r} does not look at every example",
            "leave estimator='auto', or use 'exhaustive', 'stratified' or 'per_example'",
        )
    if estimate.note is not None:
        notes.append(estimate.note)
    checks.warn(notes)
    fields = {
        "examples": problem.examples,
        "nfe_total": runner.nfe,
        "per_example": estimate.per_example if per_example else None,
        "warnings": tuple(notes),
        "interrupted": runner.stopped,
    }
    return estimate, claims | fields


def _amiss(chain: GaussianChain, estimate: Estimate) -> list[str]:
    """What the draws of the pilot and the terms say against the model; that its output is not calibrated only where
    nothing else but the last level is amiss. Nothing is known of examples of different size."""
    if isinstance(chain, RaggedChain):
        return []
    notes = [*contradictions.notes(chain, estimate), *checks.sanity(chain, estimate)]
    others = [note for note in notes if not note.startswith("the chain does not end at its prior")]
    return notes if others else [*notes, *calibration.notes(chain, estimate)]


ESTIMATORS = ("exhaustive", "stratified", "pooled", "per_example")
"""Names of estimators, besides "auto"; the objects behind them take settings."""
_FOR_COMPARISON = ("uniform", "low_discrepancy", "importance")
"""Estimators of benchmarks/one_time.py: one random time an example, as others do it."""


def choose(
    problem: Problem,
    estimator: str | Estimator = "auto",
    tolerance: float | str | Relative = 0.01,
    max_nfe: int | None = None,
    per_example: bool = False,
    any_cost: bool = False,
) -> Estimator:
    """The estimator of that name, or what `auto` picks: `Passes` over all levels where two cost no more than a pilot
    would and two draws are never alike, else `Adaptive`; both to the tolerance.

    Errors: UnknownNameError listing the names."""
    if isinstance(estimator, Estimator):
        return estimator
    name = estimator
    design = name if name in ("pooled", "per_example") else "per_example" if per_example else "auto"
    adaptive = Adaptive(parse(tolerance), max_nfe, design, any_cost=any_cost)
    if name == "auto":
        pilot = EXAMPLES * (NODES + 2) * max(1, problem.cell_cost)
        twice = Exhaustive().cost(problem)
        if problem.steps is not None and not problem.alike and twice <= min(pilot, max_nfe or pilot):
            return Passes(adaptive)
        return adaptive
    if name == design:
        return adaptive
    if name in [*_FOR_COMPARISON]:
        raise UnknownNameError(
            f"the estimator {name!r} serves comparison alone and is no longer part of the library",
            f"it is OneTime({name!r}) of benchmarks/one_time.py in the repository; for a bound choose one of: auto, "
            + ", ".join(sorted(ESTIMATORS)),
        )
    if name not in [*ESTIMATORS]:
        raise UnknownNameError.of("estimator", name, ["auto", *ESTIMATORS])
    return Exhaustive.of(problem) if name == "exhaustive" else Stratified()

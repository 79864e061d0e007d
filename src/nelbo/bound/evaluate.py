"""`evaluate`: the bound of a model on examples, term by term, with its error bars."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import sanity, shift
from nelbo.bound.adaptive import Adaptive
from nelbo.bound.baselines import OneTime
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.pilot import EXAMPLES, NODES
from nelbo.bound.prepare import PRECISIONS, NelboWarning, overlap, prepare
from nelbo.bound.problem import Problem
from nelbo.bound.result import Bound
from nelbo.bound.store import Store
from nelbo.equation import equation
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.grid import Grid
from nelbo.workers import Workers


@equation("vlb-average-data")
def evaluate(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    *,
    tolerance: float = 0.01,
    max_nfe: int | None = None,
    grid: Grid | None = None,
    estimator: str | Estimator = "auto",
    per_example: bool = False,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[float, float], None] | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Bound:
    """The variational bound −log p_θ(x) ≤ prior + diffusion + reconstruction of `data` under `model`.

    data: `Examples`, or an array or tensor (N, *shape) of codes (real values where the domain has no bins).
    tolerance: standard error of the estimator to reach, in bits/dim; max_nfe: most network evaluations to spend.
    grid: another grid than the model's own (the network, decoder and prior stay).
    estimator: "auto" (plans its budget from a pilot), another name of `ESTIMATORS`, or an `Estimator`.
    per_example: keep the per-example bounds, with their own standard errors, in `Bound.per_example`.
    condition: keyword arguments of the network, one row an example.
    precision: what the network computes in; everything outside it is float64. bf16 says how far it shifts the value.
    progress: called with (evaluations done, evaluations planned, 0 where not known); watch: with (bits/dim, standard
    error) as they become known. state: a file from which an evaluation that was killed goes on to the same number.
    workers: the processes that share the work (see `nelbo.runtime`).

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError.
    Source: Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11–17.
    """
    started = time.perf_counter()
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    if grid is not None:
        model = model.with_grid(grid)
    problem, scored = prepare(
        model,
        examples,
        condition=condition,
        seed=seed,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
        resumable=state is not None,
    )
    notes = overlap(model, scored)
    chosen = choose(estimator, problem, tolerance, max_nfe, per_example)
    fingerprints = {"data": scored.fingerprint, "model": model.fingerprint()}
    if state is not None and problem.workers.rank == 0:
        rows = {k: Examples(v).fingerprint for k, v in problem.condition.items()}
        how = {"seed": seed, "precision": precision, "estimator": repr(chosen), "batch_size": problem.batch_size}
        identity = {**fingerprints, **how, "condition": rows, "version": __version__}
        problem.store = Store(state, identity)
    if progress is not None:
        planned = chosen.cost(problem)
        problem.advance = lambda _: progress(problem.nfe, problem.planned or planned)
    if watch is not None:
        D = model.domain.dimensions
        problem.watch = lambda nats, error: watch(float(bits_per_dim(nats, D)), float(bits_per_dim(error, D)))
    try:
        with problem.model.denoiser.inference():
            estimate = chosen.estimate(problem)
            notes += sanity.notes(problem, estimate)
            if precision == "bf16" and not problem.stopped:
                reference = model.in_precision(PRECISIONS["float32"], problem.device)
                notes.append(shift.note(problem, reference, precision, max_nfe))
    finally:
        if problem.store is not None:
            problem.store.close()
    if per_example and estimate.per_example is None and not problem.stopped:
        raise UsageError(
            f"the estimator {chosen.describe()['name']!r} does not look at every example",
            "leave estimator='auto', or use 'exhaustive', 'stratified' or 'per_example'",
        )
    if estimate.note is not None:
        notes.append(estimate.note)
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=2)
    return Bound.of(
        estimate,
        model.domain.dimensions,
        examples=problem.examples,
        nfe_total=problem.nfe,
        precision=precision,
        seed=seed,
        data={"name": scored.name, "fingerprint": fingerprints["data"]},
        model={"fingerprint": fingerprints["model"], "parameters": model.parameters},
        description=model.describe(),
        version=__version__,
        per_example=estimate.per_example if per_example else None,
        warnings=tuple(notes),
        interrupted=problem.stopped,
        seconds=time.perf_counter() - started,
    )


ESTIMATORS = ("exhaustive", "stratified", "uniform", "low_discrepancy", "importance", "pooled", "per_example")
"""Names of estimators, besides "auto"; the objects behind them take settings."""


def choose(
    name: str | Estimator,
    problem: Problem,
    tolerance: float = 0.01,
    max_nfe: int | None = None,
    per_example: bool = False,
) -> Estimator:
    """The estimator called `name`, or what `auto` picks: every level twice where the whole of that costs no more than
    a pilot would, else `Adaptive` to the tolerance. Errors: UnknownNameError listing the names."""
    if isinstance(name, Estimator):
        return name
    adaptive = Adaptive(tolerance, max_nfe, "per_example" if per_example else "auto")
    if name == "auto":
        every = Exhaustive()
        pilot = EXAMPLES * (NODES + 2)
        if problem.transitions is not None and every.cost(problem) <= min(pilot, max_nfe or pilot):
            return every
        return adaptive
    if name in ("pooled", "per_example"):
        return Adaptive(tolerance, max_nfe, name)
    if name in ("uniform", "low_discrepancy", "importance"):
        return OneTime(name)
    if name not in ESTIMATORS:
        raise UnknownNameError.of("estimator", name, ["auto", *ESTIMATORS])
    return Exhaustive() if name == "exhaustive" else Stratified()

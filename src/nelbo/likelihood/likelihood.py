"""`ode_likelihood`: the probability-flow likelihood of examples, with what it is a bound of and its error bars.

Three errors are kept apart: Monte Carlo (starting points and probes), which the standard errors tell; discretisation,
which step doubling tells an example at a time; and that of the examples as a sample.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound.estimate import TermEstimate
from nelbo.bound.prepare import NelboWarning, overlap, prepare
from nelbo.bound.result import StandardError, Term
from nelbo.bound.store import Store
from nelbo.errors import UsageError
from nelbo.likelihood import ode
from nelbo.likelihood.dequantisation import Dequantisation
from nelbo.likelihood.ode import Solver
from nelbo.likelihood.result import FlowPerExample, FlowTerms, OdeLikelihood
from nelbo.likelihood.scores import NAMES, TERMS, scored
from nelbo.likelihood.settings import Settings, told
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.grid import Grid
from nelbo.process.schedule import Table
from nelbo.workers import Workers

EXACT_TRACE = 16
"""Dimensions up to which the trace is exact unless the caller says otherwise: as many backward passes an evaluation."""


def ode_likelihood(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    *,
    steps: int = 64,
    solver: str | Solver = "rk4",
    tolerance: float | None = None,
    max_steps: int = 1024,
    exact_trace: bool | None = None,
    probes: int | None = None,
    dequantisation: str | Dequantisation = "variational",
    draws: int | None = None,
    importance: int = 1,
    grid: Grid | None = None,
    per_example: bool = False,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> OdeLikelihood:
    """−log p of `data` by the model's probability-flow ODE, between its first and last level.

    steps, solver: even steps in log-SNR of "heun" (order 2) or "rk4" (order 4); half the steps are solved too, and the
    difference is the error of every example. tolerance: double the steps of each example, up to max_steps, until its
    own error is at most so many bits/dim. exact_trace: the divergence by D backward passes an evaluation (the default
    up to 16 dimensions); probes: so many random signs an example instead, fixed along a solve and unbiased.
    dequantisation: "variational", "uniform", "truncated_normal", "flow" (fitted to the model on the first examples,
    for some thousand evaluations in all) or, for real data, "none" (see `nelbo.likelihood.dequantisation`).
    draws: independent starting points an example, which tell its standard error; importance: K points under one
    logarithm, −log (1/K) Σ_k p(x | z_k) p(z_k)/q(z_k | x): still a bound, biased upwards by about Var(weight)/2K, and
    closer the more points; needs the exact trace. state, workers and other options as of `evaluate`; interrupted, the
    result is that of the examples finished until then, the first so many.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, Interrupted.
    Source: Song et al. 2021, eq. 39; Burda et al. 2016, eq. 8.
    """
    started = time.perf_counter()
    examples = data if isinstance(data, Examples) else Examples(torch.as_tensor(data))
    if grid is not None:
        model = model.with_grid(grid)
    kind = Dequantisation.parse(dequantisation)
    kind.check(model.domain)
    D = model.domain.dimensions
    if exact_trace and probes is not None:
        raise UsageError(f"an exact trace and {probes} probes were both asked for", "give one of them, or none")
    if probes is not None and probes < 1:
        raise UsageError(f"{probes} probes", "give a whole number ≥ 1, or exact_trace=True")
    exact = exact_trace if exact_trace is not None else probes is None and D <= EXACT_TRACE
    wanted = 0 if exact else probes or (1 if kind.random else 2)
    allowed = None if tolerance is None else float(nats(tolerance, D))
    chosen = Settings(
        steps=steps,
        solver=Solver.parse(solver),
        probes=wanted,
        dequantisation=kind,
        draws=draws if draws is not None else 2 if kind.random else 1,
        importance=importance,
        tolerance=allowed,
        max_steps=max_steps,
    )
    chosen.check()
    if precision == "bf16":
        raise UsageError("an ODE likelihood in bf16: derivatives have two digits there", "use float32 or float64")
    ode.span(model)
    problem, whole = prepare(
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
    fingerprint = model.fingerprint()
    if state is not None and problem.workers.rank == 0:
        rows = {k: Examples(v).fingerprint for k, v in problem.condition.items()}
        how = {"seed": seed, "precision": precision, "ode": repr(chosen), "batch_size": problem.batch_size}
        identity = {"data": whole.fingerprint, "model": fingerprint, **how, "condition": rows, "version": __version__}
        problem.store = Store(state, identity)
    if progress is not None:
        passes = chosen.solver.evaluations * (steps + steps // 2) + int(kind.calls_network(model))
        planned = problem.examples * chosen.draws * importance * passes // problem.workers.size
        problem.advance = lambda _: progress(problem.nfe, max(planned, problem.nfe))
    try:
        with problem.model.denoiser.inference():
            found = scored(problem, chosen)
    finally:
        if problem.store is not None:
            problem.store.close()
    values, variances, errors = found.values, found.variances, found.errors
    done = whole.first(len(found))
    notes = overlap(model, done)
    if isinstance(model.schedule, Table):
        notes.append("between the levels of its table the network is told fractional positions, by straight lines in λ")
    if problem.stopped:
        notes.append(f"interrupted: the likelihood is that of the first {len(done)} of {problem.examples} examples")
    missed = 0 if allowed is None else int((errors > allowed).sum())
    if missed:
        notes.append(f"{missed} of {len(errors)} examples miss the ODE tolerance {tolerance} with {max_steps} steps")

    def bits(value: float) -> float:
        return float(bits_per_dim(value, D))

    def term(name: str) -> Term:
        e = TermEstimate.of(values[name], variances[name])
        return Term(bits(e.mean), bits(math.sqrt(e.variance)), bits(math.sqrt(e.data_variance)))

    total = TermEstimate.of(values["nats"], variances["nats"])
    spread = math.sqrt(total.variance + (0.0 if math.isnan(total.data_variance) else total.data_variance))
    mean_error = bits(float(errors.mean()))
    if allowed is None and mean_error > max(1e-3, 0.5 * bits(spread)):
        notes.append(f"the ODE's discretisation error is about {mean_error:.2g} bits/dim: take more steps")
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=2)
    return OdeLikelihood(
        bits_per_dim=bits(total.mean),
        standard_error=StandardError(
            bits(math.sqrt(total.variance)),
            bits(math.sqrt(total.data_variance)),
            bits(math.sqrt(total.variance + total.data_variance)),
        ),
        terms=FlowTerms(**{name: term(name) for name in TERMS}),
        levels=(),
        examples=len(done),
        dimensions=D,
        nfe_total=found.evaluations,
        estimator=told(model, chosen, found.most_steps, mean_error, bits(float(errors.max()))),
        precision=precision,
        seed=seed,
        data={"name": done.name, "fingerprint": done.fingerprint},
        model={"fingerprint": fingerprint, "parameters": model.parameters},
        description=model.describe(),
        version=__version__,
        per_example=FlowPerExample(
            **{name: values[name] for name in NAMES},
            standard_error=variances["nats"].sqrt(),
            solver_error=errors,
        )
        if per_example
        else None,
        warnings=tuple(notes),
        interrupted=problem.stopped,
        seconds=time.perf_counter() - started,
    )

"""`ode_likelihood`: the probability-flow likelihood of examples, with what it is a bound of and its error bars.

Three errors are kept apart: Monte Carlo (starting points and probes), which the standard errors tell; discretisation,
which step doubling tells an example at a time; and that of the examples as a sample.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo._version import __version__
from nelbo.bound import ode, ode_start
from nelbo.bound.estimate import TermEstimate
from nelbo.bound.ode import Solver
from nelbo.bound.ode_result import FlowPerExample, FlowTerms, OdeLikelihood
from nelbo.bound.ode_settings import Settings, told
from nelbo.bound.ode_start import Dequantisation
from nelbo.bound.prepare import NelboWarning, overlap, prepare
from nelbo.bound.problem import Problem
from nelbo.bound.result import StandardError, Term
from nelbo.errors import NumericalError, UsageError
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.grid import Grid
from nelbo.process.schedule import Table

EXACT_TRACE = 16
"""Dimensions up to which the trace is exact unless the caller says otherwise: as many backward passes an evaluation."""
TERMS = ("prior", "flow", "dequantisation", "reconstruction", "importance")


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
) -> OdeLikelihood:
    """−log p of `data` by the model's probability-flow ODE, between its first and last level.

    steps, solver: even steps in log-SNR of "heun" (order 2) or "rk4" (order 4); half the steps are solved too, and the
    difference is the error of every example. tolerance: double the steps of each example, up to max_steps, until its
    own error is at most so many bits/dim. exact_trace: the divergence by D backward passes an evaluation (the default
    up to 16 dimensions); probes: so many random signs an example instead, fixed along a solve and unbiased.
    dequantisation: "variational", "uniform", "truncated_normal" or, for real data, "none" (see `ode_start`).
    draws: independent starting points an example, which tell its standard error; importance: K points under one
    logarithm, −log (1/K) Σ_k p(x | z_k) p(z_k)/q(z_k | x): still a bound, biased upwards by about Var(weight)/2K, and
    closer the more points; needs the exact trace. Other options as of `evaluate`.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError.
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
    problem, scored = prepare(
        model, examples, condition=condition, seed=seed, batch_size=batch_size, device=device, precision=precision
    )
    notes = overlap(model, scored)
    if isinstance(model.schedule, Table):
        notes.append("between the levels of its table the network is told fractional positions, by straight lines in λ")
    if progress is not None:
        passes = chosen.solver.evaluations * (steps + steps // 2) + int(kind.calls_network(model))
        planned = problem.examples * chosen.draws * importance * passes
        problem.advance = lambda _: progress(problem.nfe, max(planned, problem.nfe))
    with problem.model.denoiser.inference():
        values, variances, errors, used = _scored(problem, chosen)
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
        examples=problem.examples,
        dimensions=D,
        nfe_total=problem.nfe,
        estimator=told(model, chosen, used, mean_error, bits(float(errors.max()))),
        precision=precision,
        seed=seed,
        data={"name": scored.name, "fingerprint": scored.fingerprint},
        model={"fingerprint": model.fingerprint(), "parameters": model.parameters},
        description=model.describe(),
        version=__version__,
        per_example=FlowPerExample(
            **{name: values[name] for name in ("nats", *TERMS)},
            standard_error=variances["nats"].sqrt(),
            solver_error=errors,
        )
        if per_example
        else None,
        warnings=tuple(notes),
        seconds=time.perf_counter() - started,
    )


def _scored(problem: Problem, how: Settings) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, int]:
    """Values and Monte Carlo variances (N,) of the sum and its terms, solver errors (N,), and the most steps taken."""
    N, R = problem.examples, how.draws
    columns = torch.empty(R, len(TERMS) + 1, N, dtype=torch.float64)
    by_probe = torch.zeros(2, N, dtype=torch.float64)
    errors = torch.zeros(N, dtype=torch.float64)
    used = 0
    for rows in torch.arange(N).split(problem.batch_size):
        for r in range(R):
            parts = [_solved(problem, how, rows, r * how.importance + k) for k in range(how.importance)]
            log_w = -torch.stack([p.terms.sum(0) for p in parts])
            weighted = log_w.logsumexp(0) - math.log(how.importance)
            means = torch.stack([p.terms for p in parts]).mean(0)
            # the weighted bound is at most the mean of the bounds: Jensen
            columns[r][:, rows] = torch.cat([-weighted[None], means, (log_w.mean(0) - weighted)[None]])
            errors[rows] += torch.stack([p.error for p in parts]).mean(0) / R
            used = max(used, *(p.steps for p in parts))
            if how.probes > 1 and R == 1:
                by_probe[:, rows] = parts[0].probe_variance
    bad = (~torch.isfinite(columns)).any(0).any(0)
    if bool(bad.any()):
        raise NumericalError(
            f"the ODE likelihood of example {int(bad.nonzero()[0])} is not finite",
            "take more steps; or the network returned NaN there; check its weights, precision and declared output",
        )
    value = columns.mean(0)
    variance = columns.var(0) / R if R > 1 else torch.zeros_like(value)
    names: tuple[str, ...] = ("nats", *TERMS)
    variances: dict[str, Tensor] = dict(zip(names, variance, strict=True))
    if R == 1:
        variances |= {"nats": by_probe[0], "flow": by_probe[1]}
    return dict(zip(names, value, strict=True)), variances, errors, used


@dataclass(frozen=True, eq=False)
class _Part:
    """One starting point of a batch: terms (4, B), error of the solve (B,), variance over probes (B,), most steps."""

    terms: Tensor
    error: Tensor
    probe_variance: Tensor
    steps: int


def _solved(problem: Problem, how: Settings, rows: Tensor, draw: int) -> _Part:
    model, device = problem.model, problem.device
    data = problem._rows(rows)
    first = problem.levels[:1].expand(len(rows))
    condition = {k: v[rows].to(device) for k, v in problem.condition.items()}
    begun = ode_start.start(
        how.dequantisation, model, data, first, seed=problem.seed, examples=rows, draw=draw, condition=condition
    )
    _spent(problem, len(rows) * int(how.dequantisation.calls_network(model)))
    shape = model.domain.shape
    signs = [ode.rademacher(problem.seed, rows, draw, p, shape, device) for p in range(how.probes)]

    def solve(steps: int, which: Tensor) -> tuple[Tensor, Tensor]:
        there = which.to(device)
        end, flow = ode.log_density(
            model,
            begun.z[there],
            steps=steps,
            solver=how.solver,
            condition={k: v[there] for k, v in condition.items()},
            probes=[e[there] for e in signs] or None,
        )
        _spent(problem, len(which) * steps * how.solver.evaluations)
        return end.cpu(), flow.cpu()

    every = torch.arange(len(rows))
    shrink = 2**how.solver.order - 1
    steps = how.steps
    end, flow = solve(steps // 2, every)
    coarse = end + flow.mean(0)
    end, flow = solve(steps, every)
    error = (end + flow.mean(0) - coarse).abs() / shrink
    while how.tolerance is not None and 2 * steps <= how.max_steps:
        far = (error > how.tolerance).nonzero()[:, 0]
        if len(far) == 0:
            break
        steps *= 2
        coarse = (end + flow.mean(0))[far]
        end[far], flow[:, far] = solve(steps, far)
        error[far] = ((end + flow.mean(0))[far] - coarse).abs() / shrink
    spread = flow.var(0) / len(flow) if len(flow) > 1 else torch.zeros_like(end)
    parts = [-end, -flow.mean(0), begun.log_q.cpu(), begun.reconstruction.cpu()]
    return _Part(torch.stack(parts), error, spread, steps)


def _spent(problem: Problem, evaluations: int) -> None:
    problem.nfe += evaluations
    problem.advance(evaluations)

"""How examples are scored by the ODE: the settings, and every example's solves, in batches that processes share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.runner import Runner
from nelbo.errors import Interrupted, NumericalError, UsageError
from nelbo.likelihood import dequantisation as starts
from nelbo.likelihood import derivative, ode, solvers
from nelbo.likelihood import trace as traces
from nelbo.likelihood.dequantisation import Dequantisation, DequantisationFlow
from nelbo.likelihood.solvers import Solver
from nelbo.likelihood.trace import Trace
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.diffusion import DiffusionModel
from nelbo.progress import with_error

TERMS = ("prior", "flow", "dequantisation", "reconstruction", "importance")
NAMES = ("nats", *TERMS)


@dataclass(frozen=True)
class Settings:
    """How a likelihood is computed.

    The solver's number of steps is even: step doubling solves with half of them too. draws: independent starting points
    an example; importance: points under one logarithm for each of these. tolerance: nats of discretisation error that
    an example may have, None where the steps are fixed; max_steps: the most steps to reach it.
    """

    solver: Solver
    trace: Trace
    dequantisation: Dequantisation
    draws: int
    importance: int
    tolerance: float | None
    max_steps: int

    def __post_init__(self):
        steps, probes, random = self.solver.steps, self.trace.probes, self.dequantisation.random
        if steps < 2 or steps % 2:
            raise UsageError(f"{steps} ODE steps", "give an even number ≥ 2: half of them measure the error")
        if min(self.draws, self.importance) < 1:
            raise UsageError(
                f"{self.draws} draws, {self.importance} points a weighted bound",
                "draws and importance are whole numbers ≥ 1",
            )
        if self.max_steps < 1:
            raise UsageError(f"max_steps={self.max_steps}", "give a whole number ≥ 1, the most steps of a solve")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise UsageError("an ODE tolerance that is not positive", "give bits/dim > 0, such as 1e-4")
        if self.importance > 1 and probes:
            raise UsageError(
                f"an importance-weighted bound over {self.importance} points with {probes} probes: the noise of a "
                "probe under the logarithm makes the number too low, and it is no bound",
                "use exact_trace=True, or importance=1",
            )
        if self.importance > 1 and not random:
            raise UsageError("an importance-weighted bound of one point that is not drawn", "use importance=1")
        if self.draws < 2 and (random or probes == 1):
            raise UsageError(
                "the error of one draw is unknown", "use draws=2 or more (with dequantisation 'none', probes=2)"
            )

    @property
    def freedom(self) -> int:
        """Differences of an example's starting points, or of its probes, that its variance is made of, at least 1."""
        return max(1, (self.trace.probes if self.draws == 1 else self.draws) - 1)

    @classmethod
    def parse(
        cls,
        model: DiffusionModel,
        *,
        solver: str | Solver,
        steps: int | None,
        tolerance: float | None,
        max_steps: int,
        trace: Trace | None,
        probes: int | None,
        exact_trace: bool | None,
        dequantisation: str | Dequantisation,
        draws: int | None,
        importance: int,
    ) -> Settings:
        """The settings that the keywords of `nelbo.ode_likelihood` ask for. Errors: UsageError, UnknownNameError."""
        kind = Dequantisation.parse(dequantisation)
        kind.check(model.domain)
        D = model.domain.dimensions
        return cls(
            solver=solvers.parse(solver, steps),
            trace=traces.parse(trace, probes, exact_trace, dimensions=D, default_probes=1 if kind.random else 2),
            dequantisation=kind,
            draws=draws if draws is not None else 2 if kind.random else 1,
            importance=importance,
            tolerance=None if tolerance is None else float(nats(tolerance, D)),
            max_steps=max_steps,
        )

    def evaluations(self, model: DiffusionModel) -> int:
        """Network evaluations an example where no steps are doubled: each solve, and one of half as many steps."""
        coarse = self.solver.with_steps(self.solver.steps // 2)
        solves = self.solver.evaluations + coarse.evaluations
        return self.draws * self.importance * (solves + int(self.dequantisation.calls_network(model)))

    @property
    def identity(self) -> str:
        """The settings as a state file names them. It never changes, so that earlier states are accepted."""
        fields: dict[str, Any] = {
            "steps": self.solver.steps,
            "solver": f"<Solver.{self.solver.name.upper()}: {self.solver.name!r}>",
            "probes": self.trace.probes,
            "dequantisation": repr(self.dequantisation),
            "draws": self.draws,
            "importance": self.importance,
            "tolerance": self.tolerance,
            "max_steps": self.max_steps,
        }
        return f"Settings({', '.join(f'{name}={value}' for name, value in fields.items())})"


@dataclass(frozen=True, eq=False)
class Scores:
    """Of the n examples that were finished, the first of the problem's: values and Monte Carlo variances (n,) of the
    sum and its terms by name, solver errors (n,), the most steps taken, and all evaluations spent."""

    values: dict[str, Tensor]
    variances: dict[str, Tensor]
    errors: Tensor
    most_steps: int
    evaluations: int

    def __len__(self) -> int:
        return len(self.errors)


def scored(chain: GaussianChain, runner: Runner, how: Settings) -> Scores:
    """Every example's likelihood; after an interrupt that of the first so many, with `runner.stopped` set.

    Errors: Interrupted where not one batch was finished; UsageError for a network whose derivative is not that of its
    values; NumericalError.
    """
    if isinstance(chain, RaggedChain) and how.dequantisation is Dequantisation.FLOW:
        raise UsageError(
            "dequantisation 'flow' of examples of different size: it is fitted to whole examples",
            "use 'variational', or 'truncated_normal' where the data are codes",
        )
    runner.count(derivative.check(chain))
    flow = starts.fit(chain, runner) if how.dequantisation is Dequantisation.FLOW else None
    before, finished = runner.nfe, torch.zeros(0, dtype=torch.float64)

    def rows_of(examples: Tensor) -> Tensor:
        nonlocal finished
        rows = _rows(chain, runner, how, flow, examples)
        finished = torch.cat([finished, rows[:, : how.draws * len(NAMES) : len(NAMES)].mean(1)])
        if (n := len(finished)) > 1:
            known = (float(bits_per_dim(v, chain.dimensions)) for v in (finished.mean(), finished.std() / n**0.5))
            runner.tell(f"{with_error(*known)} of {n} examples")
        return rows

    # the evaluations of an example depend on it, and are counted as they are spent
    table = runner.rows(chain.examples, _columns(how), 0, rows_of, partial=True)
    unfinished = table[:, -1].isnan()  # the count of evaluations is never NaN where there is one
    n = int(unfinished.nonzero()[0]) if bool(unfinished.any()) else len(table)
    if n == 0:
        raise Interrupted(
            "interrupted before the first batch of examples was finished: there is no likelihood to report",
            "start again; a smaller batch_size=… gives results sooner, and state=FILE keeps what is finished",
        )
    table, R = table[:n], how.draws
    columns = table[:, : R * len(NAMES)].T.reshape(R, len(NAMES), n)
    bad = (~torch.isfinite(columns)).any(0).any(0)
    if bool(bad.any()):
        raise NumericalError(
            f"the ODE likelihood of example {int(bad.nonzero()[0])} is not finite",
            "take more steps; or the network returned NaN there; check its weights, precision and declared output",
        )
    value = columns.mean(0)
    variance = columns.var(0) / R if R > 1 else torch.zeros_like(value)
    variances: dict[str, Tensor] = dict(zip(NAMES, variance, strict=True))
    if R == 1:
        variances |= {"nats": table[:, -5], "flow": table[:, -4]}
    return Scores(
        values=dict(zip(NAMES, value, strict=True)),
        variances=variances,
        errors=table[:, -3].clone(),
        most_steps=int(table[:, -2].max()),
        evaluations=before + int(table[:, -1].sum()),
    )


def _columns(how: Settings) -> int:
    """Columns of the table that a state keeps, one row an example: the sum and its terms for each draw, variances over
    probes of the sum and of the flow, the error of the solves, the most steps, the evaluations."""
    return how.draws * len(NAMES) + 5


def _rows(
    chain: GaussianChain, runner: Runner, how: Settings, flow: DequantisationFlow | None, examples: Tensor
) -> Tensor:
    """The rows (b, columns) of a batch of examples."""
    table = torch.zeros(len(examples), _columns(how), dtype=torch.float64)
    for r in range(how.draws):
        parts = [_solved(chain, runner, how, flow, examples, r * how.importance + k) for k in range(how.importance)]
        log_w = -torch.stack([p.terms.sum(0) for p in parts])
        weighted = log_w.logsumexp(0) - math.log(how.importance)
        means = torch.stack([p.terms for p in parts]).mean(0)
        # the weighted bound is at most the mean of the bounds: Jensen
        values = torch.cat([-weighted[None], means, (log_w.mean(0) - weighted)[None]])
        table[:, r * len(NAMES) : (r + 1) * len(NAMES)] = values.T
        table[:, -3] += torch.stack([p.error for p in parts]).mean(0) / how.draws
        table[:, -2] = torch.stack([table[:, -2], *(p.steps for p in parts)]).amax(0)
        table[:, -1] += torch.stack([p.evaluations for p in parts]).sum(0)
        if how.trace.probes > 1 and how.draws == 1:
            table[:, -5] = table[:, -4] = parts[0].probe_variance
    return table


@dataclass(frozen=True, eq=False)
class _Part:
    """The solves from one starting point of each example: terms (4, B), and (B,) each the error of the solve, the
    variance over probes, the most steps and the evaluations."""

    terms: Tensor
    error: Tensor
    probe_variance: Tensor
    steps: Tensor
    evaluations: Tensor


def _solved(
    chain: GaussianChain, runner: Runner, how: Settings, flow: DequantisationFlow | None, examples: Tensor, draw: int
) -> _Part:
    model, device, solver = chain.model, chain.device, how.solver
    condition = chain.condition_of(examples)
    there = chain.there_of(examples) if isinstance(chain, RaggedChain) else None
    tolerance = None if how.tolerance is None else torch.full((len(examples),), how.tolerance, dtype=torch.float64)
    if isinstance(chain, RaggedChain) and tolerance is not None:
        tolerance *= chain.sizes[examples] / model.domain.dimensions
    start = starts.start(
        how.dequantisation, model, chain.data_of(examples), chain.levels[:1].expand(len(examples)),
        seed=chain.seed, examples=examples, draw=draw, condition=condition, flow=flow,
        reconstruction=chain.reconstruction_of(examples) if isinstance(chain, RaggedChain) else None, there=there,
    )  # fmt: skip
    every = torch.arange(len(examples))
    evaluations = torch.zeros(len(examples), dtype=torch.float64)
    steps = torch.full((len(examples),), float(solver.steps), dtype=torch.float64)

    def count(which: Tensor, n: int) -> None:
        evaluations[which] += n
        runner.count(len(which) * n)

    count(every, int(how.dequantisation.calls_network(model)))
    shape = model.domain.shape
    probes = [traces.rademacher(chain.seed, examples, draw, p, shape, device) for p in range(how.trace.probes)]
    z = start.z
    if there is not None:
        z, probes = z.where(there, torch.zeros_like(z)), [e * there for e in probes]

    def solve(solver: Solver, which: Tensor) -> tuple[Tensor, Tensor]:
        at = which.to(device)
        some = {k: v[at] for k, v in condition.items()}
        end, integral = ode.log_density(
            model, z[at], solver=solver, condition=some, probes=[e[at] for e in probes],
            there=None if there is None else there[at],
        )  # fmt: skip
        count(which, solver.evaluations)
        return end.cpu(), integral.cpu()

    shrink = 2**solver.order - 1
    end, integral = solve(solver.with_steps(solver.steps // 2), every)
    coarse = end + integral.mean(0)
    end, integral = solve(solver, every)
    error = (end + integral.mean(0) - coarse).abs() / shrink
    while tolerance is not None and 2 * solver.steps <= how.max_steps:
        inaccurate = (error > tolerance).nonzero()[:, 0]
        if len(inaccurate) == 0:
            break
        solver = solver.with_steps(2 * solver.steps)
        steps[inaccurate] = solver.steps
        coarse = (end + integral.mean(0))[inaccurate]
        end[inaccurate], integral[:, inaccurate] = solve(solver, inaccurate)
        error[inaccurate] = ((end + integral.mean(0))[inaccurate] - coarse).abs() / shrink
    spread = integral.var(0) / len(integral) if len(integral) > 1 else torch.zeros_like(end)
    terms = [-end, -integral.mean(0), start.log_q.cpu(), start.reconstruction.cpu()]
    return _Part(torch.stack(terms), error, spread, steps, evaluations)

"""The work of an ODE likelihood: every example's solves, in batches that processes share and a state file keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import batches
from nelbo.bound.problem import Problem
from nelbo.errors import Interrupted, NumericalError
from nelbo.likelihood import dequantisation, ode, trace
from nelbo.likelihood import fitted as learned
from nelbo.likelihood.dequantisation import Dequantisation, Fitted, Start
from nelbo.likelihood.settings import Settings
from nelbo.process.levels import Levels
from nelbo.typing import Condition

TERMS = ("prior", "flow", "dequantisation", "reconstruction", "importance")
NAMES = ("nats", *TERMS)


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


@dataclass(frozen=True)
class _Rows:
    """One row an example: R values of the sum and its terms, variances over probes of the sum and of the flow, the
    error of the solves, the most steps, evaluations."""

    examples: int
    draws: int
    cost: int = 0  # an example takes as many as it needs, and counts them as they are spent

    @property
    def columns(self) -> int:
        return self.draws * len(NAMES) + 5

    def __len__(self) -> int:
        return self.examples


def scored(problem: Problem, how: Settings) -> Scores:
    """Every example's likelihood. Interrupted, that of the first so many examples, with `problem.stopped` set.

    Errors: Interrupted where not one batch was finished; UsageError for a network whose derivative is not its own;
    NumericalError.
    """
    problem.nfe = before = trace.check(problem)
    fitted, fit_cost = _fitted(problem, how)
    problem.nfe = before = before + fit_cost
    work = _Rows(problem.examples, how.draws)
    table = batches.computed(problem, work, lambda rows: _batch(problem, how, fitted, rows), partial=True)
    unfinished = table[:, -1].isnan()  # the count of evaluations is never NaN where there is one
    n = int(unfinished.nonzero()[0]) if bool(unfinished.any()) else len(table)
    if n == 0:
        raise Interrupted(
            "interrupted before the first batch of examples was finished: there is no likelihood to tell",
            "start again; a smaller --batch-size gives results sooner, and --state FILE keeps what is finished",
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


def _fitted(problem: Problem, how: Settings) -> tuple[Fitted | None, int]:
    if how.dequantisation is not Dequantisation.FLOW:
        return None, 0
    flow, spent = learned.fit(problem)

    def start(u: Tensor, x: Tensor, first: Levels, condition: Condition | None) -> Start:
        return flow.start(u, x, learned.slopes(problem.model, x, first, condition), first, problem.model)

    return start, spent


def _batch(problem: Problem, how: Settings, fitted: Fitted | None, rows: Tensor) -> Tensor:
    """The rows (b, columns) of one batch of examples."""
    table = torch.zeros(len(rows), _Rows(0, how.draws).columns, dtype=torch.float64)
    for r in range(how.draws):
        parts = [_solved(problem, how, fitted, rows, r * how.importance + k) for k in range(how.importance)]
        log_w = -torch.stack([p.terms.sum(0) for p in parts])
        weighted = log_w.logsumexp(0) - math.log(how.importance)
        means = torch.stack([p.terms for p in parts]).mean(0)
        # the weighted bound is at most the mean of the bounds: Jensen
        values = torch.cat([-weighted[None], means, (log_w.mean(0) - weighted)[None]])
        table[:, r * len(NAMES) : (r + 1) * len(NAMES)] = values.T
        table[:, -3] += torch.stack([p.error for p in parts]).mean(0) / how.draws
        table[:, -2] = torch.stack([table[:, -2], *(p.steps for p in parts)]).amax(0)
        table[:, -1] += torch.stack([p.evaluations for p in parts]).sum(0)
        if how.probes > 1 and how.draws == 1:
            table[:, -5] = table[:, -4] = parts[0].probe_variance
    return table


@dataclass(frozen=True, eq=False)
class _Part:
    """One starting point of each of a batch: terms (4, B), and (B,) each the error of the solve, the variance over
    probes, the most steps and the evaluations."""

    terms: Tensor
    error: Tensor
    probe_variance: Tensor
    steps: Tensor
    evaluations: Tensor


def _solved(problem: Problem, how: Settings, fitted: Fitted | None, rows: Tensor, draw: int) -> _Part:
    model, device = problem.model, problem.device
    data = problem._rows(rows)
    first = problem.levels[:1].expand(len(rows))
    condition = {k: v[rows].to(device) for k, v in problem.condition.items()}
    begun = dequantisation.start(
        how.dequantisation, model, data, first,
        seed=problem.seed, examples=rows, draw=draw, condition=condition, fitted=fitted,
    )  # fmt: skip
    every = torch.arange(len(rows))
    spent = torch.zeros(len(rows), dtype=torch.float64)
    taken = torch.full((len(rows),), float(how.steps), dtype=torch.float64)

    def count(which: Tensor, evaluations: int) -> None:
        spent[which] += evaluations
        problem.nfe += len(which) * evaluations
        problem.advance(len(which) * evaluations)

    count(every, int(how.dequantisation.calls_network(model)))
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
        count(which, steps * how.solver.evaluations)
        return end.cpu(), flow.cpu()

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
        taken[far] = steps
        coarse = (end + flow.mean(0))[far]
        end[far], flow[:, far] = solve(steps, far)
        error[far] = ((end + flow.mean(0))[far] - coarse).abs() / shrink
    spread = flow.var(0) / len(flow) if len(flow) > 1 else torch.zeros_like(end)
    parts = [-end, -flow.mean(0), begun.log_q.cpu(), begun.reconstruction.cpu()]
    return _Part(torch.stack(parts), error, spread, taken, spent)

"""Fit the covariance of reverse steps to examples: one pass at a few levels serves every family, grid and step.

    measured = measure(model, examples, families=[…])      network evaluations: examples × levels
    measured["dct"].policy                                 a variance policy for any grid of the schedule
    measured["dct"].cost.of(s, t)                          nats that a step costs on examples left out of the fit
    fit(model, examples, grid)                             measure, and choose the family by the cost of that grid

The examples must not be those that a bound is reported on: a bound on the examples of the fit is too low.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.ambient import neutral
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.prepare import prepare
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.fitted.variance import HybridVariance
from nelbo.model.reverse import Reverse
from nelbo.process import forward
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.schedule import Table
from nelbo.tightening.costs import StepCost
from nelbo.tightening.diagonal import FOLDS, ErrorBatch, FamilyFit
from nelbo.tightening.families import PARTS, Family, expanded, make_fitters, suitable
from nelbo.typing import Condition
from nelbo.workers import Run

NODES = 32
"""Levels at which errors are measured, unless a chain has fewer."""
FIRST = 3
"""Levels at the beginning of a chain that are all measured: most of the bound lies there."""
MOST_EXAMPLES = 2000
LEAST_EXAMPLES = 2 * FOLDS


@dataclass(frozen=True, eq=False)
class Measurement:
    """What `measure` returns: a fit for each family, the errors, and the work.

    logsnr (N,), falling, and error (N, n): ‖x − x̂‖² of every example at these levels. nfe: network evaluations.
    """

    fits: dict[Family, FamilyFit]
    logsnr: Tensor
    error: Tensor
    nfe: int
    notes: tuple[str, ...]

    def __getitem__(self, family: str | Family) -> FamilyFit:
        """The fit of a family. Errors: UnknownNameError; UsageError where the family was not measured."""
        chosen = Family.parse(family)
        if chosen not in self.fits:
            raise UsageError(
                f"the family {chosen.value!r} was not measured",
                f"measured are: {', '.join(f.value for f in self.fits)}; ask for it in measure(families=…)",
            )
        return self.fits[chosen]

    def cost(self, family: str | Family, levels: Levels) -> float:
        """Nats an example of all steps of a chain with these levels (L,) under a family."""
        return float(self[family].cost.of(levels[:-1], levels[1:]).sum())

    def hybrid(self, levels: Levels) -> FamilyFit:
        """The cheapest hybrid for the steps of a chain: one family at the levels with less noise, another above.

        Both families and the log-SNR at which they change are chosen. Errors: UsageError where no part was measured.
        """
        parts = [family for family in PARTS if family in self.fits]
        if not parts:
            raise UsageError("a hybrid of families of which none was measured", "measure(families=['hybrid'])")
        s, t = levels[:-1], levels[1:]
        costs = {family: self[family].cost.of(s, t) for family in parts}
        start = torch.zeros(1, dtype=torch.float64)
        least, fine, coarse, change = math.inf, parts[0], parts[0], 0
        for one, other in itertools.permutations(parts, 2):
            total = torch.cat([start, (costs[one] - costs[other]).cumsum(0)]) + costs[other].sum()
            if float(total.min()) < least:
                least, fine, coarse, change = float(total.min()), one, other, int(total.argmin())
        if len(parts) == 1:
            return self[fine]
        a, b = self[fine], self[coarse]
        switch = _switch(levels.logsnr, change)
        rows = (self.logsnr >= switch)[:, None]
        cost = StepCost(self.logsnr, torch.where(rows, a.cost.nats, b.cost.nats))
        policy = HybridVariance(a.policy, b.policy, switch)
        note = f"{fine.value} at log-SNR ≥ {switch:.3g}, {coarse.value} below"
        return FamilyFit(policy, cost, "; ".join(n for n in (note, a.note, b.note) if n))


@dataclass(frozen=True, eq=False)
class CovarianceFit:
    """A covariance fitted for a grid: the reverse steps, their family, notes, evaluations, and all measurements."""

    reverse: Reverse
    family: Family
    notes: tuple[str, ...]
    nfe: int
    measured: Measurement


@neutral()
def fit(
    model: DiffusionModel,
    examples: Examples | Tensor | Any,
    grid: Grid | None = None,
    family: str | Family = "auto",
    *,
    nodes: int = NODES,
    condition: Condition | None = None,
    limit: int = MOST_EXAMPLES,
    run: Run | None = None,
) -> CovarianceFit:
    """The reverse steps of `model` with a covariance fitted to `examples`, for the steps of `grid` (its own).

    family: a `Family`, or "auto": the one that costs least in steps of this grid on examples left out of the fit. A
    family that costs more than the scalar one is replaced by it, and a note says so. nodes, condition, limit, run: as
    of `measure`. Errors: UsageError (a continuous grid, too few examples, a basis that the examples do not have), those
    of `measure`.

    >>> import nelbo
    >>> data = nelbo.exact.GaussianData([0.0, 1.0], [[1.0, 0.9], [0.9, 1.0]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(5))
    >>> fitted = fit(model, data.sample(200), family="pca")
    >>> fitted.reverse.variance.kind, fitted.nfe
    ('fitted', 1200)
    """
    chain = model if grid is None else model.with_grid(grid)
    if chain.grid.continuous:
        raise UsageError(
            "a covariance was to be fitted for the continuous bound, which does not depend on it",
            "give a grid of finitely many steps: nelbo.grids.even(K)",
        )
    levels = chain.levels()
    if len(levels) < 2:
        raise UsageError(
            "a covariance was to be fitted for a chain of one level, which has no steps", "use a finer grid"
        )
    families = suitable(model) if family == "auto" else [Family.parse(family)]
    measured = measure(chain, examples, families=families, nodes=nodes, condition=condition, limit=limit, run=run)
    fits = dict(measured.fits)
    if Family.HYBRID in families:
        fits[Family.HYBRID] = measured.hybrid(levels)
    costs = {f: float(fits[f].cost.of(levels[:-1], levels[1:]).sum()) for f in fits}
    notes = list(measured.notes)
    chosen = min((f for f in families if f in fits), key=lambda f: costs[f])
    if costs[chosen] > costs[Family.SCALAR]:
        more = float(bits_per_dim(costs[chosen] - costs[Family.SCALAR], model.domain.dimensions))
        notes.append(
            f"the covariance {chosen.value!r} costs {more:.2g} bits/dim more than one number a level on examples left "
            "out of the fit, so one number a level was taken; fit to more examples"
        )
        chosen = Family.SCALAR
    if fits[chosen].note:
        notes.append(f"{chosen.value}: {fits[chosen].note}")
    reverse = dataclasses.replace(model.reverse, variance=fits[chosen].policy)
    return CovarianceFit(reverse, chosen, tuple(notes), measured.nfe, measured)


def measure(
    model: DiffusionModel,
    examples: Examples | Tensor | Any,
    *,
    families: Sequence[str | Family] = ("scalar",),
    nodes: int = NODES,
    levels: Levels | None = None,
    condition: Condition | None = None,
    limit: int = MOST_EXAMPLES,
    run: Run | None = None,
) -> Measurement:
    """Measure x − x̂ of `examples` at some levels of the model's grid, once an example and level, and fit `families`.

    levels: the levels to measure at, in place of at most `nodes` of the grid's own: all of them where they are no more,
    else the first ones and then some evenly spaced in log-SNR. limit: most examples used, selected by the seed. run:
    its device, precision, batch_size, seed and progress. The scalar family is always fitted; 'hybrid' stands for
    'local', 'map' and 'dct'. Errors: UsageError (fewer than 10 examples; a basis of images for vectors; 'learned' of a
    network that predicts no variance), and those of `evaluate` for data.
    """
    run = run or Run()
    wanted = expanded([Family.parse(f) for f in families])
    given = examples if isinstance(examples, Examples) else Examples(torch.as_tensor(examples))
    prepared = prepare(model, given, run, condition=condition)
    problem = prepared.chain
    count = min(limit, problem.examples)
    if count < LEAST_EXAMPLES:
        raise UsageError(
            f"a covariance was to be fitted to {count} example(s)",
            f"give at least {LEAST_EXAMPLES}, better 300 or more",
        )
    chosen = Purpose.COVARIANCE_EXAMPLES.permutation(run.seed, problem.examples)[:count]
    chosen = chosen.sort().values
    fold = Purpose.COVARIANCE_FOLDS.permutation(run.seed, count) % FOLDS
    at = (_levels(problem, nodes) if levels is None else levels).to(device=problem.device)
    logsnr = at.logsnr.cpu()
    fitters = make_fitters(wanted, problem, chosen, fold, logsnr, run.seed)
    error = torch.empty(len(at), count, dtype=torch.float64)
    planned, done = len(at) * count, 0
    with torch.no_grad(), problem.model.denoiser.inference():
        for node in range(len(at)):
            for rows in torch.arange(count).split(prepared.runner.batch_size):
                batch = _errors(problem, at, node, chosen[rows], fold[rows], run.seed)
                error[node, rows] = batch.error.double().flatten(1).square().sum(1).cpu()
                for fitter in fitters.values():
                    fitter.add(batch)
                done += len(rows)
                if run.progress is not None:
                    run.progress(done, planned)
            for fitter in fitters.values():
                fitter.finish_level(node, at[node : node + 1])
    notes = ()
    if problem.examples > count:
        notes = (f"the covariance was fitted to {count} of {problem.examples} examples",)
    return Measurement({f: fitter.result() for f, fitter in fitters.items()}, logsnr, error, done, notes)


def _errors(problem: GaussianChain, at: Levels, node: int, examples: Tensor, fold: Tensor, seed: int) -> ErrorBatch:
    """The network's errors on a batch of examples at one level, with keyed noise."""
    model = problem.model
    x = problem.values(examples)
    t = at[node : node + 1].expand(len(x))
    eps = Purpose.COVARIANCE_NOISE.normal(seed, examples, node, 0, model.domain.shape, device=problem.device)
    z = forward.noised(x, eps, t)
    prediction = dataclasses.replace(model.predict(z, t, problem.condition_of(examples)), z=z)
    error = x - prediction.x0
    if not bool(torch.isfinite(error).all()):
        raise UsageError(
            f"the network returned NaN or infinity at log-SNR {float(at.logsnr[node]):.3g}",
            "check its weights, its precision and the declared output (eps, x0, v)",
        )
    return ErrorBatch(node, t, examples, fold, prediction, error)


def _levels(problem: GaussianChain, nodes: int) -> Levels:
    """At most `nodes` levels of the chain: all, or the first `FIRST` and then the nearest to even steps in log-SNR."""
    if nodes < FIRST + 2:
        raise UsageError(f"a covariance was to be fitted at {nodes} levels", f"give at least {FIRST + 2}")
    levels = problem.levels.to(device="cpu")
    schedule = problem.model.schedule
    if problem.cells.continuous:
        assert not isinstance(schedule, Table)
        ends = levels.logsnr
        return schedule.at(schedule.time_of(torch.linspace(float(ends[0]), float(ends[1]), nodes, dtype=torch.float64)))
    if len(levels) <= nodes:
        return levels
    even = torch.linspace(float(levels.logsnr[FIRST]), float(levels.logsnr[-1]), nodes - FIRST, dtype=torch.float64)
    nearest = (levels.logsnr[None] - even[:, None]).abs().argmin(1)
    return levels[torch.unique(torch.cat([torch.arange(FIRST), nearest]))]


def _switch(logsnr: Tensor, change: int) -> float:
    """A log-SNR at or above which lie exactly the steps from the `change` levels after the first."""
    if change == 0:
        return float(logsnr[0]) + 1.0
    if change == len(logsnr) - 1:
        return float(logsnr[-1]) - 1.0
    above, below = float(logsnr[change]), float(logsnr[change + 1])
    middle = (above + below) / 2
    return middle if math.isfinite(middle) else above

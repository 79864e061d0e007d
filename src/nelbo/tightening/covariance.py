"""Fit the covariance of reverse steps to examples: one pass at a few levels serves every family, grid and step.

    measured = measure(model, examples, families=[…])      network evaluations: examples × levels
    measured["dct"].policy                                 a variance policy, for any grid of the schedule
    measured["dct"].cost.of(s, t)                          what a step costs on examples left out, nats
    fit(model, examples, grid)                             measure, and pick by the cost of that grid

The examples must not be those that a bound is reported on: what is fitted flatters the examples it was fitted to.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Problem
from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.fitted.variance import HybridVariance
from nelbo.model.reverse import Reverse
from nelbo.process import forward
from nelbo.process.grid import Grid
from nelbo.process.levels import Levels
from nelbo.process.schedule import Table
from nelbo.tightening import fitters
from nelbo.tightening.families import FOLDS, Family, Found, Seen
from nelbo.tightening.steps import StepCost

NODES = 32
"""Levels where errors are looked at, unless a chain has fewer."""
FIRST = 3
"""Levels at the beginning of a chain that are all looked at: there the bound sits."""
MOST_EXAMPLES = 2000
LEAST_EXAMPLES = 2 * FOLDS
DRAW = 1 << 30
"""Draw number of the noise of a fit, which no estimate uses."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What `measure` found: policies by family, what was seen, and what it took.

    logsnr (N,) and error (N, n): ‖x − x̂‖² of every example, for the levels in falling log-SNR. nfe: network
    evaluations; notes: what a reader should know.
    """

    found: dict[Family, Found]
    logsnr: Tensor
    error: Tensor
    nfe: int
    notes: tuple[str, ...]

    def __getitem__(self, family: str | Family) -> Found:
        """The policy of a family and what its steps cost. Errors: UnknownNameError, UsageError where not measured."""
        chosen = Family.parse(family)
        if chosen not in self.found:
            raise UsageError(
                f"the family {chosen.value!r} was not measured",
                f"measured are: {', '.join(f.value for f in self.found)}; ask for it in measure(families=…)",
            )
        return self.found[chosen]

    def cost(self, family: str | Family, levels: Levels) -> float:
        """Nats an example of all steps of a chain with these levels (L,), by the costs of a family."""
        return float(self[family].cost.of(levels[:-1], levels[1:]).sum())

    def hybrid(self, levels: Levels) -> Found:
        """Of the families that a hybrid may be made of one at the levels with less noise and another above: the two,
        and where they change, by which the steps of a chain cost least."""
        among = [family for family in fitters.PARTS if family in self.found]
        if not among:
            raise UsageError("a hybrid of families of which none was measured", "measure(families=['hybrid'])")
        s, t = levels[:-1], levels[1:]
        costs = {family: self[family].cost.of(s, t) for family in among}
        start = torch.zeros(1, dtype=torch.float64)
        least, fine, coarse, keep = math.inf, among[0], among[0], 0
        for one, other in itertools.permutations(among, 2):
            total = torch.cat([start, (costs[one] - costs[other]).cumsum(0)]) + costs[other].sum()
            if float(total.min()) < least:
                least, fine, coarse, keep = float(total.min()), one, other, int(total.argmin())
        if len(among) == 1:
            return self[fine]
        a, b = self[fine], self[coarse]
        switch = _between(levels.logsnr, keep)
        rows = (self.logsnr >= switch)[:, None]
        cost = StepCost(self.logsnr, torch.where(rows, a.cost.nats, b.cost.nats))
        note = f"{fine.value} at log-SNR ≥ {switch:.3g}, {coarse.value} below"
        return Found(
            HybridVariance(a.policy, b.policy, switch), cost, "; ".join(n for n in (note, a.note, b.note) if n)
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted covariance for a grid: reverse steps, their family, notes, evaluations, and all that was measured."""

    reverse: Reverse
    family: Family
    notes: tuple[str, ...]
    nfe: int
    measured: Measured


def fit(
    model: DiffusionModel,
    examples: Examples | Tensor | Any,
    grid: Grid | None = None,
    family: str | Family = "auto",
    **settings: Any,
) -> Fit:
    """The reverse steps of `model` with a covariance fitted to `examples`, for the steps of `grid` (its own).

    family: a `Family`, or "auto": the one that costs least on examples left out, in steps of this grid. A family that
    would cost more than the scalar one is not used, and the notes say so. settings: those of `measure`.
    Errors: UsageError (a continuous grid, too few examples, a basis that the examples do not have), those of `measure`.

    >>> import nelbo
    >>> data = nelbo.exact.GaussianData([0.0, 1.0], [[1.0, 0.9], [0.9, 1.0]])
    >>> model = data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(5))
    >>> found = fit(model, data.sample(200), family="pca")
    >>> found.reverse.variance.kind, found.nfe
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
    wanted = fitters.suitable(model) if family == "auto" else [Family.parse(family)]
    measured = measure(chain, examples, families=wanted, **settings)
    found = dict(measured.found)
    if Family.HYBRID in wanted:
        found[Family.HYBRID] = measured.hybrid(levels)
    costs = {f: float(found[f].cost.of(levels[:-1], levels[1:]).sum()) for f in found}
    notes = list(measured.notes)
    asked = [f for f in wanted if f in found]
    chosen = min(asked, key=lambda f: costs[f])
    if costs[chosen] > costs[Family.SCALAR]:
        more = float(bits_per_dim(costs[chosen] - costs[Family.SCALAR], model.domain.dimensions))
        notes.append(
            f"the covariance {chosen.value!r} costs {more:.2g} bits/dim more than one number a level on examples left "
            "out of the fit, and that was taken instead; fit to more examples"
        )
        chosen = Family.SCALAR
    if found[chosen].note:
        notes.append(f"{chosen.value}: {found[chosen].note}")
    reverse = dataclasses.replace(model.reverse, variance=found[chosen].policy)
    return Fit(reverse, chosen, tuple(notes), measured.nfe, measured)


def measure(
    model: DiffusionModel,
    examples: Examples | Tensor | Any,
    *,
    families: Sequence[str | Family] = ("scalar",),
    nodes: int = NODES,
    levels: Levels | None = None,
    condition: Mapping[str, Tensor] | None = None,
    limit: int = MOST_EXAMPLES,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Look at x − x̂ of `examples` at some levels of the model's grid, once an example and level, and fit `families`.

    levels: where to look, in place of at most `nodes` of the grid's own: all of them where they are no more, else its
    first ones and then evenly in log-SNR. limit: most examples looked at, drawn by `seed`. progress: called with
    evaluations done and planned. The scalar family is always fitted; 'hybrid' stands for 'local', 'map' and 'dct'.
    Errors: UsageError (fewer than 10 examples; a basis of images for vectors; 'learned' of a network that says no
    variance), and those of `evaluate` for data.
    """
    wanted = fitters.expanded([Family.parse(f) for f in families])
    given = examples if isinstance(examples, Examples) else Examples(torch.as_tensor(examples))
    problem, _ = prepare(
        model, given, condition=condition, seed=seed, batch_size=batch_size, device=device, precision=precision
    )
    count = min(limit, problem.examples)
    if count < LEAST_EXAMPLES:
        raise UsageError(
            f"a covariance was to be fitted to {count} example(s)",
            f"give at least {LEAST_EXAMPLES}, better 300 or more",
        )
    chosen = random.permutation(seed, problem.examples, draw=2)[:count]
    chosen = chosen.sort().values
    fold = random.permutation(seed, count, draw=3) % FOLDS
    at = (_levels(problem, nodes) if levels is None else levels).to(device=problem.device)
    logsnr = at.logsnr.cpu()
    every = fitters.fitters(wanted, problem, chosen, fold, logsnr, seed)
    error = torch.empty(len(at), count, dtype=torch.float64)
    planned, done = len(at) * count, 0
    with torch.no_grad(), problem.model.denoiser.inference():
        for node in range(len(at)):
            for rows in torch.arange(count).split(problem.batch_size):
                seen = _seen(problem, at, node, chosen[rows], fold[rows], seed)
                error[node, rows] = seen.error.double().flatten(1).square().sum(1).cpu()
                for one in every.values():
                    one.take(seen)
                done += len(rows)
                if progress is not None:
                    progress(done, planned)
            for one in every.values():
                one.close(node, at[node : node + 1])
    found = {f: one.found() for f, one in every.items()}
    notes = ()
    if problem.examples > count:
        notes = (f"the covariance was fitted to {count} of {problem.examples} examples",)
    return Measured(found, logsnr, error, done, notes)


def _seen(problem: Problem, at: Levels, node: int, examples: Tensor, fold: Tensor, seed: int) -> Seen:
    """The network's errors on a batch of examples at one level, at keyed noise."""
    model = problem.model
    x = problem.values(examples)
    t = at[node : node + 1].expand(len(x))
    eps = random.normal(seed, examples, node, DRAW, model.domain.shape, device=problem.device)
    z = forward.noised(x, eps, t)
    condition = {k: v[examples].to(problem.device) for k, v in problem.condition.items()}
    prediction = dataclasses.replace(model.predict(z, t, condition), z=z)
    error = x - prediction.x0
    if not bool(torch.isfinite(error).all()):
        raise UsageError(
            f"the network returned NaN or infinity at log-SNR {float(at.logsnr[node]):.3g}",
            "check its weights, its precision and the declared output (eps, x0, v)",
        )
    return Seen(node, t, examples, fold, prediction, error)


def _levels(problem: Problem, nodes: int) -> Levels:
    """At most `nodes` levels of the chain: all, or the first `FIRST` and then the nearest to even steps in log-SNR."""
    if nodes < FIRST + 2:
        raise UsageError(f"a covariance was to be fitted at {nodes} levels", f"look at {FIRST + 2} at least")
    levels = problem.levels.to(device="cpu")
    schedule = problem.model.schedule
    if problem.continuous:
        assert not isinstance(schedule, Table)
        ends = levels.logsnr
        return schedule.at(schedule.time_of(torch.linspace(float(ends[0]), float(ends[1]), nodes, dtype=torch.float64)))
    if len(levels) <= nodes:
        return levels
    wanted = torch.linspace(float(levels.logsnr[FIRST]), float(levels.logsnr[-1]), nodes - FIRST, dtype=torch.float64)
    nearest = (levels.logsnr[None] - wanted[:, None]).abs().argmin(1)
    return levels[torch.unique(torch.cat([torch.arange(FIRST), nearest]))]


def _between(logsnr: Tensor, keep: int) -> float:
    """A log-SNR such that the steps from exactly `keep` levels after the first are at or above it."""
    if keep == 0:
        return float(logsnr[0]) + 1.0
    if keep == len(logsnr) - 1:
        return float(logsnr[-1]) - 1.0
    above, below = float(logsnr[keep]), float(logsnr[keep + 1])
    middle = (above + below) / 2
    return middle if math.isfinite(middle) else above

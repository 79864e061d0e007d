"""`Passes`: short chains of few examples, where every example is drawn at every level until the error bar is short.

A pilot of such a problem would cost as much as drawing all of it twice. The draws of N examples at every level are made
in passes, and the variance of their mean is that of simple samples, one an example and level,

    Σ_i Σ_j s_ij²/(d N²)        s_ij² the sample variance of the d draws of example i at level j,

widened for the freedom that it has (`error_bars.py`). Where many more passes are needed, a plan with controls and an
allocation is cheaper, and `Adaptive` begins anew, with draws of its own: that the passes showed a large variance has
led there, and would bias an average with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from nelbo.bound.estimate import Estimate, Sides, Stratum
from nelbo.bound.estimators import Estimator
from nelbo.bound.planned import error_bars, unseen
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.sign import Sign
from nelbo.bound.planned.summary import ExampleValues, Summary
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Again, Runner
from nelbo.bound.tolerance import in_nats
from nelbo.errors import UsageError
from nelbo.typing import Json

MOST = 1000
"""Most evaluations of passes, by each network that a draw asks, where `Adaptive` takes over if more may be spent: about
its pilot and smallest plan."""
CERTAIN = 24.0
"""Degrees of freedom from which a variance ends the draws."""
CERTAIN_OF_DIFFERENCE = 48.0
"""The same of a difference of two chains' terms, whose tails are longer than those of the terms."""
RARE = 0.01
"""Share of the variance that is of errors not shown yet, above which draws go on."""
_GROWTH = 2
"""Most growth of the draws from one look at the error bar to the next."""


@dataclass(frozen=True)
class Passes(Estimator):
    """Every example at every level, as often as the tolerance of `adaptive` takes and its budget allows; `adaptive`
    itself where that is more than `MOST` evaluations, and a budget or `any_cost` allows them."""

    adaptive: Adaptive
    name = "exhaustive"

    def describe(self) -> Json:
        return {"name": self.name}

    def within(self, max_nfe: int | None) -> Passes:
        """The same with another budget."""
        return replace(self, adaptive=self.adaptive.within(max_nfe))

    def cost(self, problem: Problem) -> int:
        return self._first(problem) * _cost_of_one(problem)

    def _first(self, problem: Problem) -> int:
        """Draws of every example and level before the first look at the error bar."""
        return max(2, 1 + math.ceil(error_bars.ENOUGH / (problem.examples * (1 + len(problem.cells)))))

    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        prior, one, sign = problem.priors(), max(1, _cost_of_one(problem)), Sign(self.adaptive.confidence)
        made, result, looks, target = _Draws(problem, runner), None, 0, math.inf
        certain, most = CERTAIN if problem.along is None else CERTAIN_OF_DIFFERENCE, MOST * max(1, problem.cell_cost)
        if problem.along is not None:
            problem.along.begin()
        missing = math.floor(min(self._first(problem), self._left(runner) / one))
        while missing > 0 and made.number + missing > 1:  # one draw has no variance
            try:
                made.draw(missing)
            except KeyboardInterrupt:  # between two batches
                if result is None:
                    raise
                runner.stop()
                break
            result, looks = made.summary(), looks + 1
            value, error = float(prior.mean()) + result.value, math.sqrt(result.variance)
            runner.report(value, error)
            target = in_nats(self.adaptive.tolerance, value, problem.dimensions)
            reached = error <= target and result.freedom >= certain and made.unseen <= RARE
            if sign.look(value, result.variance, result.freedom, made.number * one, reached):
                break
            if reached:
                result = result.stopped() if looks > 1 else result
                break
            growth = max((error / target) ** 2, certain / result.freedom, _GROWTH * (made.unseen > RARE))
            needed, left = made.number * growth, self._left(runner)
            if needed * one > most and self._consented and left >= most:
                return self.adaptive.estimate(problem, runner, first=made.number, sign=sign.anew())
            whole = min(needed, _GROWTH * made.number, max(made.number, most // one))
            missing = math.floor(min(math.ceil(whole) - made.number, left / one))
            runner.plan(runner.nfe + missing * one)
        if result is None:
            raise UsageError(
                f"max_nfe={self.adaptive.max_nfe} is spent before every example was drawn at every level",
                f"allow {2 * one} evaluations more",
            )
        if sign.goal is not None and not sign.known:
            sign.look(float(prior.mean()) + result.value, result.variance, result.freedom, made.number * one, True)
        decided = {} if sign.goal is None else {"decided": sign.known}
        note = None if sign.known and not runner.stopped else self._note(made, result, target)
        estimate = result.estimate(prior, made.strata(result), [], {**self._of(made), **decided}, note)
        return replace(estimate, sides=made.sides())

    @property
    def _consented(self) -> bool:
        """Whether more than `MOST` evaluations may be spent."""
        return self.adaptive.any_cost or self.adaptive.max_nfe is not None

    def _left(self, runner: Runner) -> float:
        """Evaluations that the budget leaves."""
        return math.inf if self.adaptive.max_nfe is None else self.adaptive.max_nfe - runner.nfe

    def _of(self, made: _Draws) -> Json:
        return {**self.describe(), "draws": made.number}

    def _note(self, made: _Draws, result: Summary, target: float) -> str | None:
        if made.runner.stopped:
            return "interrupted: the estimate is of the draws made until then"
        if few := error_bars.of_few(made.differences, alike=False):
            return few
        tolerance, budget, notes = self.adaptive.tolerance, self.adaptive.max_nfe, []
        if math.sqrt(result.variance) > target and budget is not None:
            notes.append(f"max_nfe={budget} was reached before the tolerance {tolerance}")
        elif math.sqrt(result.variance) > target:
            notes.append(
                f"the tolerance {tolerance} was not reached with {made.number} draws of every example at every level, "
                "as many as are taken unasked; give max_nfe=, or any_cost=True, for more"
            )
        if made.unseen > RARE:
            notes.append(
                "a level next to the one of the largest errors has shown hardly any: rare ones may be missing from the "
                "value and its error bar; more draws would tell"
            )
        return "; ".join(notes) or None


class _Draws:
    """Draws of every example at every level, `number` of each so far; `unseen`, the share of the variance that is of
    errors which they have not shown."""

    def __init__(self, problem: Problem, runner: Runner):
        self.problem, self.runner, self.number, self.unseen = problem, runner, 0, 0.0
        self._levels = torch.empty(1 + len(problem.cells), 0, problem.examples, dtype=torch.float64)

    @property
    def differences(self) -> int:
        """Differences of draws that the variance is made of."""
        return (self.number - 1) * self.problem.examples * len(self._levels)

    def draw(self, number: int) -> None:
        """`number` more of each; interrupted, none."""
        problem, N, M = self.problem, self.problem.examples, len(self.problem.cells)
        examples = torch.arange(N).repeat(number)
        numbers = self.number + torch.arange(number).repeat_interleave(N)
        first = self.runner.nats(problem, Draws.first_level(examples, numbers)).reshape(1, number, N)
        cells = torch.arange(M).repeat_interleave(len(examples))
        draws = Draws(examples.repeat(M), cells + 1, numbers.repeat(M), cells, torch.zeros(len(cells)))
        rest = self.runner.nats(problem, draws).reshape(M, number, N) if M else first[:0]
        self._levels = torch.cat([self._levels, torch.cat([first, rest])], 1)
        self.number += number

    def sides(self) -> Sides | None:
        """Of a difference, what the draws say of both numbers."""
        along, calls = self.problem.along, 1 + (len(self.problem.cells) > 0)
        if along is None:
            return None
        of = []
        for part in (0.0, 0.5, -0.5):
            again = Again(along.terms(part), stopped=False)
            other = _Draws(self.problem, again)  # type: ignore[arg-type]
            while again.left >= calls and other.number < self.number:
                other.draw(len(along.kept[len(along.kept) - again.left][0]) // self.problem.examples)
            of.append(other.summary())
        return Sides(of[0].value, of[1].variance, of[2].variance)

    def summary(self) -> Summary:
        """The result of all draws, whose bins are the cells."""
        N, d, levels = self.problem.examples, self.number, self._levels
        means, values, errors = [], [], []
        for y in (levels[:1], levels[1:]):
            by_draw = y.transpose(0, 1)
            mean = error_bars.of_samples(by_draw.flatten(1), 1 / N)
            # draws end at a look whose variance is small, so that it is too small on average: by about its freedom
            means.append(mean._replace(variance=mean.variance * error_bars.widening(mean.freedom)))
            values.append(by_draw.mean(0).sum(0))
            errors.append((by_draw - by_draw.mean(0)).flatten(0, 1).T / math.sqrt(d * (d - 1)))
        missing = self._missing()
        means[1] = error_bars.with_more(means[1], missing)
        self.unseen = missing / max(means[0].variance + means[1].variance, 1e-300)
        squares = levels[1:].var(1).sum(1) if len(levels) > 1 else levels[1:, 0, 0]
        shares = means[1].variance * squares / squares.sum().clamp_min(1e-300)
        rows = torch.stack([levels[1:].mean((1, 2)), shares, torch.full_like(shares, d * N)], 1)
        return Summary(
            diffusion=means[1][:2],
            reconstruction=means[0][:2],
            bins=rows,
            examples=ExampleValues(values[1], values[0], errors[1], errors[0]),
            freedom=error_bars.together([m.variance for m in means], [m.freedom for m in means]),
            third=(means[1].third, means[0].third),
        )

    def _missing(self) -> float:
        """The variance for errors that the draws have not shown, see `unseen.py`."""
        N, d, y = self.problem.examples, self.number, self._levels[1:]
        cells = torch.arange(len(y)).repeat_interleave(d * N)
        errors = (y - y.mean(1, keepdim=True)).flatten() / (N * math.sqrt(d * (d - 1)))
        return unseen.missing(unseen.shown(self.problem, cells, errors, torch.full_like(errors, 1 / (N * d))))

    def strata(self, result: Summary) -> tuple[Stratum, ...]:
        """A row a cell."""
        rows = []
        for cell, (value, variance, count) in enumerate(result.bins.tolist()):
            near, far = (self.problem.edge(end) for end in (cell, cell + 1))
            rows.append(Stratum(far[0], near[0], far[1], near[1], value, variance, int(count)))
        return tuple(rows)


def _cost_of_one(problem: Problem) -> int:
    """Evaluations of one draw of every example at every level."""
    return problem.examples * (len(problem.cells) * problem.cell_cost + problem.first_cost)

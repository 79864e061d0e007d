"""Estimators of the bound: which (example, level, draw) to evaluate, and how to weigh them.

An estimator is a small frozen object with one method, `estimate(problem, runner) → Estimate`. All are unbiased for the
exact bound of the given examples, and all give an unbiased estimate of their own variance, which the error bar of the
mean over examples widens for how little it is made of (`planned/error_bars.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.bound.estimate import Estimate, Stratum
from nelbo.bound.planned import error_bars
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.typing import Json


class Estimator(ABC):
    """One way of spending network evaluations on a `Problem`."""

    name: str

    @abstractmethod
    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        """The three terms with their variances. Errors: UsageError where the problem is not for this estimator."""

    @abstractmethod
    def cost(self, problem: Problem) -> int:
        """Network evaluations that `estimate` will spend, for planning and progress."""

    @abstractmethod
    def describe(self) -> Json:
        """Name and settings, for the result."""


@numbers
@dataclass(frozen=True)
class Exhaustive(Estimator):
    """Every example at every level, `draws` noises each; with one draw, `paired` examples get a second.

    Value of example i at level j: the mean of its draws. Its Monte Carlo variance is the unbiased variance of its
    draws over their number; where it has one draw, the mean variance of one draw over the paired examples of that
    level. The paired examples are a keyed random subset, so that sorted data do no harm.
    """

    draws: int = 2
    paired: int = 256
    name = "exhaustive"

    def __post_init__(self):
        if self.draws < 1 or (self.draws == 1 and self.paired < 2):
            raise UsageError(
                f"an exhaustive estimate of {self.draws} draws with {self.paired} paired examples",
                "give draws ≥ 2, or draws = 1 with at least 2 paired examples, so that there is an error bar",
            )

    @classmethod
    def of(cls, problem: Problem) -> Exhaustive:
        """Two draws, or as many as tell an error bar where draws can be `alike`."""
        levels = problem.examples * len(problem.cells)
        return cls(1 + math.ceil(error_bars.ENOUGH / levels)) if problem.alike and levels else cls()

    def describe(self) -> Json:
        paired = {"paired": self.paired} if self.draws == 1 else {}
        return {"name": self.name, "draws": self.draws, **paired}

    def cost(self, problem: Problem) -> int:
        per_level = problem.examples * self.draws
        if self.draws == 1:
            per_level += min(self.paired, problem.examples)
        return per_level * ((problem.steps or 0) * problem.cell_cost + problem.first_cost)

    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        if problem.steps is None:
            raise UsageError("the exhaustive estimator was asked of a continuous grid", "use estimator='stratified'")
        prior = problem.priors()
        examples, numbers = self._draws(problem)
        reconstruction = self._by_example(problem, runner.nats(problem, Draws.first_level(examples, numbers)), examples)
        value, variance = torch.zeros_like(prior), torch.zeros_like(prior)
        strata, squares = [], torch.zeros(6, dtype=torch.float64)
        for cell in range(problem.steps):
            cells, inner = torch.full_like(examples, cell), torch.zeros(len(examples))
            nats = runner.nats(problem, Draws(examples, cells + 1, numbers, cells, inner))
            v, w = self._by_example(problem, nats, examples)
            value += v
            variance += w
            squares += self._squares(w, examples)
            strata.append(Stratum.between(problem.edge(cell), problem.edge(cell + 1), v, w, len(examples)))
        estimate = Estimate.of(prior, (value, variance), reconstruction, strata, self.describe())
        of_first = self._squares(reconstruction[1], examples)
        n = problem.examples
        differences = problem.steps * (min(self.paired, n) if self.draws == 1 else n * (self.draws - 1))
        return _widened(problem, estimate, squares, of_first, differences)

    def _squares(self, variance: Tensor, examples: Tensor) -> Tensor:
        """Sums (6,) of the squares that the variance of a level's mean is made of, see `error_bars.sums_of`."""
        n = len(variance)
        own = variance if self.draws > 1 else variance[examples[n:]]
        share = float(variance.sum() / own.sum().clamp_min(1e-300)) / n**2
        return error_bars.sums_of(own * share, max(1, self.draws - 1))

    def _draws(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Examples and draw numbers of one level."""
        n = problem.examples
        examples = torch.arange(n).repeat(self.draws)
        draws = torch.arange(self.draws).repeat_interleave(n)
        if self.draws == 1:
            subset = Purpose.PAIRED_EXAMPLES.permutation(problem.seed, n)[: min(self.paired, n)].sort().values
            examples, draws = torch.cat([examples, subset]), torch.cat([draws, torch.ones_like(subset)])
        return examples, draws

    def _by_example(self, problem: Problem, nats: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Value and Monte Carlo variance of every example from the draws of one level, each (N,)."""
        n = problem.examples
        if self.draws > 1:
            by_draw = nats.reshape(self.draws, n)
            return by_draw.mean(0), by_draw.var(0) / self.draws
        subset, second = examples[n:], nats[n:]
        value = nats[:n].clone()
        difference = value[subset] - second
        variance = torch.full_like(value, float(difference.square().mean()) / 2)
        value[subset] = (value[subset] + second) / 2
        variance[subset] = difference.square() / 4
        return value, variance


@numbers
@dataclass(frozen=True)
class Stratified(Estimator):
    """Plain stratified Monte Carlo: every example gets two independent uniform positions in each of `strata` equal
    parts of the chain, and `reconstruction_draws` noises at the first level.

    With values y whose mean over a uniform position u is the whole diffusion term, the estimate of an example is
    the mean over strata of the mean of its two values; its variance is Σ (y_1 − y_2)²/4 / strata². Unbiased, both.
    """

    strata: int = 32
    reconstruction_draws: int = 4
    name = "stratified"

    def __post_init__(self):
        if self.strata < 1 or self.reconstruction_draws < 2:
            raise UsageError(
                f"a stratified estimate of {self.strata} strata and {self.reconstruction_draws} reconstruction draws",
                "give strata ≥ 1 and reconstruction_draws ≥ 2, so that there is an error bar",
            )

    def describe(self) -> Json:
        return {"name": self.name, "strata": self.strata, "reconstruction_draws": self.reconstruction_draws}

    def cost(self, problem: Problem) -> int:
        return problem.examples * (2 * self.strata * problem.cell_cost + problem.first_cost * self.reconstruction_draws)

    def estimate(self, problem: Problem, runner: Runner) -> Estimate:
        n = problem.examples
        prior = problem.priors()
        examples = torch.arange(n).repeat(self.reconstruction_draws)
        numbers = torch.arange(self.reconstruction_draws).repeat_interleave(n)
        by_draw = runner.nats(problem, Draws.first_level(examples, numbers)).reshape(self.reconstruction_draws, n)
        reconstruction = by_draw.mean(0), by_draw.var(0) / self.reconstruction_draws
        value, variance = torch.zeros_like(prior), torch.zeros_like(prior)
        strata, squares = [], torch.zeros(6, dtype=torch.float64)
        examples, numbers = torch.arange(n).repeat(2), torch.arange(2).repeat_interleave(n)
        for k in range(self.strata if len(problem.cells) else 0):
            keys = torch.full_like(examples, k + 1)
            inside = Purpose.STRATUM_PLACE.uniform(problem.seed, examples, k, numbers)
            y = diffusion_total(problem, runner, examples, (k + inside) / self.strata, keys, numbers).reshape(2, n)
            v, w = y.mean(0) / self.strata, (y[0] - y[1]).square() / 4 / self.strata**2
            value += v
            variance += w
            squares += error_bars.sums_of(w / n**2)
            near, far = (problem.position((k + side) / self.strata) for side in (0, 1))
            strata.append(Stratum.between(near, far, v, w, 2 * n))
        estimate = Estimate.of(prior, (value, variance), reconstruction, strata, self.describe())
        of_first = error_bars.sums_of(reconstruction[1] / n**2, self.reconstruction_draws - 1)
        return _widened(problem, estimate, squares, of_first, n * self.strata)


def _widened(problem: Problem, estimate: Estimate, squares: Tensor, of_first: Tensor, differences: int) -> Estimate:
    """With error bars of the mean that count how few squares, along the chain and of the first level, they are made
    of, see `error_bars.sums_of`; and a note where they are of few differences of draws."""
    widened = estimate.widened(error_bars.of_sums(squares)[0], error_bars.of_sums(of_first)[0])
    return replace(widened, note=error_bars.of_few(differences, problem.alike))


def diffusion_total(
    problem: Problem, runner: Runner, examples: Tensor, u: Tensor, keys: Tensor, numbers: Tensor
) -> Tensor:
    """A value whose mean over u ~ U(0, 1) is the whole diffusion term of its example; (n,) nats.

    M × the term of the cell that u falls in. Noise is keyed by `keys`, the caller's level keys (≥ 1).
    """
    M = len(problem.cells)
    cells = (u * M).floor().long().clamp(max=M - 1)
    return M * runner.nats(problem, Draws(examples, keys, numbers, cells, u * M - cells))

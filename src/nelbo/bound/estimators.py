"""Estimators of the bound: which (example, level, draw) to evaluate, and how to weigh them.

An estimator is a small frozen object with one method, `estimate(problem) → Estimate`. All are unbiased for the exact
bound of the given examples, and all give an unbiased estimate of their own variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate, Stratum
from nelbo.bound.problem import Problem
from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.typing import Json


class Estimator(ABC):
    """One way of spending network evaluations on a `Problem`."""

    name: str

    @abstractmethod
    def estimate(self, problem: Problem) -> Estimate:
        """The three terms with their variances. Errors: UsageError where the problem is not for this estimator."""

    @abstractmethod
    def cost(self, problem: Problem) -> int:
        """Network evaluations that `estimate` will spend, for planning and progress."""

    @abstractmethod
    def describe(self) -> Json:
        """Name and settings, for the result."""


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

    def describe(self) -> Json:
        paired = {"paired": self.paired} if self.draws == 1 else {}
        return {"name": self.name, "draws": self.draws, **paired}

    def cost(self, problem: Problem) -> int:
        per_level = problem.examples * self.draws
        if self.draws == 1:
            per_level += min(self.paired, problem.examples)
        return per_level * ((problem.transitions or 0) + int(problem.model.decoder.calls_network))

    def estimate(self, problem: Problem) -> Estimate:
        if problem.transitions is None:
            raise UsageError("the exhaustive estimator was asked of a continuous grid", "use estimator='stratified'")
        prior = problem.prior()
        reconstruction = self._level(problem, 0)
        value, variance = torch.zeros_like(prior), torch.zeros_like(prior)
        strata = []
        levels = problem.levels.to(device="cpu")
        for j in range(1, problem.transitions + 1):
            v, w = self._level(problem, j)
            value += v
            variance += w
            strata.append(
                Stratum(
                    t=float(levels.t[j]),
                    s=float(levels.t[j - 1]),
                    logsnr_t=float(levels.logsnr[j]),
                    logsnr_s=float(levels.logsnr[j - 1]),
                    mean=float(v.mean()),
                    variance=float(w.mean()) / len(w),
                    evaluations=len(self._plan(problem)[0]),
                )
            )
        return Estimate.of(prior, (value, variance), reconstruction, strata, self.describe())

    def _plan(self, problem: Problem) -> tuple[Tensor, Tensor]:
        n = problem.examples
        examples = torch.arange(n).repeat(self.draws)
        draws = torch.arange(self.draws).repeat_interleave(n)
        if self.draws == 1:
            subset = random.permutation(problem.seed, n)[: min(self.paired, n)].sort().values
            examples, draws = torch.cat([examples, subset]), torch.cat([draws, torch.ones_like(subset)])
        return examples, draws

    def _level(self, problem: Problem, j: int) -> tuple[Tensor, Tensor]:
        """Value and Monte Carlo variance of every example at level j (0: reconstruction), each (N,)."""
        n = problem.examples
        examples, draws = self._plan(problem)
        if j == 0:
            nats = problem.reconstruction(examples, draws)
        else:
            nats = problem.diffusion(examples, torch.full_like(examples, j), draws)
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
        calls = int(problem.model.decoder.calls_network)
        diffusion = 0 if problem.transitions == 0 else 2 * self.strata
        return problem.examples * (diffusion + calls * self.reconstruction_draws)

    def estimate(self, problem: Problem) -> Estimate:
        n = problem.examples
        prior = problem.prior()
        examples = torch.arange(n).repeat(self.reconstruction_draws)
        draws = torch.arange(self.reconstruction_draws).repeat_interleave(n)
        by_draw = problem.reconstruction(examples, draws).reshape(self.reconstruction_draws, n)
        reconstruction = by_draw.mean(0), by_draw.var(0) / self.reconstruction_draws
        value, variance = torch.zeros_like(prior), torch.zeros_like(prior)
        strata = []
        for k in range(0 if problem.transitions == 0 else self.strata):
            y = self._stratum(problem, k)
            v, w = y.mean(0) / self.strata, (y[0] - y[1]).square() / 4 / self.strata**2
            value += v
            variance += w
            strata.append(self._describe_stratum(problem, k, v, w))
        return Estimate.of(prior, (value, variance), reconstruction, strata, self.describe())

    def _stratum(self, problem: Problem, k: int) -> Tensor:
        """Two values of every example at independent positions of stratum k, (2, N)."""
        n = problem.examples
        examples, draws = torch.arange(n).repeat(2), torch.arange(2).repeat_interleave(n)
        keys = torch.full_like(examples, k + 1)
        inside = random.uniform(problem.seed, examples, keys, draws, stream=random.Stream.TIME)
        return problem.diffusion_total(examples, (k + inside) / self.strata, keys, draws).reshape(2, n)

    def _describe_stratum(self, problem: Problem, k: int, value: Tensor, variance: Tensor) -> Stratum:
        ends = [problem.place((k + side) / self.strata) for side in (0, 1)]
        return Stratum(
            t=ends[1][0],
            s=ends[0][0],
            logsnr_t=ends[1][1],
            logsnr_s=ends[0][1],
            mean=float(value.mean()),
            variance=float(variance.mean()) / len(variance),
            evaluations=2 * len(value),
        )

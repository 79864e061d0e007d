"""A sampler takes the state from one level to the next.

A sampler is a frozen object without state; a multistep method is given the previous step. All of them work in (z, λ)
with the prediction x̂, ε̂ = (z − α x̂)/σ, so that each is right for every path of α and σ:

    ς = σ/α = e^{−λ/2}      EDM's noise level, of the state y = z/α        dy/dς = ε̂
    τ = σ/(α + σ)           flow time, of the state z/(α + σ)             d/dτ  = ε̂ − x̂
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

from nelbo.equation import equation
from nelbo.model.reverse import BetaTilde, Reverse, Variance
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule, Table
from nelbo.typing import Json


class StepResult(NamedTuple):
    """The state z_s at the end of a step, and the prediction x̂ at its start; both (B, …)."""

    z: Tensor
    x0: Tensor


class PreviousStep(NamedTuple):
    """What a multistep method uses of the previous step: its level, (1,), and its x̂ (B, …)."""

    t: Levels
    x0: Tensor


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """One step of a batch, from level t to level s, each a `Levels` of one element; z is (B, …), float64.

    predict(z, level): the model's prediction, conditioned and guided. normal(): this step's keyed noise (B, …).
    at(λ): the level of a log-SNR between those of the grid. steps: those of the chain.
    """

    z: Tensor
    t: Levels
    s: Levels
    previous: PreviousStep | None
    reverse: Reverse
    steps: int
    predict: Callable[[Tensor, Levels], Prediction]
    normal: Callable[[], Tensor]
    at: Callable[[Tensor], Levels]


class Sampler(ABC):
    """Abstract: how samples are drawn, step by step. One object serves any model, grid and batch.

    name: what `nelbo.sample(…, sampler=name)` calls it. evaluations: network evaluations a step. stochastic: whether
    a step draws noise; one that draws none can be run backwards (`nelbo.samplers.encode`).
    """

    name: ClassVar[str]
    evaluations: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    @property
    def reverse_variance(self) -> Variance | None:
        """The variance policy of the model's reverse step while this samples; None: the model's own."""
        return BetaTilde()  # not used: the model's own may be a table, which does not fit another grid

    @abstractmethod
    def step(self, step: SamplerStep) -> StepResult:
        """From z at level t to level s."""

    def describe(self) -> Json:
        """Its name and settings, as JSON."""
        return {"name": self.name, **{k: float(v) for k, v in vars(self).items()}}


@equation("x0-from-eps")
def eps_of(z: Tensor, x0: Tensor, t: Levels) -> Tensor:
    """ε̂ = (z − α x̂)/σ at level t, (B, …)."""
    return (z - column(t.alpha, z) * x0) / column(t.sigma, z)


def at_logsnr(schedule: Schedule, logsnr: Tensor) -> Levels:
    """The levels of `schedule` at log-SNRs (any shape), which may lie beyond its ends.

    A table is interpolated in λ; below its last λ, where no network was trained, it gives its last level.
    """
    if isinstance(schedule, Table):
        schedule, logsnr = schedule.interpolated(), logsnr.clamp(min=float(schedule.table[-1]))
    return replace(schedule.at(schedule.time_of(logsnr)), logsnr=logsnr)

"""The noun of this room: a sampler, which takes the state from one level to the next.

A sampler keeps nothing between two steps; what a multistep method remembers is handed to it. All of them work in
(z, λ) with the prediction x̂, ε̂ = (z − α x̂)/σ, so that each is right for every path of α and σ:

    ς = σ/α = e^{−λ/2}      EDM's noise level, of the state y = z/α        dy/dς = ε̂
    τ = σ/(α + σ)           flow time, of the state z/(α + σ)             d/dτ  = ε̂ − x̂
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from nelbo.equation import equation
from nelbo.model.reverse import BetaTilde, Reverse, Variance
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Schedule, Table
from nelbo.typing import Json


class Moved(NamedTuple):
    """Where a step ended, z_s, and the prediction x̂ that it set out with; both (B, …)."""

    z: Tensor
    x0: Tensor


class Before(NamedTuple):
    """What a multistep method remembers: the level of the step before, (1,), and its x̂ (B, …)."""

    t: Levels
    x0: Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a batch, from level t to level s, each a `Levels` of one element; z is (B, …), float64.

    predict(z, level): the model's prediction, conditioned and guided. normal(): this step's keyed noise (B, …).
    at(λ): the level of a log-SNR between those of the grid. count: steps of the chain.
    """

    z: Tensor
    t: Levels
    s: Levels
    before: Before | None
    reverse: Reverse
    count: int
    predict: Callable[[Tensor, Levels], Prediction]
    normal: Callable[[], Tensor]
    at: Callable[[Tensor], Levels]


class Sampler(ABC):
    """How samples are drawn: steps from level to level. Stateless; one object serves any model, grid and batch.

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
    def variance(self) -> Variance | None:
        """The variance policy that the model's reverse step is given; None: its own."""
        return BetaTilde()  # not asked: the policy of a chain may mean nothing on another grid

    @abstractmethod
    def step(self, step: Step) -> Moved:
        """From z at level t to level s."""

    def describe(self) -> Json:
        """Its name and settings, as JSON."""
        settings: dict[str, Any] = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, str))}
        return {"name": self.name, **settings}


@equation("x0-from-eps")
def eps_of(z: Tensor, x0: Tensor, t: Levels) -> Tensor:
    """ε̂ = (z − α x̂)/σ at level t, (B, …)."""
    return (z - column(t.alpha, z) * x0) / column(t.sigma, z)


def at_logsnr(schedule: Schedule, logsnr: Tensor) -> Levels:
    """The levels of `schedule` at log-SNRs (any shape), of a law also beyond its ends.

    A table is interpolated in λ, and ends where it ends: λ is no lower than its last, for no network knows more.
    """
    law = schedule
    if isinstance(schedule, Table):
        law, logsnr = schedule.interpolated(), logsnr.clamp(min=float(schedule.table[-1]))
    return replace(law.at(law.time_of(logsnr)), logsnr=logsnr)

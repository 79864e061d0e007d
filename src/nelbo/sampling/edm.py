"""Euler and Heun in EDM's coordinates: the state y = z/α, the noise level ς = σ/α, dy/dς = (y − x̂)/ς."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.process.levels import Levels, column
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult


@numbers
@dataclass(frozen=True)
class _Churned(Sampler):
    """Abstract: steps of the flow after noise is added: ς is raised to ς̂ = (1 + γ) ς, and y by √(ς̂² − ς²) ν ξ.

    churn: γ = min(churn/steps, √2 − 1) where s_min ≤ ς ≤ s_max; 0 draws no noise. s_noise: ν, 1 for the right law.
    In continuous time the first step starts beyond the last level, as in EDM; a table is not exceeded.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self):
        if not (self.churn >= 0 and 0 <= self.s_min <= self.s_max and self.s_noise > 0):
            raise UsageError(
                f"churn {self.churn} between σ/α = {self.s_min} and {self.s_max} with noise {self.s_noise}",
                "give churn ≥ 0, 0 ≤ s_min ≤ s_max and s_noise > 0",
            )

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def describe(self):
        settings = {k: float(v) for k, v in vars(self).items() if math.isfinite(v)} if self.churn else {}
        return {"name": self.name, **settings}

    def churned(self, step: SamplerStep) -> tuple[Tensor, Levels]:
        """z and its level after noise is added."""
        level = step.t
        if not self.stochastic or not self.s_min <= float((-0.5 * level.logsnr).exp()) <= self.s_max:
            return step.z, level
        gamma = min(self.churn / step.steps, math.sqrt(2) - 1)
        noisier = step.at(level.logsnr - 2 * math.log1p(gamma))
        added = ((-noisier.logsnr).exp() - (-level.logsnr).exp()).clamp(min=0).sqrt()  # √(ς̂² − ς²)
        y = step.z / column(level.alpha, step.z) + column(self.s_noise * added, step.z) * step.normal()
        return column(noisier.alpha, y) * y, noisier


def _slope(y: Tensor, x0: Tensor, scale: Tensor) -> Tensor:
    """dy/dς = (y − x̂)/ς."""
    return (y - x0) / column(scale, y)


@numbers
@final
@dataclass(frozen=True)
class Euler(_Churned):
    """y_s = y + (ς_s − ς̂) (y − x̂)/ς̂, after churn. Order 1; without churn the step of DDIM(η = 0).

    Source: Karras et al. 2022, algorithm 2 without its correction.
    """

    name = "euler"

    @equation("pf-ode")
    def step(self, step: SamplerStep) -> StepResult:
        z, t = self.churned(step)
        y, x0 = z / column(t.alpha, z), step.predict(z, t).x0
        scale_t, scale_s = ((-0.5 * level.logsnr).exp() for level in (t, step.s))
        return StepResult(column(step.s.alpha, z) * (y + column(scale_s - scale_t, y) * _slope(y, x0, scale_t)), x0)


@numbers
@final
@dataclass(frozen=True)
class Heun(_Churned):
    """Euler's step, and again with the mean of the slopes at both its ends. Order 2, two evaluations a step.

    Source: Karras et al. 2022, algorithms 1 and 2; every level here has ς > 0, so that every step has its correction.
    """

    name = "heun"
    evaluations = 2

    @equation("pf-ode")
    def step(self, step: SamplerStep) -> StepResult:
        z, t = self.churned(step)
        y, x0 = z / column(t.alpha, z), step.predict(z, t).x0
        scale_t, scale_s = ((-0.5 * level.logsnr).exp() for level in (t, step.s))
        alpha, width = column(step.s.alpha, z), column(scale_s - scale_t, y)
        slope = _slope(y, x0, scale_t)
        end = y + width * slope
        x0_s = step.predict(alpha * end, step.s).x0
        return StepResult(alpha * (y + width * 0.5 * (slope + _slope(end, x0_s, scale_s))), x0)

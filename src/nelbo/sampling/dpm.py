"""DPM-Solver++(2M): x̂ extrapolated in λ from two steps, for the probability flow or the stochastic equation.

    D = x̂_t + (h/h_previous)/2 (x̂_t − x̂_previous),    h = λ_s − λ_t

    2M       z_s = α_s D + σ_s (z_t − α_t D)/σ_t                              order 2
    SDE-2M   z_s = α_{t|s} (σ_s²/σ_t²) z_t + α_s c D + σ_s √c ξ,   c = 1 − e^{−h}

that is, the steps of DDIM and of the ancestral chain (variance β̃) with D for x̂; in the first step D = x̂. One
network evaluation a step. Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 and eq. 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from nelbo.process import forward
from nelbo.process.levels import column
from nelbo.sampling.ddim import along
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult


def extrapolated(x0: Tensor, step: SamplerStep) -> Tensor:
    """D: the line in λ through x̂ and that of the previous step, half a step ahead; x̂ itself in the first step."""
    if step.previous is None:
        return x0
    ratio = (step.s.logsnr - step.t.logsnr) / (step.t.logsnr - step.previous.t.logsnr)
    return x0 + column(0.5 * ratio, x0) * (x0 - step.previous.x0)


@final
@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M): DDIM's step with D. Order 2, one evaluation a step, no noise."""

    name = "dpmpp_2m"

    def step(self, step: SamplerStep) -> StepResult:
        x0 = step.predict(step.z, step.t).x0
        return StepResult(along(step.z, extrapolated(x0, step), step.s, step.t), x0)


@final
@dataclass(frozen=True)
class SDEDPMSolver2M(Sampler):
    """SDE-DPM-Solver++(2M): the ancestral step of variance β̃ with D."""

    name = "dpmpp_2m_sde"

    @property
    def stochastic(self) -> bool:
        return True

    def step(self, step: SamplerStep) -> StepResult:
        z, s, t = step.z, step.s, step.t
        x0 = step.predict(z, t).x0
        mean = forward.posterior_mean(extrapolated(x0, step), z, s, t)
        spread = forward.posterior(s, t).variance.sqrt()
        return StepResult(mean + column(spread, z) * step.normal(), x0)

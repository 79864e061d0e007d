"""DPM-Solver++(2M): x̂ extrapolated along λ from two steps, of the probability flow or of its stochastic equation.

    D = x̂_t + (h/h_before)/2 (x̂_t − x̂_before),    h = λ_s − λ_t

    2M       z_s = α_s D + σ_s (z_t − α_t D)/σ_t                              order 2
    SDE-2M   z_s = α_{t|s} (σ_s²/σ_t²) z_t + α_s c D + σ_s √c ξ,   c = 1 − e^{−h}

that is, the steps of DDIM and of the ancestral chain (variance β̃) with D for x̂; the first step has D = x̂. One
network evaluation a step. Source: Lu et al. 2022 (DPM-Solver++), algorithm 2 and eq. 18.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from nelbo.process import forward
from nelbo.process.levels import column
from nelbo.sampling.ddim import along
from nelbo.sampling.sampler import Moved, Sampler, Step


def extrapolated(x0: Tensor, step: Step) -> Tensor:
    """D: x̂ half a step ahead on the line in λ through it and the one before; x̂ itself at the first step."""
    if step.before is None:
        return x0
    ratio = (step.s.logsnr - step.t.logsnr) / (step.t.logsnr - step.before.t.logsnr)
    return x0 + column(0.5 * ratio, x0) * (x0 - step.before.x0)


@final
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M): DDIM's step with D. Order 2, one evaluation a step, no noise."""

    name = "dpmpp_2m"

    def step(self, step: Step) -> Moved:
        x0 = step.predict(step.z, step.t).x0
        return Moved(along(step.z, extrapolated(x0, step), step.s, step.t), x0)


@final
class SDEDPMSolver2M(Sampler):
    """SDE-DPM-Solver++(2M): the ancestral step of variance β̃ with D."""

    name = "dpmpp_2m_sde"

    @property
    def stochastic(self) -> bool:
        return True

    def step(self, step: Step) -> Moved:
        z, s, t = step.z, step.s, step.t
        x0 = step.predict(z, t).x0
        mean = forward.posterior_mean(extrapolated(x0, step), z, s, t)
        spread = forward.posterior(s, t).variance.sqrt()
        return Moved(mean + column(spread, z) * step.normal(), x0)

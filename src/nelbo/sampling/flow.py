"""Euler and midpoint in flow time: τ = σ/(α + σ), the state z/(α + σ) = (1 − τ) x̂ + τ ε̂, its velocity ε̂ − x̂.

On the flow path α + σ = 1 and these are the methods of flow matching; on another path they are the same methods for
the same flow in these coordinates. Source: Lipman et al. 2023, eq. 22; Esser et al. 2024, §2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.process.levels import Levels, column
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult, eps_of


def flow_time(t: Levels) -> Tensor:
    """τ = σ/(α + σ) = 1/(1 + e^{λ/2}), (1,)."""
    return torch.sigmoid(-0.5 * t.logsnr)


def _total(t: Levels, like: Tensor) -> Tensor:
    return column(t.alpha + t.sigma, like)


@final
@dataclass(frozen=True)
class FlowEuler(Sampler):
    """w_s = w + (τ_s − τ_t) (ε̂ − x̂), w = z/(α + σ). Order 1; in exact arithmetic the step of DDIM(η = 0)."""

    name = "flow_euler"

    @equation("pf-ode")
    def step(self, step: SamplerStep) -> StepResult:
        z, t, s = step.z, step.t, step.s
        x0 = step.predict(z, t).x0
        width = column(flow_time(s) - flow_time(t), z)
        return StepResult(_total(s, z) * (z / _total(t, z) + width * (eps_of(z, x0, t) - x0)), x0)


@final
@dataclass(frozen=True)
class FlowMidpoint(Sampler):
    """Half of Euler's step to τ_m = (τ_t + τ_s)/2, then a whole step with the velocity there. Order 2, two evaluations
    a step. A network whose time is the index of a table gets a fractional index at τ_m."""

    name = "flow_midpoint"
    evaluations = 2

    @equation("pf-ode")
    def step(self, step: SamplerStep) -> StepResult:
        z, t, s = step.z, step.t, step.s
        x0 = step.predict(z, t).x0
        start, stop = flow_time(t), flow_time(s)
        middle = 0.5 * (start + stop)
        m = step.at(2 * (torch.log1p(-middle) - torch.log(middle)))
        w, width = z / _total(t, z), column(stop - start, z)
        half = _total(m, z) * (w + 0.5 * width * (eps_of(z, x0, t) - x0))
        x0_m = step.predict(half, m).x0
        return StepResult(_total(s, z) * (w + width * (eps_of(half, x0_m, m) - x0_m)), x0)

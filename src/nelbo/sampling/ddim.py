"""DDIM: the step along ε̂, with a chosen share of the noise of the ancestral step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import UsageError
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult, eps_of


@equation("pf-ode")
def along(z: Tensor, x0: Tensor, s: Levels, t: Levels) -> Tensor:
    """z_s = α_s x̂ + σ_s ε̂: the probability flow from t to s if x̂ is constant in between (in either direction).

    With ε̂ substituted it is (σ_s/σ_t) z − α_s (e^{(λ_t − λ_s)/2} − 1) x̂: two passes over the state, no cancellation.
    """
    kept = (s.log_sigma - t.log_sigma).exp()
    gained = -s.alpha * torch.expm1(0.5 * (t.logsnr - s.logsnr))
    return torch.addcmul(column(kept, z) * z, column(gained, z), x0)


@numbers
@final
@dataclass(frozen=True)
class DDIM(Sampler):
    """z_s = α_s x̂ + σ_s √(1 − η² c) ε̂ + η σ_s √c ξ, c = 1 − e^{λ_t − λ_s}.

    η = 0 is Euler's method of the probability flow (order 1); η = 1 is the ancestral step of variance β̃.
    Source: Song, Meng & Ermon 2021, eq. 12 and 16. Errors: UsageError unless 0 ≤ η ≤ 1.

    >>> DDIM().stochastic, DDIM(eta=1.0).stochastic
    (False, True)
    """

    eta: float = 0.0
    name = "ddim"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            hint = "give 0 ≤ eta ≤ 1: 0 draws no noise, 1 that of the ancestral step"
            raise UsageError(f"DDIM with η = {self.eta}", hint)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, step: SamplerStep) -> StepResult:
        z, s, t = step.z, step.s, step.t
        x0 = step.predict(z, t).x0
        if not self.stochastic:
            return StepResult(along(z, x0, s, t), x0)
        c = forward.one_minus_snr_ratio(s, t)
        kept = column(s.sigma * (1 - self.eta**2 * c).sqrt(), z)
        fresh = column(self.eta * s.sigma * c.sqrt(), z)
        return StepResult(column(s.alpha, z) * x0 + kept * eps_of(z, x0, t) + fresh * step.normal(), x0)

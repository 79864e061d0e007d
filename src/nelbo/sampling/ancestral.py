"""Ancestral sampling: z_L ~ p(z_L), then z_{j−1} ~ p_θ(z_{j−1} | z_j) down to z_1, then x ~ p(x | z_1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from nelbo.equation import equation
from nelbo.model.reverse import Variance, parse_variance
from nelbo.sampling.sampler import Sampler, SamplerStep, StepResult


@final
@dataclass(frozen=True)
class Ancestral(Sampler):
    """Draws from the model itself: z_s = α_{t|s} (σ_s²/σ_t²) z_t + α_s c x̂ + √v ξ, v the variance policy.

    variance: another policy than the model's, such as "beta" or "beta_tilde".
    Source: Ho et al. 2020, algorithm 2. Errors: UnknownNameError.

    >>> Ancestral("beta").describe()
    {'name': 'ancestral', 'variance': 'beta'}
    """

    variance: str | Variance | Tensor | Sequence[float] | None = None
    name = "ancestral"

    def __post_init__(self):
        if self.variance is not None:
            parse_variance(self.variance)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def reverse_variance(self) -> Variance | None:
        return None if self.variance is None else parse_variance(self.variance)

    @equation("sampling-step")
    def step(self, step: SamplerStep) -> StepResult:
        prediction = step.predict(step.z, step.t)
        return StepResult(step.reverse.draw(step.z, prediction, step.s, step.t, step.normal()), prediction.x0)

    def describe(self):
        variance = self.reverse_variance
        return {"name": self.name, **({} if variance is None else {"variance": variance.kind})}

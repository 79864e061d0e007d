"""Reverse steps p_θ(z_s | z_t): a Gaussian whose mean follows from x̂ and whose variance is a policy.

    p_θ(z_s | z_t) = N(α_{t|s} (σ_s²/σ_t²) z_t + α_s c x̂,  v_θ),     c = −expm1(λ_t − λ_s)

The mean is the posterior mean of q with x̂ in the place of x; the z_t part is the same in q and p_θ, so the KL needs
only α_s c (x − x̂) and the two variances, and never subtracts two large means.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import UnknownNameError, UsageError
from nelbo.maths import gaussian
from nelbo.parts import Part, kinds
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction


class Variance(Part, family="variance"):
    """Policy for the variance of a reverse step, and for the variance of a Gaussian decoder at the first level."""

    @abstractmethod
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        """v_θ of p_θ(z_s | z_t), broadcastable to x̂: (B, 1, …) where it is one number an example."""

    @abstractmethod
    def of_decoder(self, first: Levels, second: Levels) -> float:
        """Variance of a Gaussian decoder at level `first` of the *full* table, next to `second`; in units of x²."""


@dataclass(frozen=True, eq=False)
class BetaTilde(Variance, kind="beta_tilde"):
    """v = β̃ = σ_s² c, the variance of the posterior of q (Ho et al. 2020, eq. 7): right for data that is one point.

    The decoder gets β_2 (1 − ᾱ_1)/(1 − ᾱ_2), the first β̃ that is not zero.
    """

    @equation("posterior-variance")
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return column(forward.posterior(s, t).variance, prediction.x0)

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(forward.posterior(first, second).variance)


@dataclass(frozen=True, eq=False)
class Beta(Variance, kind="beta"):
    """v = β = σ²_{t|s} = σ_t² c, the variance of the forward kernel: right for data that is N(0, I).

    The decoder gets β_1 = 1 − ᾱ_1.
    """

    @equation("sigma-choices")
    def of_step(self, s: Levels, t: Levels, prediction: Prediction) -> Tensor:
        return column(forward.transition(s, t).variance, prediction.x0)

    def of_decoder(self, first: Levels, second: Levels) -> float:
        return float(first.sigma.square())


def parse_variance(name: str | Variance) -> Variance:
    """The policy called `name`. Errors: UnknownNameError listing the policies."""
    if isinstance(name, Variance):
        return name
    known = kinds("variance")
    if name not in known:
        raise UnknownNameError.of("variance policy", name, known)
    return known[name]()  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Clip(Part, family="clip", kind="range"):
    """Clamp x̂ to [low, high] before anything is computed from it. Part of the model: it changes p_θ."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"clipping to [{self.low}, {self.high}]", "give finite ends, the smaller first")


@dataclass(frozen=True, eq=False)
class Reverse(Part, family="reverse", kind="gaussian"):
    """The Gaussian reverse step: a variance policy and a clipping policy (None: x̂ is used as predicted)."""

    variance: Variance
    clip: Clip | None = None

    def clipped(self, prediction: Prediction) -> Prediction:
        """The prediction after the clipping policy."""
        return prediction if self.clip is None else prediction.clipped(self.clip.low, self.clip.high)

    @equation("reverse-transition", "model-mean-eps")
    def step(self, z_t: Tensor, prediction: Prediction, s: Levels, t: Levels) -> tuple[Tensor, Tensor]:
        """Mean and variance of p_θ(z_s | z_t), each broadcastable to (B, …)."""
        return forward.posterior_mean(prediction.x0, z_t, s, t), self.variance.of_step(s, t, prediction)

    @equation("loss-term-denoise", "loss-mean-matching", "snr-discrete-loss")
    def kl(self, x: Tensor, prediction: Prediction, s: Levels, t: Levels) -> Tensor:
        """KL(q(z_s | z_t, x) ‖ p_θ(z_s | z_t)) per element, nats, (B, …).

        With v = β̃ the variances cancel and ½ (SNR(s) − SNR(t)) (x − x̂)² is left (Kingma et al. 2021, eq. 13–14).
        """
        q = forward.posterior(s, t)
        difference = column(q.x_coefficient, x) * (x - prediction.x0)
        return gaussian.kl_from_difference(difference, column(q.variance, x), self.variance.of_step(s, t, prediction))

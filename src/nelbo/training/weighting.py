"""Weightings w(λ) of the diffusion loss ½ ∫ w(λ) E‖ε − ε̂‖² dλ over the noise levels.

    Flat            w = 1                                   the bound
    Sigmoid         w = sigmoid(b − λ)                      monotone
    EDMMonotone     w = w_EDM(max(λ, λ*))/w_EDM(λ*)         monotone
    MinSNR          w = min(1, γ e^−λ)                      a factor of the noise loss

A weighting that falls in λ makes the loss a mixture of bounds on data with noise added (Kingma & Gao 2023, §4): how
much noise is `augmentation_level`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.errors import UsageError


class Weighting(ABC):
    """Abstract: a weight of every noise level, at most 1 and never negative."""

    monotone: bool = True
    """Whether w falls (or stays) as λ rises, so that the weighted loss is a mixture of bounds."""

    @abstractmethod
    def __call__(self, logsnr: Tensor) -> Tensor:
        """w(λ), elementwise, in the dtype of λ."""


@dataclass(frozen=True)
class Flat(Weighting):
    """w = 1: the bound itself."""

    def __call__(self, logsnr: Tensor) -> Tensor:
        return torch.ones_like(logsnr)


FLAT = Flat()


@dataclass(frozen=True)
class Sigmoid(Weighting):
    """w(λ) = sigmoid(b − λ): 1 for noise, e^{b − λ} for fine detail (Kingma & Gao 2023, §5)."""

    bias: float = 2.0

    def __post_init__(self):
        if not math.isfinite(self.bias):
            raise UsageError(f"a sigmoid weighting with bias {self.bias}", "give a finite log-SNR, such as 2.0")

    @equation("weighting-monotone")
    def __call__(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(self.bias - logsnr)


@dataclass(frozen=True)
class EDMMonotone(Weighting):
    """w(λ) = w_EDM(max(λ, λ*))/w_EDM(λ*), w_EDM(λ) = N(λ; 2.4, 2.4²) (e^−λ + ½²), λ* where w_EDM is largest.

    w_EDM is the weight of the noise error in EDM's loss (Karras et al. 2022, table 1: ln σ ~ N(−1.2, 1.2²), σ_data = ½
    and λ = −2 ln σ); left of its maximum it is held at the maximum (Kingma & Gao 2023, §5 and app. D).
    """

    @equation("weighting-monotone")
    def __call__(self, logsnr: Tensor) -> Tensor:
        at = logsnr.clamp(min=PEAK)
        return (log_edm(at) - log_edm(torch.full_like(at, PEAK))).exp()


@dataclass(frozen=True)
class MinSNR(Weighting):
    """w(λ) = min(SNR, γ)/SNR, SNR = e^λ, as a factor of the noise loss.

    Source: Hang et al. 2023, §3.4, where the factor of the x̂ loss is min(SNR, γ).

    Over dλ it is multiplied by −dt/dλ of the schedule, so that whether it falls depends on the schedule.
    """

    gamma: float = 5.0
    monotone = False

    def __post_init__(self):
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise UsageError(f"min-SNR weighting with gamma {self.gamma}", "give a number > 0; Hang et al. use 5")

    @equation("loss-min-snr")
    def __call__(self, logsnr: Tensor) -> Tensor:
        return (self.gamma * torch.exp(-logsnr)).clamp(max=1)


def log_edm(logsnr: Tensor) -> Tensor:
    """log w_EDM up to a constant: −½ ((λ − 2.4)/2.4)² + log(e^−λ + ¼)."""
    quarter = torch.full_like(logsnr, math.log(0.25))
    return -0.5 * ((logsnr - 2.4) / 2.4).square() + torch.logaddexp(-logsnr, quarter)


def _peak() -> float:
    """λ* by bisection of the slope (2.4 − λ)/2.4² − e^−λ/(e^−λ + ¼), which falls through zero once."""
    low, high = -20.0, 20.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        slope = (2.4 - middle) / 2.4**2 - 1 / (1 + 0.25 * math.exp(middle))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return 0.5 * (low + high)


PEAK = _peak()
"""λ*, where EDM's weighting is largest: −3.31."""


@equation("weighted-loss-elbo-augmentation")
def augmentation_level(weighting: Weighting, u: Tensor, logsnr_max: float, logsnr_min: float) -> Tensor:
    """The log-SNR of the noise that training with `weighting` adds to its data, from uniforms u in (0, 1), elementwise.

        L_w + w(λ_min) L(1) = w(λ_min) E_u[L(t_u)],    λ(t_u) = the largest λ in [λ_min, λ_max] with w(λ) ≥ u w(λ_min)

    with L(t) the KL of the latents from t to the end: λ_max, data as they are, has mass w(λ_max)/w(λ_min).
    Source: Kingma & Gao 2023, §4. Errors: UsageError for a weighting that is not monotone.
    """
    if not weighting.monotone:
        raise UsageError(
            f"the weighting {type(weighting).__name__} read as noise added to the data",
            "only a weighting that falls in log-SNR is a mixture of bounds: Flat, Sigmoid or EDMMonotone",
        )
    u = torch.as_tensor(u, dtype=torch.float64)
    low, high = torch.full_like(u, logsnr_min), torch.full_like(u, logsnr_max)
    level = u * weighting(low)
    clean = weighting(high) >= level
    for _ in range(80):
        middle = 0.5 * (low + high)
        inside = weighting(middle) >= level
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.where(clean, torch.full_like(u, logsnr_max), low)

"""Laws of survival α_t ∈ [0, 1] of a symbol: the schedule of a network over tokens that is told the time.

Linear      α_t = 1 − (1 − α_1) t                   log-linear noise of MDLM and SEDD; α_1 = 0 or a small ε
Cosine      α_t = 1 − cos(π (1 − t)/2)               MD4, MaskGIT
Geometric   α_t = exp(−σ_min^{1−t} σ_max^t)          SEDD's geometric noise; α_0 < 1 and α_1 > 0
Table       α_1 > … > α_T                            levels of a finite chain

A network over masked places that is not told the time needs none of them: every law gives it the same bound.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.parts import Part
from nelbo.process.tokens.levels import TokenLevels


class Survival(Part, family="survival"):
    """Abstract: a falling law α_t at unit times t, 0 at the data."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α_t, elementwise, float64."""

    @abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """1 − α_t, elementwise, accurate where it is small."""

    @abstractmethod
    def time_of(self, noise: Tensor) -> Tensor:
        """The inverse of `noise`."""

    def at(self, t: Tensor) -> TokenLevels:
        """The levels at unit times t."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return TokenLevels(t, self.alpha(t), self.noise(t))


@numbers
@dataclass(frozen=True, eq=False)
class Linear(Survival, kind="linear"):
    """α_t = 1 − (1 − α_1) t, with `last` = α_1."""

    last: float = 0.0

    def __post_init__(self):
        if not 0 <= self.last < 1:
            raise UsageError(f"a linear law that ends at α = {self.last}", "give 0 ≤ last < 1")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t + self.last * t

    def noise(self, t: Tensor) -> Tensor:
        return (1 - self.last) * t

    def time_of(self, noise: Tensor) -> Tensor:
        return noise / (1 - self.last)


@dataclass(frozen=True, eq=False)
class Cosine(Survival, kind="cosine"):
    """α_t = 1 − cos(π (1 − t)/2) (Shi et al. 2024, "Simplified and generalized masked diffusion", table 1)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 2 * (math.pi / 4 * (1 - t)).sin().square()

    def noise(self, t: Tensor) -> Tensor:
        return (math.pi / 2 * t).sin()

    def time_of(self, noise: Tensor) -> Tensor:
        return noise.asin() * (2 / math.pi)


@numbers
@dataclass(frozen=True, eq=False)
class Geometric(Survival, kind="geometric"):
    """α_t = exp(−σ_min^{1−t} σ_max^t) (Lou et al. 2024, "Discrete diffusion modeling by estimating ratios", §5)."""

    sigma_min: float = 1e-3
    sigma_max: float = 20.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise UsageError(
                f"geometric noise from {self.sigma_min} to {self.sigma_max}", "give 0 < sigma_min < sigma_max"
            )

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.exp((1 - t) * math.log(self.sigma_min) + t * math.log(self.sigma_max))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._sigma(t))

    def noise(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._sigma(t))

    def time_of(self, noise: Tensor) -> Tensor:
        ratio = math.log(self.sigma_max / self.sigma_min)
        return ((-torch.log1p(-noise)).log() - math.log(self.sigma_min)) / ratio


@dataclass(frozen=True, eq=False)
class AlphaTable(Survival, kind="table"):
    """Survivals (T,) of the levels 1 … T, falling in [0, 1); at t = i/T that of level i, and 1 at t = 0."""

    alphas: Tensor

    def __post_init__(self):
        alphas = torch.as_tensor(self.alphas, dtype=torch.float64)
        inside = alphas.ndim == 1 and len(alphas) > 0 and bool(((alphas >= 0) & (alphas < 1)).all())
        if not inside or not bool((alphas.diff() < 0).all()):
            raise UsageError(
                f"a table of survivals of shape {tuple(alphas.shape)}", "give (T,) falling numbers in [0, 1)"
            )
        object.__setattr__(self, "alphas", alphas)

    def alpha(self, t: Tensor) -> Tensor:
        index = t * len(self.alphas)
        if bool(((index - index.round()).abs() > 1e-6).any()):
            raise UsageError(
                f"a time between the {len(self.alphas)} levels of a table", "use nelbo.grids.full() or even(K)"
            )
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alphas]).to(t.device)[index.round().long()]

    def noise(self, t: Tensor) -> Tensor:
        return 1 - self.alpha(t)

    def time_of(self, noise: Tensor) -> Tensor:
        levels = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas]).to(noise.device)
        return (levels - (1 - noise)[..., None]).abs().argmin(-1).double() / len(self.alphas)

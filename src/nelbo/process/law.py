"""Laws: schedules that have a level at every t ∈ [0, 1], and the abstract noun that laws and tables share.

LogSNRLinear   λ(t) = λ_max + (λ_min − λ_max) t                         VDM
Flow           λ(τ) = 2 log((1 − τ)/τ), τ = t_min + (t_max − t_min) t    flow matching
EDM            λ(t) = −2 ρ log(a + (b − a) t)                            Karras et al.
Learned        λ(k/K) = λ_k, straight lines in between                   trained to lower the noise of the bound
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.parts import Part
from nelbo.process.levels import Levels, Path


class Schedule(Part, family="schedule"):
    """The log-SNR law. Abstract: a subclass gives λ(t), its slope and its inverse, and says which path it follows."""

    path_name: str

    @property
    def path(self) -> Path:
        """How α and σ follow from λ."""
        return Path(self.path_name)

    @property
    def table_length(self) -> int | None:
        """T where the schedule is a table of T levels, None where it is a law on [0, 1]."""
        return None

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor:
        """λ(t) at unit times t, float64, elementwise."""

    @abstractmethod
    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        """dλ/dt ≤ 0 at unit times t, elementwise. Errors: UsageError for a table, which has no slope."""

    @abstractmethod
    def time_of(self, logsnr: Tensor) -> Tensor:
        """The inverse: t with λ(t) = logsnr, elementwise."""

    def at(self, t: Tensor) -> Levels:
        """The levels at unit times t (any shape, float64)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return Levels(t, self.logsnr(t), self.path, slope=self.dlogsnr_dt(t))

    def on(self, path: str | Path) -> Self:
        """The same law λ(t) with α and σ of another path: "vp", "ve" or "flow". Errors: UnknownNameError."""
        return replace(self, path_name=Path.parse(path).value)  # type: ignore[type-var]


@numbers
@dataclass(frozen=True, eq=False)
class LogSNRLinear(Schedule, kind="logsnr_linear"):
    """λ(t) = λ_max + (λ_min − λ_max) t, VDM's linear schedule (Kingma et al. 2021, §3.2; theirs is γ = −λ)."""

    logsnr_max: float
    logsnr_min: float
    path_name: str = "vp"

    def __post_init__(self):
        ends = (self.logsnr_max, self.logsnr_min)
        if not all(isinstance(e, (int, float)) and math.isfinite(e) for e in ends) or ends[0] <= ends[1]:
            raise UsageError(
                f"log-SNR runs from {self.logsnr_max} at t = 0 to {self.logsnr_min} at t = 1",
                "give two finite numbers, the larger first: logsnr_linear(logsnr_max=13.3, logsnr_min=-5.0)",
            )
        Path(self.path_name)

    def logsnr(self, t: Tensor) -> Tensor:
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.logsnr_min - self.logsnr_max)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return (logsnr - self.logsnr_max) / (self.logsnr_min - self.logsnr_max)


@numbers
@dataclass(frozen=True, eq=False)
class Flow(Schedule, kind="flow"):
    """α = 1 − τ, σ = τ at flow times τ = t_min + (t_max − t_min) t, so that λ = 2 log((1 − τ)/τ).

    A network of time="unit" is told τ, and its velocity is dz/dτ = ε − x.
    """

    t_min: float
    t_max: float
    path_name: str = "flow"

    def __post_init__(self):
        if not (math.isfinite(self.t_min) and math.isfinite(self.t_max) and 0 < self.t_min < self.t_max < 1):
            raise UsageError(
                f"flow times from {self.t_min} to {self.t_max}",
                "give 0 < t_min < t_max < 1: at 0 nothing is noise and at 1 nothing is data, where no chain begins or "
                "ends; flow(1e-3, 0.999), say",
            )
        Path(self.path_name)

    def flow_time(self, t: Tensor) -> Tensor:
        """τ at unit times t, elementwise."""
        return self.t_min + (self.t_max - self.t_min) * t

    def logsnr(self, t: Tensor) -> Tensor:
        tau = self.flow_time(t)
        return 2 * (torch.log1p(-tau) - torch.log(tau))

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        tau = self.flow_time(t)
        return -2 * (self.t_max - self.t_min) / (tau * (1 - tau))

    def time_of(self, logsnr: Tensor) -> Tensor:
        return (torch.sigmoid(-0.5 * logsnr) - self.t_min) / (self.t_max - self.t_min)

    def at(self, t: Tensor) -> Levels:
        t = torch.as_tensor(t, dtype=torch.float64)
        slope = self.dlogsnr_dt(t) / (self.t_max - self.t_min)
        return Levels(t, self.logsnr(t), self.path, time=self.flow_time(t), slope=slope)


@numbers
@dataclass(frozen=True, eq=False)
class EDM(Schedule, kind="edm"):
    """σ(t) = (a + (b − a) t)^ρ, a = σ_min^{1/ρ}, b = σ_max^{1/ρ}, without a signal scale (VE), λ = −2 log σ."""

    sigma_min: float
    sigma_max: float
    rho: float
    path_name: str = "ve"

    def __post_init__(self):
        numbers = (self.sigma_min, self.sigma_max, self.rho)
        if not all(math.isfinite(v) and v > 0 for v in numbers) or self.sigma_min >= self.sigma_max:
            raise UsageError(
                f"noise from σ = {self.sigma_min} to {self.sigma_max} with ρ = {self.rho}",
                "give 0 < sigma_min < sigma_max and rho > 0: edm(0.002, 80.0, 7.0)",
            )
        Path(self.path_name)

    def _root(self, t: Tensor) -> Tensor:
        a, b = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return a + (b - a) * t

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * self.rho * torch.log(self._root(t))

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        a, b = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return -2 * self.rho * (b - a) / self._root(t)

    def time_of(self, logsnr: Tensor) -> Tensor:
        a, b = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (torch.exp(-0.5 * logsnr / self.rho) - a) / (b - a)


@dataclass(frozen=True, eq=False)
class Learned(Schedule, kind="learned"):
    """λ(k/K) = λ_k for k = 0 … K, λ_0 > … > λ_K, and straight lines in between: a schedule whose shape was trained.

    The slope at a knot is that of the segment to its right; at t = 1 that of the last. knots: (K + 1,), float64.
    """

    knots: Tensor
    path_name: str = "vp"

    def __post_init__(self):
        knots = torch.as_tensor(self.knots, dtype=torch.float64)
        if knots.ndim != 1 or len(knots) < 2 or not bool(torch.isfinite(knots).all() & (knots.diff() < 0).all()):
            raise UsageError(
                f"a learned schedule of shape {tuple(knots.shape)} with log-SNR {knots.flatten()[:4].tolist()}…",
                "give two finite, falling numbers at least: the log-SNR at t = 0, 1/K, …, 1",
            )
        object.__setattr__(self, "knots", knots)
        Path(self.path_name)

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The segment of each t, how far into it t is, and the knots on its device."""
        knots = self.knots.to(t.device)
        position = t * (len(knots) - 1)
        left = position.detach().floor().clamp(0, len(knots) - 2).long()
        return left, position - left, knots

    def logsnr(self, t: Tensor) -> Tensor:
        left, part, knots = self._segment(t)
        return knots[left] + part * (knots[left + 1] - knots[left])

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        left, _, knots = self._segment(t)
        return (knots[left + 1] - knots[left]) * (len(knots) - 1)

    def time_of(self, logsnr: Tensor) -> Tensor:
        rising = self.knots.to(logsnr.device).flip(0)
        right = torch.searchsorted(rising, logsnr.contiguous()).clamp(1, len(rising) - 1)
        part = (logsnr - rising[right - 1]) / (rising[right] - rising[right - 1])
        return 1 - (right - 1 + part) / (len(rising) - 1)

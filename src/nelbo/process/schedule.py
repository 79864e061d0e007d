"""Schedules: the log-SNR law t ∈ [0, 1] ↦ λ(t), strictly falling, in float64.

A schedule is either a law on all of [0, 1] (VDM's straight line in λ) or a table of T levels (DDPM's betas), whose
level i sits at index i − 1 and unit time i/T. From a table of betas

    log ᾱ_i = Σ_{j≤i} log1p(−β_j),        λ_i = log ᾱ_i − log(1 − ᾱ_i),

the second term by log1mexp, so that no difference from 1 is ever taken in a rounded number. A table is interpolated
only on request (`Table.interpolated`), linearly in λ, and the result says so in its configuration.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.equation import equation
from nelbo.errors import DomainError, UnknownNameError, UsageError
from nelbo.maths.stable import log1mexp
from nelbo.process.law import EDM, Flow, Learned, LogSNRLinear, Schedule
from nelbo.process.levels import Levels, Path

MOST = 10_000_000
"""Levels that a table or a grid may have: more would not fit into memory."""


@dataclass(frozen=True, eq=False)
class Table(Schedule, kind="table"):
    """T levels given one by one: λ_1 > λ_2 > … > λ_T, all finite. `name` records where they came from."""

    table: Tensor
    name: str = "table"
    path_name: str = "vp"

    def __post_init__(self):
        table = self.table
        if table.ndim != 1 or len(table) == 0 or table.dtype != torch.float64:
            raise UsageError(
                f"a table of log-SNR has shape {tuple(table.shape)} and dtype {table.dtype}",
                "give a float64 tensor of shape (T,) with T ≥ 1",
            )
        if not bool(torch.isfinite(table).all()):
            bad = int((~torch.isfinite(table)).nonzero()[0])
            raise DomainError(
                f"level {bad + 1} of the schedule {self.name!r} has log-SNR {float(table[bad])}",
                "every level needs 0 < ᾱ < 1; end the chain before ᾱ = 0 (zero terminal SNR) and start it after ᾱ = 1",
            )
        if not bool((table[1:] < table[:-1]).all()):
            bad = int((table[1:] >= table[:-1]).nonzero()[0])
            raise DomainError(
                f"the log-SNR of schedule {self.name!r} does not fall from level {bad + 1} to {bad + 2} "
                f"({float(table[bad]):.6g} → {float(table[bad + 1]):.6g})",
                "every beta must lie strictly between 0 and 1; a table rescaled to zero terminal SNR ends at the level "
                "before: leave the last one out",
            )
        Path(self.path_name)

    @property
    def table_length(self) -> int:
        return len(self.table)

    def _index(self, t: Tensor) -> Tensor:
        position = torch.as_tensor(t, dtype=torch.float64) * self.table_length - 1
        index = position.round().long()
        if bool(((position - index).abs() > 1e-6).any()) or bool(((index < 0) | (index >= self.table_length)).any()):
            raise UsageError(
                f"the schedule {self.name!r} is a table of {self.table_length} levels at t = 1/T, 2/T, …, 1; "
                "another time was asked for",
                "use a grid of its own levels, or schedule.interpolated() for times between them",
            )
        return index

    def logsnr(self, t: Tensor) -> Tensor:
        return self.table.to(t.device)[self._index(t)]

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        raise UsageError(
            f"the schedule {self.name!r} is a table of {self.table_length} levels and has no slope",
            "the continuous bound of a tabulated model needs schedule.interpolated()",
        )

    def time_of(self, logsnr: Tensor) -> Tensor:
        index = (self.table.to(logsnr.device) - logsnr[..., None]).abs().argmin(-1)
        return (index + 1).to(torch.float64) / self.table_length

    def at(self, t: Tensor) -> Levels:
        t = torch.as_tensor(t, dtype=torch.float64)
        return Levels(t, self.logsnr(t), self.path, self._index(t))

    def at_index(self, index: Tensor) -> Levels:
        """The levels at table positions `index` (int64, 0..T−1; DDPM's t − 1)."""
        index = torch.as_tensor(index, dtype=torch.int64)
        return self.at((index + 1).to(torch.float64) / self.table_length)

    def interpolated(self) -> Interpolated:
        """The same table made a law on [1/T, 1], linear in λ between its levels; t is stretched onto [0, 1]."""
        return Interpolated(self.table, self.name, self.path_name)


@dataclass(frozen=True, eq=False)
class Interpolated(Schedule, kind="interpolated"):
    """A table joined up by straight lines in λ: t = 0 is its first level, t = 1 its last; `index` is fractional."""

    table: Tensor
    name: str = "table"
    path_name: str = "vp"

    def __post_init__(self):
        if len(self.table) < 2:
            raise UsageError("a table of one level cannot be interpolated", "give at least two levels")
        Table.__post_init__(self)  # type: ignore[arg-type]

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor]:
        position = t * (len(self.table) - 1)
        left = position.floor().clamp(0, len(self.table) - 2).long()
        return left, position - left

    def logsnr(self, t: Tensor) -> Tensor:
        left, part = self._segment(t)
        table = self.table.to(t.device)
        return table[left] + part * (table[left + 1] - table[left])

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        left, _ = self._segment(t)
        table = self.table.to(t.device)
        return (table[left + 1] - table[left]) * (len(self.table) - 1)

    def time_of(self, logsnr: Tensor) -> Tensor:
        rising = self.table.to(logsnr.device).flip(0)
        right = torch.searchsorted(rising, logsnr.contiguous()).clamp(1, len(rising) - 1)
        part = (logsnr - rising[right - 1]) / (rising[right] - rising[right - 1])
        return 1 - (right - 1 + part) / (len(rising) - 1)

    def at(self, t: Tensor) -> Levels:
        t = torch.as_tensor(t, dtype=torch.float64)
        return Levels(t, self.logsnr(t), self.path, t * (len(self.table) - 1), slope=self.dlogsnr_dt(t))


@equation("schedule-definitions")
def from_betas(betas, name: str = "betas") -> Table:
    """The DDPM chain q(x_i | x_{i−1}) = N(√(1−β_i) x_{i−1}, β_i I), i = 1..T, as a table of log-SNR.

    betas: array-like (T,), each strictly in (0, 1); summed in float64 as Σ log1p(−β).
    Source: Ho et al. 2020, eq. 2 and 4. Errors: DomainError where a beta is outside (0, 1) or not finite.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64).reshape(-1)
    outside = ~((betas > 0) & (betas < 1))
    if len(betas) == 0 or bool(outside.any()):
        where = int(outside.nonzero()[0]) if len(betas) else 0
        what = f"beta {where + 1} of {len(betas)} is {float(betas[where])}" if len(betas) else "the table is empty"
        raise DomainError(what, "every beta must lie strictly between 0 and 1")
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    return Table(log_alpha_bar - log1mexp(-log_alpha_bar), name)


@equation("schedule-definitions")
def from_alphas_cumprod(alphas_cumprod, name: str = "alphas_cumprod") -> Table:
    """The same chain from ᾱ_1 > … > ᾱ_T, each strictly in (0, 1): λ_i = logit(ᾱ_i)."""
    alpha_bar = torch.as_tensor(alphas_cumprod, dtype=torch.float64).reshape(-1)
    if len(alpha_bar) == 0 or not bool(((alpha_bar > 0) & (alpha_bar < 1)).all()):
        raise DomainError(
            f"cumulative alphas run from {alpha_bar[:1].tolist()} to {alpha_bar[-1:].tolist()}",
            "every cumulative alpha must lie strictly between 0 and 1, and they must fall",
        )
    return Table(torch.logit(alpha_bar), name)


@numbers
def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 2e-2) -> Table:
    """DDPM's table: β evenly spaced from β_1 to β_T (Ho et al. 2020, §4)."""
    _check_length(T)
    return from_betas(torch.linspace(beta_1, beta_T, T, dtype=torch.float64), f"linear(T={T}, {beta_1}, {beta_T})")


@numbers
def cosine(T: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Table:
    """Nichol & Dhariwal's cosine table: ᾱ(u) = cos²(π/2 (u+s)/(1+s)), β_i = min(1 − ᾱ(i/T)/ᾱ((i−1)/T), 0.999).

    Without cancellation 1 − cos² a/cos² b = sin(a + b) sin(a − b)/cos² b.
    Source: Nichol & Dhariwal 2021, eq. 17 and the clipping stated below it.
    """
    _check_length(T)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    angle = math.pi / 2 * (u + offset) / (1 + offset)
    a, b = angle[1:], angle[:-1]
    betas = torch.sin(a + b) * math.sin(math.pi / 2 / T / (1 + offset)) / torch.cos(b).square()
    return from_betas(betas.clamp(max=beta_max), f"cosine(T={T})")


def logsnr_linear(logsnr_max: float = 13.3, logsnr_min: float = -5.0) -> LogSNRLinear:
    """VDM's straight line in log-SNR; the defaults are VDM's initial end points (Kingma et al. 2021, app. B)."""
    return LogSNRLinear(logsnr_max, logsnr_min)


def flow(t_min: float = 1e-3, t_max: float = 0.999) -> Flow:
    """Straight paths z = (1 − τ) x + τ ε between the flow times t_min and t_max: flow matching, rectified flow.

    λ(τ) = 2 log((1 − τ)/τ) and dz/dτ = ε − x, with data at τ = 0; a network whose time runs the other way is wrapped:
    `lambda z, t: -net(z, 1 - t)`. The ends are where the chain starts and stops: λ = 13.8 and −13.8 by default.
    Source: Lipman et al. 2023, eq. 20 and 22 with σ_min = 0; Liu et al. 2023, eq. 1. Errors: UsageError.

    >>> round(float(flow(0.1, 0.9).at(0.5).sigma), 12)
    0.5
    """
    return Flow(t_min, t_max)


@numbers
def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> EDM:
    """EDM's noise levels, z = x + σ ε: σ(t) = (σ_min^{1/ρ} + t (σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ.

    Source: Karras et al. 2022, eq. 5 (theirs counts from σ_max down) and table 1. Errors: UsageError.

    >>> sigma = edm().at([0.0, 1.0]).sigma
    >>> [round(float(s), 6) for s in sigma]
    [0.002, 80.0]
    """
    return EDM(float(sigma_min), float(sigma_max), float(rho))


@numbers
def learned(
    logsnr_max: float = 13.3, logsnr_min: float = -5.0, segments: int = 32, shape: Sequence[float] | None = None
) -> Learned:
    """A law of straight segments in log-SNR, as `nelbo train --set schedule=learned` trains and saves it:

        λ(k/K) = λ_max − (λ_max − λ_min) Σ_{j≤k} p_j,    p_j > 0, Σ p_j = 1

    shape: the falls p_1 … p_K up to a factor; None is `segments` equal ones, where training begins. The continuous
    bound does not depend on p, the noise of its estimate does (Kingma et al. 2021, §5.1 and app. I.2).
    Errors: UsageError.

    >>> float(learned(6.0, -2.0, shape=[3.0, 1.0]).logsnr(torch.tensor(0.5)))
    0.0
    """
    if not 1 <= segments <= MOST:
        raise UsageError(f"a law of segments={segments}", f"segments is a whole number, 1 to {MOST:,}")
    p = torch.ones(segments, dtype=torch.float64) if shape is None else torch.as_tensor(shape, dtype=torch.float64)
    fall = torch.cat([p.new_zeros(1), (p / p.sum()).cumsum(0)])
    fall[-1] = 1.0
    return Learned(logsnr_max + (logsnr_min - logsnr_max) * fall)


TRAINABLE: dict[str, Callable[..., Schedule]] = {
    constructor.__name__: constructor for constructor in (logsnr_linear, learned, linear, cosine)
}
"""Constructors by the names that `nelbo train --set schedule=NAME` accepts."""


def named(name: str, settings: Mapping[str, Any]) -> Schedule:
    """The schedule of the constructor `name` in `TRAINABLE`, with those of `settings` that are its parameters.

    Errors: UnknownNameError, and those of the constructor.

    >>> named("linear", {"T": 10, "logsnr_max": 5.0}).table_length
    10
    """
    if name not in TRAINABLE:
        raise UnknownNameError.of("schedule", name, TRAINABLE)
    parameters = inspect.signature(TRAINABLE[name]).parameters
    return TRAINABLE[name](**{key: value for key, value in settings.items() if key in parameters})


def _check_length(T: int) -> None:
    if not 1 <= T <= MOST:
        raise UsageError(f"a table of T = {T} levels was asked for", f"T is a whole number, 1 to {MOST:,}")

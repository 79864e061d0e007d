"""Siblings of the schedule: standard tables of the same length, shifts of the log-SNR, √ᾱ for ᾱ, and other paths.

Another schedule is another chain, which may have a lower bound whatever the network was trained on. What the network
knows of its schedule is the log-SNR that an index or a unit time stands for. A sibling therefore keeps the chain that
is declared and gives the network, at each of its log-SNRs, the time of the other schedule: its nearest index, or its
unit time in between. Where that is better, the model of the other schedule with its own levels follows. A network that
is given the level itself does not depend on the schedule.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nelbo.diagnosis.cached import changed
from nelbo.diagnosis.subject import Sibling, Subject, printed
from nelbo.errors import NelboError, UsageError
from nelbo.model.denoiser import TimeInput
from nelbo.process import schedule as schedules
from nelbo.process.law import Learned, LogSNRLinear, Schedule
from nelbo.process.levels import Levels, Path
from nelbo.process.schedule import Interpolated, Table, linear
from nelbo.typing import Json

SHIFTS = (-2 * math.log(4), -2 * math.log(2), 2 * math.log(2), 2 * math.log(4))
"""Shifts of the log-SNR: those of images of other sizes (Hoogeboom et al. 2023, eq. 4)."""


@dataclass(frozen=True, eq=False)
class ScheduleTime:
    """The time of another schedule at the log-SNR of a level, in the place of a `TimeInput`."""

    schedule: Schedule
    time: TimeInput
    value: str

    def of(self, t: Levels, dtype: torch.dtype) -> Tensor:
        """The network's time argument (B,) at levels t."""
        other = self.schedule
        if isinstance(other, Table):
            table = other.table.to(t.logsnr.device)
            if self.time is TimeInput.INDEX:
                return (table - t.logsnr[..., None]).abs().argmin(-1)
            if len(table) > 1:  # between two levels: (index + 1)/T
                part = other.interpolated().time_of(t.logsnr.clamp(table[-1], table[0]))
                return ((part * (len(table) - 1) + 1) / len(table)).to(dtype)
        ends = other.at(torch.tensor([0.0, 1.0])).logsnr.to(t.logsnr.device)
        levels = other.at(other.time_of(t.logsnr.clamp(ends[1], ends[0])))
        return self.time.of(levels, dtype)


@dataclass(frozen=True)
class OnSchedule(Sibling):
    """The network was trained on another schedule, of the same length where it is a table."""

    label: str
    line: str
    make: Callable[[Schedule], Schedule]
    whole: bool = False
    """Whether with its own levels, too."""
    unusual: bool = False  # type: ignore[misc]

    @property
    def same_chain(self) -> bool:  # type: ignore[override]
        return not self.whole

    @property
    def name(self) -> str:
        return f"schedule {self.label}{', its levels' if self.whole else ''}"

    @property
    def declaration(self) -> Json:
        return {"schedule": self.label, "levels": "its own" if self.whole else "as declared"}

    @property
    def claim(self) -> str:
        return f"this network was trained on the schedule {self.label}"

    @property
    def change(self) -> str:
        return f"schedule={self.line}"

    def of(self, subject: Subject) -> Subject:
        if self.whole:
            return subject.redeclared(schedule=self.make(subject.model.schedule))
        denoiser, other = subject.model.denoiser, self.make(subject.model.schedule)
        time = ScheduleTime(other, TimeInput.parse(getattr(denoiser, "time", "index")), self.label)
        return subject.with_denoiser(changed(denoiser, time=time))

    def trained(self, schedule: Schedule) -> tuple[float, float] | None:
        levels = _levels(self.make(schedule))
        return float(levels[-1]), float(levels[0])

    def following(self) -> Sibling | None:
        return None if self.whole else replace(self, whole=True)


@dataclass(frozen=True)
class OnPath(Sibling):
    """The same log-SNR with α and σ of another path."""

    path: Path
    same_chain = True
    least_share = 0.05  # up to 3 % were seen to be saved by inputs of another scale, of networks with little training

    @property
    def name(self) -> str:
        return f"path {self.path.value}"

    @property
    def declaration(self) -> Json:
        return {"path": self.path.value}

    @property
    def claim(self) -> str:
        return f"this network was trained on z of the path {self.path.value}"

    @property
    def change(self) -> str:
        return f'schedule=schedule.on("{self.path.value}")'

    def of(self, subject: Subject) -> Subject:
        return subject.redeclared(schedule=subject.model.schedule.on(self.path))


def alpha_bar(schedule: Schedule) -> Tensor:
    """ᾱ of every level of a table, (T,)."""
    assert isinstance(schedule, Table)
    return torch.sigmoid(schedule.table)


def betas(schedule: Schedule) -> Tensor:
    """β of every step of a table, (T,)."""
    bar = alpha_bar(schedule)
    return 1 - bar / torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])


def scaled_linear(T: int, beta_1: float, beta_T: float) -> Table:
    """√β evenly spaced, as of latent diffusion."""
    return schedules.from_betas(torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64).square())


def sigmoid(T: int, beta_1: float, beta_T: float) -> Table:
    """β along a sigmoid from −6 to 6."""
    return schedules.from_betas(torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * (beta_T - beta_1) + beta_1)


def _betas(label: str, line: str, make: Callable[[], Table]) -> OnSchedule:
    return OnSchedule(label, line, lambda schedule: make())


def _tables(schedule: Table) -> list[OnSchedule]:
    T = len(schedule.table)
    others = []
    own = float(betas(schedule)[0]), float(betas(schedule)[-1])
    for b1, bT in dict.fromkeys([own, (1e-4, 0.02), (8.5e-4, 0.012)]):
        ends = f"{b1:.6g} to {bT:.6g}"
        spaced = f"torch.linspace({b1:.6g}**0.5, {bT:.6g}**0.5, {T})**2"
        curved = f"torch.linspace(-6, 6, {T}).sigmoid() * {bT - b1:.6g} + {b1:.6g}"
        others += [
            _betas(f"linear, β {ends}", f"nelbo.schedules.linear({T}, {b1:.6g}, {bT:.6g})", partial(linear, T, b1, bT)),
            _betas(
                f"scaled linear, β {ends}", f"nelbo.schedules.from_betas({spaced})", partial(scaled_linear, T, b1, bT)
            ),
            _betas(f"sigmoid, β {ends}", f"nelbo.schedules.from_betas({curved})", partial(sigmoid, T, b1, bT)),
        ]
    others.append(_betas("cosine", f"nelbo.schedules.cosine(T={T})", partial(schedules.cosine, T)))
    k = 1000 / T
    if T != 1000 and 0.02 * k < 1:
        line = f"nelbo.schedules.linear({T}, {1e-4 * k:.6g}, {0.02 * k:.6g})"
        others.append(_betas(f"linear, β scaled to T = {T}", line, partial(linear, T, 1e-4 * k, 0.02 * k)))
    return [
        *others,
        OnSchedule(
            "of ᾱ, where √ᾱ was given",
            "nelbo.schedules.from_alphas_cumprod(alphas**2)",
            lambda s: schedules.from_alphas_cumprod(alpha_bar(s).square()),
        ),
        OnSchedule(
            "of √ᾱ, where ᾱ was given",
            "nelbo.schedules.from_alphas_cumprod(alphas**0.5)",
            lambda s: schedules.from_alphas_cumprod(alpha_bar(s).sqrt()),
        ),
    ]


def shifted(schedule: Schedule, shift: float) -> Schedule:
    """λ + shift at every time. Errors: UsageError for a law of another form."""
    if isinstance(schedule, (Table, Interpolated)):
        return dataclasses.replace(schedule, table=schedule.table + shift)
    if isinstance(schedule, Learned):
        return Learned(schedule.knots + shift, schedule.path_name)
    if isinstance(schedule, LogSNRLinear):
        return LogSNRLinear(schedule.logsnr_max + shift, schedule.logsnr_min + shift, schedule.path_name)
    raise UsageError(f"a {schedule.kind!r} schedule cannot be shifted", "its form is its own")


def _shift(schedule: Schedule, shift: float) -> OnSchedule:
    if isinstance(schedule, LogSNRLinear):
        ends = f"{schedule.logsnr_max + shift:.6g}, {schedule.logsnr_min + shift:.6g}"
        line = f"nelbo.schedules.logsnr_linear({ends})"
    elif isinstance(schedule, Table):
        line = f"nelbo.schedules.from_alphas_cumprod(torch.sigmoid(schedule.table {shift:+.6g}))"
    else:
        name = "knots" if isinstance(schedule, Learned) else "table"
        line = f"dataclasses.replace(schedule, {name}=schedule.{name} {shift:+.6g})"
    label = f"{printed(float(f'{shift:+.4g}'))} in log-SNR"
    return OnSchedule(label if shift < 0 else f"+{label}", line, lambda s: shifted(s, shift), unusual=True)


def _laws() -> list[OnSchedule]:
    others = []
    for make in (schedules.cosine, schedules.linear):
        name = make.__name__
        line = f"nelbo.schedules.{name}(1000).interpolated()"
        others.append(OnSchedule(f"{name}, interpolated", line, lambda s, m=make: m(1000).interpolated()))
    return others


def siblings(subject: Subject) -> list[Sibling]:
    """Other schedules that a network of an index or a unit time may have been trained with."""
    schedule, time = subject.model.schedule, getattr(subject.model.denoiser, "time", None)
    paths = [OnPath(path) for path in Path if path is not schedule.path]
    others: list[OnSchedule] = []
    if time in (TimeInput.INDEX, TimeInput.UNIT):
        if isinstance(schedule, Table):
            others += _tables(schedule)
        elif isinstance(schedule, (LogSNRLinear, Learned, Interpolated)):
            others += _laws()
        if isinstance(schedule, (Table, Interpolated, Learned, LogSNRLinear)):
            others += [_shift(schedule, shift) for shift in SHIFTS]
    return [*paths, *_distinct(others, schedule)]


def _distinct(others: list[OnSchedule], schedule: Schedule) -> list[OnSchedule]:
    """Those that differ from the schedule and from each other; what cannot be made stays, and says why."""
    seen, kept = [_levels(schedule)], []
    for sibling in others:
        try:
            levels = _levels(sibling.make(schedule))
        except NelboError:
            levels = None
        if levels is None or not any(len(levels) == len(o) and torch.allclose(levels, o, atol=1e-3) for o in seen):
            kept.append(sibling)
            seen += [] if levels is None else [levels]
    return kept


def _levels(schedule: Schedule) -> Tensor:
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    t = schedule.at_index(torch.arange(len(schedule.table))) if isinstance(schedule, Table) else schedule.at(t)
    return t.logsnr

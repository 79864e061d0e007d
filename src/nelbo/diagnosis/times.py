"""Siblings of the time: what the network is given for a level, by every convention and offset in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.diagnosis.cached import changed
from nelbo.diagnosis.subject import Sibling, Subject
from nelbo.errors import UsageError
from nelbo.model.denoiser import Denoiser, TimeInput
from nelbo.process.law import Flow
from nelbo.process.levels import Levels, Path
from nelbo.process.schedule import Table
from nelbo.typing import Json


@dataclass(frozen=True)
class Convention:
    """A time as a function of levels and of the length T of the table (1 where there is none), and how to write it."""

    name: str
    of: Callable[[Levels, int], Tensor]
    change: str
    index: bool = False
    """Whether it is a position in a table: a whole number."""
    table: bool = False
    """Whether it means something on a table alone."""
    flow: bool = False
    """Whether it is a time of flows alone."""


def _index(t: Levels, T: int) -> Tensor:
    if t.index is None:
        raise UsageError("a table position on a law without a table", "declare another time")
    return t.index


def _unit(t: Levels, T: int) -> Tensor:
    return t.t if t.time is None else t.time


CONVENTIONS = {
    "index": Convention("index", _index, 'time="index"', index=True, table=True),
    "index_plus": Convention(
        "index + 1", lambda t, T: _index(t, T) + 1, 'time="index", lambda z, t: net(z, t + 1)', index=True, table=True
    ),
    "index_minus": Convention(
        "index − 1", lambda t, T: _index(t, T) - 1, 'time="index", lambda z, t: net(z, t - 1)', index=True, table=True
    ),
    "index_reversed": Convention(
        "T − 1 − index",
        lambda t, T: T - 1 - _index(t, T),
        'time="index", lambda z, t: net(z, T - 1 - t)',
        index=True,
        table=True,
    ),
    "unit": Convention("unit", _unit, 'time="unit"'),
    "unit_before": Convention(
        "index/T", lambda t, T: _unit(t, T) - 1 / T, 'time="unit", lambda z, t: net(z, t - 1 / T)', table=True
    ),
    "unit_after": Convention(
        "(index + 2)/T", lambda t, T: _unit(t, T) + 1 / T, 'time="unit", lambda z, t: net(z, t + 1 / T)', table=True
    ),
    "one_minus_unit": Convention("1 − unit", lambda t, T: 1 - _unit(t, T), 'time="unit", lambda z, t: net(z, 1 - t)'),
    "thousand": Convention(
        "1000 × unit", lambda t, T: 1000 * _unit(t, T), 'time="unit", lambda z, t: net(z, 1000 * t)'
    ),
    "shifted": Convention(
        "3 t/(1 + 2 t)",
        lambda t, T: 3 * _unit(t, T) / (1 + 2 * _unit(t, T)),
        'time="unit", lambda z, t: net(z, 3 * t / (1 + 2 * t))',
        flow=True,
    ),
    "shifted_back": Convention(
        "t/(3 − 2 t)",
        lambda t, T: _unit(t, T) / (3 - 2 * _unit(t, T)),
        'time="unit", lambda z, t: net(z, t / (3 - 2 * t))',
        flow=True,
    ),
    "logsnr": Convention("log-SNR", lambda t, T: t.logsnr, 'time="logsnr"'),
    "half_logsnr": Convention(
        "half the log-SNR", lambda t, T: t.logsnr / 2, 'time="logsnr", lambda z, t: net(z, t / 2)'
    ),
    "minus_logsnr": Convention("−log-SNR", lambda t, T: -t.logsnr, 'time="logsnr", lambda z, t: net(z, -t)'),
    "minus_half": Convention("log σ/α", lambda t, T: -t.logsnr / 2, 'time="logsnr", lambda z, t: net(z, -t / 2)'),
    "sigma": Convention("σ", lambda t, T: t.sigma, 'time="sigma"'),
    "variance": Convention("σ²", lambda t, T: t.sigma.square(), 'time="sigma", lambda z, t: net(z, t**2)'),
    "ratio": Convention(
        "σ/α", lambda t, T: (-t.logsnr / 2).exp(), 'time="logsnr", lambda z, t: net(z, (-t / 2).exp())'
    ),
    "c_noise": Convention("ln(σ)/4", lambda t, T: t.log_sigma / 4, 'time="c_noise"'),
    "c_noise_ratio": Convention("ln(σ/α)/4", lambda t, T: -t.logsnr / 8, 'time="logsnr", lambda z, t: net(z, -t / 8)'),
    "alpha": Convention("α", lambda t, T: t.alpha, 'time="logsnr", lambda z, t: net(z, t.sigmoid().sqrt())'),
    "alpha_bar": Convention("α²", lambda t, T: t.alpha.square(), 'time="logsnr", lambda z, t: net(z, t.sigmoid())'),
}
"""By a key of its own, which for a `TimeInput` is its value. `change` is written for the path on which α² + σ² = 1."""


@dataclass(frozen=True)
class ConventionTime:
    """A time that a denoiser gives its network, in the place of a `TimeInput`."""

    value: str
    key: str
    length: int | None

    def of(self, t: Levels, dtype: torch.dtype) -> Tensor:
        """The network's time argument (B,) at levels t: whole numbers stay whole."""
        time = CONVENTIONS[self.key].of(t, self.length or 1)
        return time.to(dtype) if time.is_floating_point() else time


@dataclass(frozen=True)
class WithTime(Sibling):
    """The network takes another time."""

    key: str
    same_chain = True
    indexes = True

    @property
    def convention(self) -> Convention:
        """Its convention."""
        return CONVENTIONS[self.key]

    @property
    def name(self) -> str:
        return f"time {self.convention.name}"

    @property
    def declaration(self) -> Json:
        return {"time": self.convention.name}

    @property
    def claim(self) -> str:
        return f"this network takes {self.convention.name} as its time"

    @property
    def change(self) -> str:
        return self.convention.change

    def of(self, subject: Subject) -> Subject:
        denoiser = subject.model.denoiser
        if not isinstance(getattr(denoiser, "time", None), TimeInput):
            raise UsageError(
                f"a {type(denoiser).__name__}, which has no time of its own", "there is one way to evaluate it"
            )
        new = ConventionTime(self.convention.name, self.key, subject.model.schedule.table_length)
        return subject.with_denoiser(changed(denoiser, time=new))


def siblings(subject: Subject) -> list[Sibling]:
    """Every other convention that means something on the schedule and differs from the others at its levels."""
    model = subject.model
    time = getattr(model.denoiser, "time", None)
    if not isinstance(time, TimeInput):
        return [WithTime("unit")]  # which says why there are none
    levels, T = _looked_at(model.denoiser, model.levels()), model.schedule.table_length
    indexed = isinstance(model.schedule, Table)
    seen = [_values(time.value, levels, T or 1)]
    others: list[Sibling] = []
    for key, convention in CONVENTIONS.items():
        if (convention.table and T is None) or (convention.index and not indexed) or key == time.value:
            continue
        if convention.flow and not isinstance(model.schedule, Flow):
            continue
        values = _values(key, levels, T or 1)
        if not any(torch.allclose(values, other, rtol=1e-9, atol=1e-12) for other in seen):
            seen.append(values)
            others.append(WithTime(key))
    return others


def _looked_at(denoiser: Denoiser, levels: Levels) -> Levels:
    """The levels whose times the network is given: on the VE path for EDM's networks."""
    output = getattr(denoiser, "output", None)
    return levels.on(Path.VE) if output is not None and output.edm else levels


def _values(key: str, levels: Levels, T: int) -> Tensor:
    return CONVENTIONS[key].of(levels, T).double()

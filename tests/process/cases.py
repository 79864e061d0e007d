"""Every schedule that the laws run over. A new schedule is added here and gets all laws for free."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels
from nelbo.process.schedule import LogSNRLinear, Schedule, Table


def uneven_betas(T: int = 12) -> np.ndarray:
    """A table that is neither linear nor smooth, so that no formula is right by accident."""
    return np.random.default_rng(7).uniform(0.02, 0.4, T)


def uneven_table() -> tuple[np.ndarray, np.ndarray, Table]:
    """These β, their ᾱ = Π (1 − β), and the schedule."""
    betas = uneven_betas()
    return betas, np.cumprod(1 - betas), schedules.from_betas(betas)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear-1000": lambda: schedules.linear(),
    "linear-20": lambda: schedules.linear(20, 1e-3, 0.5),
    "linear-1": lambda: schedules.linear(1, 0.3, 0.3),
    "cosine-1000": lambda: schedules.cosine(),
    "cosine-16": lambda: schedules.cosine(16),
    "betas": lambda: schedules.from_betas(uneven_betas()),
    "alphas_cumprod": lambda: schedules.from_alphas_cumprod(np.cumprod(1 - uneven_betas())),
    "table-ve": lambda: Table(torch.linspace(9.0, -7.0, 25, dtype=torch.float64), "ve", "ve"),
    "table-flow": lambda: Table(torch.linspace(9.0, -7.0, 25, dtype=torch.float64), "flow", "flow"),
    "logsnr-vp": lambda: schedules.logsnr_linear(),
    "logsnr-extreme": lambda: schedules.logsnr_linear(20.0, -20.0),
    "logsnr-ve": lambda: LogSNRLinear(8.0, -8.0, "ve"),
    "logsnr-flow": lambda: LogSNRLinear(8.0, -8.0, "flow"),
    "flow": lambda: schedules.flow(),
    "flow-vp": lambda: schedules.flow(0.02, 0.97).on("vp"),
    "edm": lambda: schedules.edm(),
    "edm-flow": lambda: schedules.edm(0.01, 20.0, 3.0).on("flow"),
    "learned": lambda: schedules.learned(9.0, -7.0, shape=[1.0, 4.0, 0.3, 2.0, 0.7]),
    "interpolated": lambda: schedules.linear(100, 1e-3, 0.2).interpolated(),
    "interpolated-ve": lambda: Table(torch.linspace(9.0, -7.0, 25, dtype=torch.float64), "ve", "ve").interpolated(),
}


def some_levels(schedule: Schedule, count: int = 9) -> Levels:
    """Up to `count` levels from the first to the last."""
    T = schedule.table_length
    if T is None:
        return schedule.at(torch.linspace(0, 1, count, dtype=torch.float64))
    return schedule.at(torch.linspace(1, T, min(count, T), dtype=torch.float64).round() / T)


def pairs(levels: Levels) -> tuple[Levels, Levels]:
    """All pairs s < t of the levels, at t ≥ 2: the first level is only ever s."""
    s, t = torch.triu_indices(len(levels), len(levels), 1)
    return levels[s], levels[t]

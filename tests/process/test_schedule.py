"""Schedules: tables against mpmath, laws against autograd and their own inverse, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nelbo.errors import DomainError, UnknownNameError, UsageError
from nelbo.parts import kinds
from nelbo.process import schedule as schedules
from nelbo.process.levels import column
from nelbo.process.schedule import Interpolated, LogSNRLinear, Schedule, Table
from tests.process import checks
from tests.process.cases import SCHEDULES, some_levels, uneven_table
from tests.tables import refusals


def test_alphas_cumprod_is_the_table_of_its_betas():
    _, bar, table = uneven_table()
    checks.close(schedules.from_alphas_cumprod(bar).table, table.table, 1e-12, 1e-12)


# ---------------------------------------------------------------- laws × cases


def law_falls(schedule: Schedule) -> None:
    logsnr = some_levels(schedule, 1000).logsnr
    assert logsnr.dtype == torch.float64
    assert bool(torch.isfinite(logsnr).all()) and bool((logsnr.diff() < 0).all())


def law_inverse(schedule: Schedule) -> None:
    levels = some_levels(schedule, 37)
    checks.close(schedule.time_of(levels.logsnr), levels.t, 0, 1e-12)


def law_slope(schedule: Schedule) -> None:
    t = torch.rand(50, dtype=torch.float64, requires_grad=True)
    if isinstance(schedule, Table):
        with pytest.raises(UsageError, match=r"has no slope\nhint: .*interpolated"):
            schedule.dlogsnr_dt(t)
        return
    (slope,) = torch.autograd.grad(schedule.logsnr(t).sum(), t)
    checks.close(schedule.dlogsnr_dt(t.detach()), slope, 1e-10)


def law_indexing(schedule: Schedule) -> None:
    levels = some_levels(schedule)
    last = levels[-1:]
    assert len(last) == 1 and float(last.logsnr) == float(levels.logsnr[-1])
    spread = last.expand(5)
    assert len(spread) == 5 and bool((spread.logsnr == last.logsnr).all()) and bool((spread.t == last.t).all())
    assert (spread.index is None) == (levels.index is None)
    single = levels.to(dtype=torch.float32)
    assert single.alpha.dtype == torch.float32
    if levels.index is not None and single.index is not None:
        T = len(schedule.table)
        expected = levels.t * T - 1 if isinstance(schedule, Table) else levels.t * (T - 1)
        checks.close(levels.index, expected, 0, 1e-9)
        assert single.index.is_floating_point() == levels.index.is_floating_point()


LAWS = [law_falls, law_inverse, law_slope, law_indexing, checks.law_path, checks.law_composition, checks.law_schur]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", SCHEDULES)
def test_law(name, law):
    law(SCHEDULES[name]())


def test_every_kind_has_a_case():
    covered = {type(make()) for make in SCHEDULES.values()}
    assert covered >= {k for k in kinds("schedule").values() if k.__module__.startswith("nelbo.process.")}


# ---------------------------------------------------------------- interpolation


def test_interpolation_passes_through_the_table_and_is_straight_between():
    table = schedules.linear(10, 0.01, 0.5)
    law = table.interpolated()
    knots = torch.linspace(0, 1, 10, dtype=torch.float64)
    checks.close(law.at(knots).logsnr, table.table, 0, 1e-13)
    between = (knots[1:] + knots[:-1]) / 2
    checks.close(law.at(between).logsnr, (table.table[1:] + table.table[:-1]) / 2, 0, 1e-13)
    checks.close(law.at(between).index, np.arange(9) + 0.5, 1e-12)
    t = torch.rand(100, dtype=torch.float64)
    checks.close(law.logsnr(t), np.interp(t.numpy() * 9, np.arange(10), table.table.numpy()), 0, 1e-12)
    checks.close(law.time_of(law.logsnr(t)), t, 0, 1e-12)
    assert law.to_config() == {"kind": "interpolated", "name": table.name, "path_name": "vp"}


def test_edm_levels_are_those_of_karras():
    """σ_i of Karras et al. 2022, eq. 5, for N = 18: theirs run from σ_max down."""
    i, N = np.arange(18), 18
    karras = (80 ** (1 / 7) + i / (N - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    levels = schedules.edm().at(torch.from_numpy(1 - i / (N - 1)))
    checks.close(levels.sigma, karras, 1e-12)
    checks.close(levels.alpha, np.ones(18), 0)


def test_a_law_on_another_path_is_the_same_law():
    for path in ("vp", "ve", "flow"):
        for name in ("flow", "edm", "logsnr-vp", "table-ve", "interpolated"):
            schedule = SCHEDULES[name]()
            moved = schedule.on(path)
            assert type(moved) is type(schedule) and moved.path.value == path
            checks.close(some_levels(moved).logsnr, some_levels(schedule).logsnr, 0)


def test_column_broadcasts_over_examples():
    like = torch.zeros(3, 2, 5)
    assert column(torch.arange(3.0), like).shape == (3, 1, 1)
    assert torch.equal((like + column(torch.arange(3.0), like))[:, 1, 4], torch.arange(3.0))


# ---------------------------------------------------------------- what is refused

test_nonsense_is_refused = refusals(
    (lambda: schedules.from_betas([0.1, 1.0]), DomainError, r"beta 2 of 2 is 1\.0\nhint: .*strictly between 0 and 1"),
    (lambda: schedules.from_betas([0.0, 0.1]), DomainError, r"beta 1 of 2 is 0\.0"),
    (lambda: schedules.from_betas([0.1, -0.1, 0.1]), DomainError, r"beta 2 of 3 is -0\.1"),
    (lambda: schedules.from_betas([0.1, math.nan]), DomainError, r"beta 2 of 2 is nan"),
    (lambda: schedules.from_betas([]), DomainError, r"the table is empty"),
    (lambda: schedules.from_alphas_cumprod([0.9, 0.0]), DomainError, r"run from \[0\.9\] to \[0\.0\]"),
    (lambda: schedules.from_alphas_cumprod([1.0, 0.5]), DomainError, r"strictly between 0 and 1, and they must fall"),
    (lambda: schedules.from_alphas_cumprod([0.5, 0.9]), DomainError, r"does not fall from level 1 to 2"),
    (lambda: schedules.from_alphas_cumprod([]), DomainError, r"run from \[\] to \[\]"),
    (lambda: schedules.flow().on("vpsde"), UnknownNameError, "flow, ve, vp"),
    (lambda: schedules.linear(0), r"a table of T = 0 levels.*\nhint: T is a whole number, 1 to 10,000,000"),
    (lambda: schedules.linear(True), r"T=True is no whole number"),
    (lambda: schedules.cosine(2.5), r"T=2\.5 is no whole number"),
    (lambda: Table(torch.zeros(2, 2, dtype=torch.float64)), r"shape \(2, 2\).*float64"),
    (lambda: Table(torch.tensor([1.0, 0.0])), r"dtype torch\.float32\nhint: give a float64"),
    (
        lambda: Table(torch.tensor([1.0, -math.inf], dtype=torch.float64)),
        DomainError,
        r"level 2 .*-inf\n.*zero terminal",
    ),
    (lambda: schedules.linear(1).interpolated(), r"one level cannot be interpolated"),
    (lambda: Interpolated(torch.tensor([0.0, 1.0], dtype=torch.float64)), DomainError, r"does not fall"),
    (lambda: LogSNRLinear(-5.0, 5.0), r"runs from -5\.0 at t = 0 to 5\.0.*\nhint: .*larger first"),
    (lambda: LogSNRLinear(math.inf, 5.0), r"logsnr_max=inf is not finite"),
    (lambda: schedules.flow(0.0, 1.0), r"flow times from 0\.0 to 1\.0\nhint: .*0 < t_min"),
    (lambda: schedules.flow(0.5, math.nan), r"t_max=nan is not finite"),
    (lambda: schedules.edm(80.0, 0.002), r"from σ = 80\.0 to 0\.002.*\nhint: .*edm\(0\.002"),
    (lambda: schedules.edm(0.0), r"0 < sigma_min"),
    (lambda: schedules.edm(rho=0), r"ρ = 0"),
    (lambda: schedules.linear(10).at(torch.tensor(0.55)), r"a table of 10 levels.*\n.*interpolated\(\)"),
    (lambda: schedules.linear(10).at(torch.tensor(0.0)), r"another time was asked for"),
    (lambda: schedules.linear(10).at_index(torch.tensor(10)), r"another time was asked for"),
)

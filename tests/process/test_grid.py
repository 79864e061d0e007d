"""Grids: which levels a chain visits, how its steps are counted, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nelbo.errors import UnknownNameError, UsageError
from nelbo.parts import kinds
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.grid import Grid
from tests.process import checks

TABLE = schedules.linear(100)
LAW = schedules.logsnr_linear(6.0, -6.0)

CASES = [
    (grid.full(), TABLE, np.arange(100)),
    (grid.full(first=3), TABLE, np.arange(3, 100)),
    (grid.subset([0, 5, 99]), TABLE, np.array([0, 5, 99])),
    (grid.subset(np.array([7])), TABLE, np.array([7])),
    (grid.even(10), TABLE, np.array([0, 10, 20, 30, 40, 50, 59, 69, 79, 89, 99])),
    (grid.even(3, first=50), TABLE, np.array([50, 66, 83, 99])),
    (grid.even(99), TABLE, np.arange(100)),
]


@pytest.mark.parametrize(("chosen", "schedule", "index"), CASES, ids=lambda v: getattr(v, "kind", None))
def test_positions_on_a_table(chosen, schedule, index):
    levels = chosen.levels(schedule, False)
    assert levels.index is not None and levels.index.tolist() == index.tolist()
    checks.close(levels.logsnr, schedule.table[torch.from_numpy(index)], 0)
    checks.close(levels.t, (index + 1) / 100)


def test_times_and_even_on_a_law():
    checks.close(grid.times([0.0, 0.3, 1.0]).levels(LAW, True).logsnr, [6.0, 2.4, -6.0], 1e-14)
    checks.close(grid.even(4).levels(LAW, False).t, [0, 0.25, 0.5, 0.75, 1])
    checks.close(grid.even(4).levels(LAW, True).t, [0, 1 / 3, 2 / 3, 1])
    checks.close(grid.even(1).levels(LAW, True).t, [1.0])
    assert grid.even(1).levels(TABLE, True).index.tolist() == [99]  # type: ignore[union-attr]
    checks.close(grid.even(1).levels(LAW, False).t, [0, 1])


def test_times_on_a_table_are_its_own():
    assert grid.times([0.01, 0.5, 1.0]).levels(TABLE, False).index.tolist() == [0, 49, 99]  # type: ignore[union-attr]


def test_steps_count_network_evaluations():
    checks.check_steps()


def test_the_full_table_is_its_own_even_grid():
    """DDPM: L = T levels and the decoder calls the network, so K = T steps are the whole table."""
    assert grid.even(100).levels(TABLE, True).index.tolist() == list(range(100))  # type: ignore[union-attr]


def test_continuous_keeps_its_ends():
    assert grid.continuous().continuous and not grid.even(3).continuous
    checks.close(grid.continuous().levels(LAW, False).logsnr, [6, -6])
    checks.close(grid.continuous(0.25, 0.5).levels(LAW, False).logsnr, [3, 0])
    law = TABLE.interpolated()
    checks.close(grid.continuous().levels(law, False).logsnr, TABLE.table[[0, -1]], 1e-14)


BAD = [
    (lambda: grid.even(0), r"a grid of 0 steps.*\nhint: steps is a whole number ≥ 1"),
    (lambda: grid.even(True), r"a grid of True steps"),
    (lambda: grid.even(2.0), r"a grid of 2\.0 steps"),  # type: ignore[arg-type]
    (lambda: grid.even(100).levels(TABLE, False), r"100 steps need 101 levels, .* has 100.*\nhint: ask for at most 99"),
    (lambda: grid.even(101).levels(TABLE, True), r"at most 100 steps"),
    (lambda: grid.even(60, first=50).levels(TABLE, False), r"has 50 from index 50 on"),
    (lambda: grid.even(3, first=100).levels(TABLE, False), r"position 100 .* positions 0\.\.99"),
    (lambda: grid.even(3, first=-1).levels(TABLE, False), r"position -1"),
    (lambda: grid.even(3, first=2).levels(LAW, False), r"from table position 2 on was asked of a 'logsnr_linear'"),
    (lambda: grid.full(100).levels(TABLE, False), r"position 100"),
    (lambda: grid.full().levels(LAW, False), r"a full grid was asked of a 'logsnr_linear'.*\nhint: .*even\(K\)"),
    (lambda: grid.subset([]), r"table positions \[\]"),
    (lambda: grid.subset([3, 2]), r"\[3, 2\]\nhint: give rising positions"),
    (lambda: grid.subset([2, 2]), r"rising"),
    (lambda: grid.subset([-1, 2]), r"\[-1, 2\]"),
    (lambda: grid.subset([0, 100]).levels(TABLE, False), r"position 100"),
    (lambda: grid.subset([0, 1]).levels(LAW, False), r"a subset grid was asked of"),
    (lambda: grid.times([]), r"times \[\]"),
    (lambda: grid.times([0.5, 0.5]), r"rising unit times"),
    (lambda: grid.times([-0.1, 0.5]), r"in \[0, 1\]"),
    (lambda: grid.times([0.5, 1.1]), r"in \[0, 1\]"),
    (lambda: grid.times([0.5, float("nan")]), r"rising unit times"),
    (lambda: grid.continuous(0.5, 0.5), r"from t = 0\.5 to 0\.5"),
    (lambda: grid.continuous(-0.1, 0.5), r"0 ≤ first < last ≤ 1"),
    (lambda: grid.continuous().levels(TABLE, False), r"a table of 100 levels\nhint: .*schedule\.interpolated\(\)"),
]


@pytest.mark.parametrize(("make", "match"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_nonsense_is_refused(make, match):
    with pytest.raises(UsageError, match=match):
        make()


ALL = [grid.full(2), grid.even(7, 1), grid.subset([1, 4]), grid.times([0.0, 0.5]), grid.continuous(0.1, 0.9)]


@pytest.mark.parametrize("chosen", ALL, ids=lambda g: g.kind)
def test_saved_and_read_back(chosen):
    again = Grid.from_config(json.loads(json.dumps(chosen.to_config())), {})
    assert type(again) is type(chosen) and vars(again) == vars(chosen)


def test_every_kind_has_a_case():
    assert {type(g) for g in ALL} == set(kinds("grid").values())


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"unknown grid 'evn'\nhint: did you mean 'even'\? .*subset"):
        Grid.from_config({"kind": "evn"}, {})

"""Grids: which levels a chain visits, how its steps are counted, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nelbo.errors import UnknownNameError
from nelbo.process import every_grid as grid
from nelbo.process import schedule as schedules
from nelbo.process.grid import Grid
from tests.process import checks
from tests.tables import refusals

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
    assert grid.even(1).levels(TABLE, True).index.tolist() == [99]
    checks.close(grid.even(1).levels(LAW, False).t, [0, 1])


def test_times_on_a_table_are_its_own():
    assert grid.times([0.01, 0.5, 1.0]).levels(TABLE, False).index.tolist() == [0, 49, 99]


EDM = schedules.edm()


def test_spaced_on_a_law():
    """Each rule is even in its own variable, with both ends kept, on any path."""
    checks.close(grid.quadratic(4).levels(LAW, False).t, [0, 1 / 16, 1 / 4, 9 / 16, 1])
    for path in ("vp", "ve", "flow"):
        levels = grid.karras(5).levels(EDM.on(path), False)
        checks.close(levels.logsnr, grid.even(5).levels(EDM, False).logsnr, 1e-12)  # EDM's law is the rule itself
        root = torch.exp(-levels.logsnr / 14)
        checks.close(root.diff() / root.diff()[0], np.ones(5), 1e-9)
        uniform = grid.logsnr_uniform(5).levels(EDM.on(path), False).logsnr
        checks.close(uniform, np.linspace(-2 * np.log(0.002), -2 * np.log(80), 6), 1e-9)
    assert len(grid.karras(1).levels(EDM, True)) == 1 and len(grid.karras(1).levels(EDM, False)) == 2


def test_a_density_is_shared_out_evenly():
    """Edges 6, 1, −6 with shares 0.5 and 0.5: half of the steps on each side of λ = 1; λ outside the law is cut off."""
    halves = grid.Density(4, (6.0, 1.0, -6.0), (0.5, 0.5)).levels(LAW, False)
    checks.close(halves.logsnr, [6, 3.5, 1, -2.5, -6], 1e-12)
    wider = grid.Density(4, (11.0, 1.0, -13.0), (1.0, 1.0)).levels(LAW, False)
    checks.close(wider.logsnr, [6, 3.5, 1, -2.5, -6], 1e-12)


@pytest.mark.parametrize("make", [grid.quadratic, grid.karras, grid.logsnr_uniform], ids=lambda f: f.__name__)
def test_spaced_on_a_table(make):
    """Distinct positions with both ends kept, for any number of steps; all of them where there is no choice."""
    for steps in (1, 2, 3, 10, 50, 98, 99):
        index = make(steps).levels(TABLE, False).index
        assert index[0] == 0 and index[-1] == 99 and len(index) == steps + 1 and bool((index.diff() > 0).all())
    assert make(10, first=20).levels(TABLE, True).index[0] == 20
    fine = schedules.linear(1000)
    levels = make(20).levels(fine, False)
    law = make(20).levels(fine.interpolated(), False)
    assert bool(((levels.index - law.index).abs()[6:] <= 0.5 + 1e-9).all())  # nearest, where there is room


def test_named_grids():
    for name in grid.NAMED:
        assert len(grid.named(name, 6).levels(LAW, True)) == 6


class Stratum:
    """What `of_bound` asks of a level."""

    def __init__(self, s: float, t: float, bits: float):
        self.logsnr_s, self.logsnr_t, self.bits_per_dim = s, t, bits


class Told:
    levels = (Stratum(2.0, -6.0, -0.1), Stratum(6.0, 2.0, 3.0))


def test_where_the_bound_sits():
    """All the bound is above λ = 2, a tenth is spread evenly: 93.3 % of the steps lie there."""
    levels = grid.of_bound(Told(), 300).levels(LAW, False)
    assert int((levels.logsnr > 2).sum()) == 280
    even = grid.of_bound(Told(), 6, even_share=1.0).levels(LAW, False)
    checks.close(even.logsnr, [6, 4, 2, 0, -2, -4, -6], 1e-12)


def test_the_full_table_is_its_own_even_grid():
    """DDPM: L = T levels and the decoder calls the network, so K = T steps are the whole table."""
    assert grid.even(100).levels(TABLE, True).index.tolist() == list(range(100))


def test_continuous_keeps_its_ends():
    assert grid.continuous().continuous and not grid.even(3).continuous
    checks.close(grid.continuous().levels(LAW, False).logsnr, [6, -6])
    checks.close(grid.continuous(0.25, 0.5).levels(LAW, False).logsnr, [3, 0])
    law = TABLE.interpolated()
    checks.close(grid.continuous().levels(law, False).logsnr, TABLE.table[[0, -1]], 1e-14)


test_nonsense_is_refused = refusals(
    (lambda: grid.even(0), r"a grid of 0 steps.*\nhint: steps is a whole number, 1 to 10,000,000"),
    (lambda: grid.even(True), r"steps=True is no whole number"),
    (lambda: grid.even(2.0), r"steps=2\.0 is no whole number"),
    (lambda: grid.even(100).levels(TABLE, False), r"100 steps need 101 levels, .* has 100.*\nhint: ask for at most 99"),
    (lambda: grid.even(101).levels(TABLE, True), r"at most 100 steps"),
    (lambda: grid.even(60, first=50).levels(TABLE, False), r"has 50 from index 50 on"),
    (lambda: grid.even(3, first=100).levels(TABLE, False), r"position 100 .* positions 0\.\.99"),
    (lambda: grid.even(3, first=-1).levels(TABLE, False), r"first=-1"),
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
    (lambda: grid.times([0.5, float("nan")]), r"times=nan is not finite"),
    (lambda: grid.karras(5, rho=0.0), r"ρ = 0\.0"),
    (lambda: grid.quadratic(0), r"a grid of 0 steps"),
    (lambda: grid.quadratic(3, first=2).levels(LAW, False), r"from table position 2 on"),
    (lambda: grid.logsnr_uniform(100).levels(TABLE, False), r"100 steps need 101 levels"),
    (lambda: grid.Density(5, (1.0, 2.0), (1.0,)), r"1 shares between 2 log-SNRs"),
    (lambda: grid.Density(5, (2.0, 1.0), (0.0,)), r"shares > 0"),
    (lambda: grid.of_bound(Told(), 5, even_share=0), r"an even share of 0"),
    (lambda: grid.continuous(0.5, 0.5), r"from t = 0\.5 to 0\.5"),
    (lambda: grid.continuous(-0.1, 0.5), r"0 ≤ first < last ≤ 1"),
    (lambda: grid.continuous().levels(TABLE, False), r"a table of 100 levels\nhint: .*schedule\.interpolated\(\)"),
    (lambda: grid.named("karas", 6), UnknownNameError, "even, karras, logsnr, quadratic"),
    (
        lambda: Grid.from_config({"kind": "evn"}, {}),
        UnknownNameError,
        r"grid 'evn'\nhint: did you mean 'even'\? .*subset",
    ),
)

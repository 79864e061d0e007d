"""Variance for errors that draws along a chain have not shown: where a level falls silent beside its loud neighbour."""

from __future__ import annotations

import functools

import pytest
import torch
from benchmarks import coverage

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned import unseen

_few = functools.cache(lambda: GaussianChain(*coverage.few(2)[:2]))
N_QUIET, N_LOUD = 40, 100


def shown(quiet: float, loud: float, far: float = 0.0) -> torch.Tensor:
    """Of 40 draws of cell 3 with residuals ±quiet, 100 of the next with ±loud, and 30 of the one after with ±far, in
    units of the cells' scales; draws of cell 3 have weight 1/40, the others 1/50."""
    cells = torch.tensor([3] * N_QUIET + [4] * N_LOUD + [5] * 30)
    size = torch.tensor([quiet] * N_QUIET + [loud] * N_LOUD + [far] * 30, dtype=torch.float64)
    sign = 1.0 - 2 * (torch.arange(len(cells)) % 2)
    weights = torch.where(cells == 3, 1 / 40, 1 / 50).double()
    problem = _few()
    return unseen.shown(problem, cells, sign * size * weights * problem.cells.scale[cells], weights)


def check_missing() -> None:
    """Of a silent level, 6/n of its loud neighbour's variance, with its own weights; less where it has shown some."""
    scale = float(_few().cells.scale[3])
    whole = unseen.SHARE / N_QUIET * (2 * scale) ** 2 / N_QUIET * N_LOUD / (N_LOUD - 1)
    assert unseen.missing(shown(0.0, 2.0, 2.0)) == pytest.approx(whole)
    half = 2.0 * (0.5 * unseen.LEAST * N_LOUD / (N_LOUD - 1) * (N_QUIET - 1) / N_QUIET) ** 0.5
    assert unseen.missing(shown(half, 2.0, 2.0)) == pytest.approx(whole / 2)
    assert unseen.missing(shown(0.7, 2.0, 2.0)) == 0
    # with more noise errors may end as they like
    assert unseen.missing(shown(2.0, 2.0, 0.0)) == 0


def test_a_silent_level_beside_a_loud_one():
    check_missing()


def test_what_was_shown_is_weighed_as_the_estimate_is():
    once = shown(0.0, 2.0, 2.0)
    half = unseen.scaled(once, 0.5)
    assert unseen.missing(half) == pytest.approx(unseen.missing(once) / 4)
    assert unseen.missing(half + half) < unseen.missing(once) / 2, "more draws without an error leave less of it"


def test_draws_that_an_interrupt_left_out_show_nothing():
    errors = torch.tensor([0.1, float("nan"), -0.1], dtype=torch.float64)
    rows = unseen.shown(_few(), torch.tensor([4, 4, 5]), errors, torch.ones(3, dtype=torch.float64))
    assert rows[:, 0].sum() == 2 and bool(torch.isfinite(rows).all())

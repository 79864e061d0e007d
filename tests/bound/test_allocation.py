"""Plans of draws: each meets its target by the variances it was told, and no cheaper one of its kind does."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nelbo.bound.planned import blocks_plan
from nelbo.bound.planned.allocation import MIN_DRAWS, MOST, DesignPlan
from nelbo.bound.planned.blocks_plan import FALL, LEAST_STRATA, TWICE, TWICE_OF, Scatter
from nelbo.bound.planned.regression import TermFit


def fit(size: list[float], residual: list[float], noise: list[float]) -> TermFit:
    columns = (torch.tensor(v, dtype=torch.float64) for v in (size, residual, noise))
    size_, residual_, noise_ = columns
    none = torch.zeros(len(size), 0, dtype=torch.float64)
    return TermFit(size_, size_, none, none, residual_, residual_, noise_, none)


def problem(N: int = 1000, cell: int = 1, first: int = 1) -> Any:
    return SimpleNamespace(examples=N, cell_cost=cell, first_cost=first, strands=False, along=None)


PILOT: Any = SimpleNamespace(diffusion=fit([3.0, 1.0], [0.5, 0.9], [0.2, 0.4]), reconstruction=fit([2.0], [0.8], [0.6]))
NOISE, WHOLE, NOISE_R = (3 * 0.2 + 1 * 0.4) ** 2, (3 * 0.5 + 1 * 0.9) ** 2, (2 * 0.6) ** 2
"""Variances of a draw of the diffusion term, its noise's and all of it, and of one at the first level, nats²."""


def variance(k: float, m: float, twice: float = 1.0) -> float:
    """Of an example with two draws in each of k strata and 2 m at the first level: noise falls as k^−1.12, what is
    smooth along the chain faster. Twice that of those with half as many."""
    return (NOISE / (2 * k**1.12) + (WHOLE - NOISE) / (4 * k**1.7) + NOISE_R / (2 * m)) * (2 - twice)


@pytest.mark.parametrize(
    ("N", "cell", "first"), [(800, 1, 1), (800, 2, 0), (863, 1, 3), (60, 1, 1), (1000, 1, 1), (1000, 2, 0)]
)
def test_strata_of_every_example_are_as_many_as_the_target_takes(N, cell, first):
    """The standard error of the mean is √(variance/N): met, and missed with a step of the ladder less."""
    one, cost_r = problem(N, cell, first), max(first / cell, 0.05)
    twice = TWICE / N if N >= TWICE_OF * TWICE else 1.0
    assert (twice < 1) == (N == 1000)

    def pairs(k: float) -> float:
        return min(MOST, max(1.0, k * math.sqrt(NOISE_R / (NOISE + (WHOLE - NOISE) / 2) / cost_r)))

    least = max(LEAST_STRATA, MIN_DRAWS / N)
    for target in (1.0, 0.02, 0.01, 0.005):
        plan = blocks_plan.for_error(one, PILOT, target)
        k, m = plan.strata, plan.reconstructions
        assert m == pytest.approx(pairs(k)) and plan.twice == twice
        assert plan.cost == pytest.approx((1 + twice) * N * (cell * k + first * m))
        rung = math.log(k / least) / math.log(1.05)
        assert rung == pytest.approx(round(rung), abs=1e-6)
        missed = variance(k, m, twice) / (target**2 * N)
        assert plan.needed == pytest.approx(plan.cost * max(1.0, missed))
        assert k > least or target == 1.0 or N == 60
        if k < MOST:
            assert missed <= 1
            assert k == pytest.approx(least) or variance(k / 1.05, pairs(k / 1.05), twice) > target**2 * N
    fixed = blocks_plan.for_error(one, PILOT, 1e-3, strata=5)
    assert fixed.strata == 5 and fixed.reconstructions == pytest.approx(pairs(5.0)) and fixed.twice == 1
    assert fixed.needed == pytest.approx(fixed.cost * variance(5, fixed.reconstructions) / (1e-6 * N))


@pytest.mark.parametrize("other", [{"cell_cost": 0}, {"strands": True}, {"along": "a difference"}])
def test_single_draws_are_for_chains_whose_strata_are_independent_and_not_for_differences(other):
    one: Any = SimpleNamespace(**vars(problem(1000)) | other)
    assert blocks_plan.for_error(one, PILOT, 1.0).twice == 1


def test_what_no_plan_reaches_is_said():
    plan = blocks_plan.for_error(problem(800), PILOT, 1e-4)
    assert MOST <= plan.strata < 1.05 * MOST and plan.reconstructions <= MOST
    assert plan.needed == pytest.approx(plan.cost * variance(plan.strata, plan.reconstructions) / (1e-8 * 800))
    quiet: Any = SimpleNamespace(diffusion=fit([3.0], [0.1], [0.2]), reconstruction=fit([2.0], [0.0], [0.0]))
    # no part of the residual is smooth, none at the first level
    plan = blocks_plan.for_error(problem(800), quiet, 0.004)
    assert plan.reconstructions == 1 and 0.36 / (2 * plan.strata**1.12) <= 0.004**2 * 800
    assert 1.05**1.12 * 0.36 / (2 * plan.strata**1.12) > 0.004**2 * 800


@pytest.mark.parametrize(("cell", "first"), [(1, 1), (1, 0), (2, 1), (1, 4)])
@pytest.mark.parametrize(("A", "B"), [(8.0, 3.0), (0.5, 20.0), (8.0, 0.0), (0.0, 3.0)])
def test_the_cheapest_of_all_strata_and_pairs(A, B, cell, first):
    one = problem(cell=cell, first=first)
    for wanted in (4.0, 1.0, 0.3):
        k, m = blocks_plan.cheapest(one, Scatter(0.0, A, B, 1.0), wanted)
        assert k >= 1 and m >= 1
        left = (A * blocks_plan.mixed(k, FALL) if A else 0.0) + (B * blocks_plan.mixed(m, 1.0) if B else 0.0)
        assert left <= wanted * (1 + 1e-9)

        def price(k: float, m: float) -> float:
            return k * cell + m * max(first, 0.05)

        tried = [1 + i / 8 for i in range(32)] + [2.0**i for i in range(3, 9)] if B else [1.0]
        for other in tried:
            rest = wanted - (B * blocks_plan.mixed(other, 1.0) if B else 0.0)
            strata = [1 + i / 50 for i in range(2000) if 0 < rest >= A * blocks_plan.mixed(1 + i / 50, FALL)]
            assert not strata or price(k, m) <= price(strata[0], other) + 1e-9
    assert blocks_plan.cheapest(one, Scatter(0.0, A, 1e9, 1.0), 1.0) == (MOST, MOST)


def test_a_first_block_is_a_quarter_of_the_plan():
    assert blocks_plan.first_block(DesignPlan(100.0, 60.0, 0.0, 0.0), 10**6) == (25.0, 15.0)
    assert blocks_plan.first_block(DesignPlan(4.0, 1.0, 0.0, 0.0), 10**6) == (LEAST_STRATA, 1.0)
    assert blocks_plan.first_block(DesignPlan(4.0, 3.0, 0.0, 0.0), 48) == (MIN_DRAWS / 48, 6.0)
    # of single draws two in every stratum are twice the cost
    assert blocks_plan.first_block(DesignPlan(100.0, 60.0, 0.0, 0.0, 0.0), 10**6) == (12.5, 8.0)


@pytest.mark.parametrize("first", [0, 2])
def test_within_a_budget_all_of_it_is_spent(first):
    one = problem(first=first)
    least, whole = (blocks_plan.cost_of(one, 1, *n) for n in ((1, 1), (9, 5)))
    assert (least, whole) == (2 * (1 + first), 2 * (9 + 5 * first))
    assert blocks_plan.within(one, 9.0, 5.0, whole) == (9.0, 5.0)
    for part in (0.25, 0.75):
        k, m = blocks_plan.within(one, 9.0, 5.0, least + part * (whole - least))
        assert (k, m) == (pytest.approx(1 + 8 * part), pytest.approx(1 + 4 * part))
    assert blocks_plan.within(one, 9.0, 5.0, least / 2) == (1.0, 1.0)
    assert blocks_plan.cost_of(one, 100, 9, 5, 0.25) == pytest.approx(100 * whole * (0.25 + 0.75 / 2))
    assert blocks_plan.within(one, 9.0, 5.0, whole * 0.625, 0.25) == (9.0, 5.0)


def test_later_blocks_make_up_for_what_the_first_lacked():
    """Of 1000 examples 100 are done, with a hundredth of the whole goal or with more than all of it."""
    one, plan = problem(), DesignPlan(50.0, 50.0, 0.0, 0.0)
    scatter = Scatter(0.0, 8.0, 3.0, 1.25)
    goal = 0.95 * 0.05**2 / 1.25 * 1000**2
    assert scatter.goal(0.05, 1000) == pytest.approx(goal)
    for done, share in ((0.01 * goal, 0.99 / 900), (2 * goal, 0.85 / 1000)):
        expected = blocks_plan.cheapest(one, scatter, share * goal)
        found = blocks_plan.next_block(one, scatter._replace(total=done), 0.05, 900, plan)
        assert found == pytest.approx(expected)
        # a draw has twice the variance of two
        single = blocks_plan.next_block(one, scatter._replace(total=done), 0.05, 900, replace(plan, twice=0.25))
        assert single == pytest.approx(blocks_plan.cheapest(one, scatter, share * goal / 1.75))
        low = DesignPlan(1.25, 0.25, 0.0, 0.0)  # of which no more than twice is given
        assert blocks_plan.next_block(one, scatter._replace(total=done), 0.05, 900, low) == (2.5, 1.0)

"""The per-example design by itself: numbers of strata, groups of examples, draws that are added, where it lands."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo import evaluate
from nelbo.bound.planned import allocation, blocks_plan, pilot
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.per_example import PerExampleDesign
from nelbo.bound.prepare import prepare
from nelbo.model.decoder import Categorical
from nelbo.workers import Run
from tests.bound.shrunk import D, X, model

N = len(X)


def design() -> PerExampleDesign:
    one = prepare(model(), X, Run(seed=4))
    found = pilot.run(one.chain, one.runner, 24, regressed=False, controlled=False)
    return PerExampleDesign(one.chain, one.runner, found, allocation.density(found.diffusion))


@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 0.3, 0.111, 0.01])
def test_a_number_of_strata_is_found_by_the_variance_it_leaves(share):
    """`strata` inverts `mixed`, whose values lie on the chords of n^(−fall) between whole numbers."""
    for fall in (1.0, 1.4):
        assert blocks_plan.mixed(blocks_plan.strata(share, fall), fall) == pytest.approx(share)
    assert blocks_plan.mixed(2.5, 1.0) == pytest.approx((1 / 2 + 1 / 3) / 2)


@pytest.mark.parametrize(("examples", "k", "m"), [(100, 2.25, 1.0), (7, 1.5, 1.9), (9000, 3.0, 1.25), (1, 1.99, 1.0)])
def test_groups_have_whole_numbers_that_are_right_on_average(examples, k, m):
    groups = list(blocks_plan.whole_numbers(examples, k, m))
    assert sum(n for n, _, _ in groups) == examples
    assert max(n for n, _, _ in groups) <= 8192
    for place, wanted in ((1, k), (2, m)):
        total = sum(group[0] * group[place] for group in groups)
        assert wanted * examples - 1 < total <= wanted * examples + 1e-6  # never more than was paid for
        assert {group[place] for group in groups} <= {math.floor(wanted), math.floor(wanted) + 1}


@pytest.mark.parametrize("examples", [9, 30, 120, 1000, 60000])
def test_parts_are_all_examples(examples):
    for strata in (1, 3, 13):
        parts = blocks_plan.parts(examples, strata)
        assert sum(parts) == examples and min(parts) > 0


def test_draws_of_the_same_examples_are_averaged():
    """−log N(x; z/α, σ²/α²) is ½‖ε‖² and a constant: variance D/2 a draw. Six draws, then six more of the same
    examples: D/2/12, from errors with 10 degrees of freedom, which is what the squared errors add up to."""
    some = design()
    block = some.new(N)
    some.draw(block, strata=1, reconstructions=3)
    before = some.summary()
    some.draw(block, strata=2, reconstructions=3)
    rows = some.summary().examples
    assert rows is not None
    variance = float(rows.reconstruction_errors.square().sum(1).mean())
    assert abs(variance / (D / 2 / 12) - 1) < 4 * math.sqrt(2 / (N * 10))
    assert rows.reconstruction_errors.shape == (N, 12) and rows.diffusion_errors.shape == (N, 3)
    spread = float(rows.reconstruction.var())  # the same for every example but for the draws
    assert abs(spread / (D / 2 / 12) - 1) < 4 * math.sqrt(2 / N)
    after = some.summary()
    assert after.diffusion[1] < before.diffusion[1]
    assert float(after.bins[:, 0].sum()) == pytest.approx(after.diffusion[0], rel=1e-6)
    assert int(after.bins[:, 2].sum()) == N * 6


@pytest.mark.filterwarnings("ignore:the network is worse than none")
def test_it_lands_near_its_tolerance():
    """Whole strata for all examples would overshoot by up to a third; blocks end within a tenth."""
    for seed in range(3):
        bound = evaluate(model(), X, estimator=Adaptive(0.03, design="per_example"), seed=seed)
        assert 0.85 * 0.03 < bound.standard_error.estimator <= 0.03
        assert len({level.evaluations for level in bound.levels}) > 1


def test_an_interrupt_between_blocks_speaks_for_all():
    """Two fifths of the examples done: the value is that of all within its error bar, and the bar is longer."""
    some = design()
    some.draw(some.new(48), strata=4, reconstructions=2)
    part = some.summary()
    assert part.examples is None and not some.complete
    some.draw(some.new(72), strata=4, reconstructions=2)
    whole = some.summary()
    assert some.complete and whole.examples is not None
    assert math.isfinite(part.variance) and part.variance > whole.variance
    assert abs(part.value - whole.value) < 4 * math.sqrt(part.variance)


def test_a_free_decoder_is_drawn_again_until_the_tolerance_is_reached():
    """Where the reconstruction asks no network and has most of the error, its draws are the ones to be added."""
    data = nelbo.exact.CategoricalData(torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 6))
    model = data.model(nelbo.schedules.logsnr_linear(0.5, -8.0), nelbo.grids.even(8))
    model = dataclasses.replace(model, decoder=Categorical())
    found = evaluate(model, data.sample(40), estimator=Adaptive(0.01, design="per_example"))
    assert found.standard_error.estimator <= 0.01, found
    assert found.nfe_total < 1200  # the network is asked no more than it was for a rough answer: 958 times


def test_plans_of_blocks_keep_their_bounds():
    """At most twice the strata that the pilot wanted, however wild the first block was; never a pair or two."""
    chain, plan = prepare(model(), X).chain, allocation.DesignPlan(8.0, 1.0, 0.0, 0.0)
    for A, strata in ((1e12, 2 * plan.strata), (1e-12, max(blocks_plan.LEAST_STRATA, allocation.MIN_DRAWS / N))):
        assert blocks_plan.next_block(chain, blocks_plan.Scatter(0.0, A, 0.0, 1.0), 1.0, 60, plan)[0] == strata


def test_a_block_is_drawn_again_for_its_strata_not_for_what_it_showed():
    one = design()
    fine, rough = one.new(60), one.new(60)
    one.draw(fine, 4, 32)
    one.draw(rough, 3, 32)
    one.errors[fine.rows] *= 3
    target = 0.7 * math.sqrt(one.summary().variance)
    block, strata, _ = blocks_plan.roughest(one.problem, one.blocks, one.scatter(), target, one.twice)
    assert block is rough and strata >= blocks_plan.LEAST_STRATA

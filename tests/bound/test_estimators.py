"""Exhaustive and stratified estimates of every example against quadrature; batches, order, ends, conditions.

z-tests run at fixed seeds and reject beyond 4 standard errors; tests/mutations shows that they see a weight off by one
level. Laws of all estimators are in test_laws.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from nelbo import evaluate
from nelbo.bound.estimators import Estimator, Exhaustive, Stratified
from nelbo.bound.evaluate import choose
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.passes import Passes
from nelbo.errors import UnknownNameError
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.process import grid
from nelbo.process import schedule as schedules
from tests.bound import checks
from tests.expected import early_end, untrained
from tests.model.cases import CODES_1, GAUSSIAN_1
from tests.tables import refusals

CASES = list(checks.ESTIMATORS)
EXHAUSTIVE = [name for name in CASES if name.startswith("exhaustive")]


@pytest.mark.parametrize("name", CASES)
def test_unbiased(name):
    checks.check_unbiased(name)


@pytest.mark.parametrize("name", EXHAUSTIVE)
def test_every_level_is_unbiased(name):
    checks.check_levels_unbiased(name)


@pytest.mark.parametrize("name", CASES)
def test_predicted_error_of_an_example(name):
    checks.check_predicted_error(name)


def test_every_estimator_has_a_case():
    here = {c for c in Estimator.__subclasses__() if c.__module__ == "nelbo.bound.estimators"}
    assert here == {type(estimator) for estimator, _ in checks.ESTIMATORS.values()}


@pytest.mark.parametrize("name", ["exhaustive", "stratified", "continuous"])
def test_four_times_the_budget_halves_the_error(name):
    levels = grid.continuous() if name == "continuous" else grid.even(5)
    model, n = checks.mixture_model(levels), 2000
    small, large = (Exhaustive(2), Exhaustive(8)) if name == "exhaustive" else (Stratified(8, 2), Stratified(32, 8))
    errors = []
    for estimator in (small, large):
        errors.append(math.sqrt(checks.estimated(estimator, model, checks.POINTS.repeat(n, 1)).total.variance))
    # Stratified gains a little more than draws do, by the spread between the positions of a stratum.
    assert 1.9 < errors[0] / errors[1] < (2.1 if name == "exhaustive" else 2.6)


def test_data_error_is_right_over_data_sets():
    """150 data sets of N = 40: E[data²] = ½/N and E[(mean bound − entropy)²] = total², within 4 standard errors."""
    model = GAUSSIAN_1.model(schedules.logsnr_linear(3.0, -3.0), grid.continuous())
    runs = [checks.estimated(Stratified(2, 2), model, GAUSSIAN_1.sample(40, 1000 + s), s) for s in range(150)]
    data = np.array([run.total.data_variance for run in runs])
    assert abs(data.mean() - 0.5 / 40) <= 4 * data.std() / math.sqrt(150)
    assert data.std() / math.sqrt(150) < 0.25 * 0.5 / 40  # so that a data error 1.7 times too large is seen
    squares = np.array([(run.total.mean - GAUSSIAN_1.entropy()) ** 2 for run in runs])
    total = np.array([run.total.data_variance + run.total.variance for run in runs])
    assert abs(squares.mean() - total.mean()) <= 4 * math.hypot(squares.std(), total.std()) / math.sqrt(150)


# ---------------------------------------------------------------- batches, order, keys


def test_other_examples_change_nothing():
    """With two draws an example's value depends on its own index and value alone."""
    model = checks.mixture_model(grid.even(5))
    alone = checks.estimated(Exhaustive(2), model, checks.POINTS[:2]).per_example
    more = checks.estimated(Exhaustive(2), model, checks.POINTS).per_example
    checks.close(more.nats[:2], alone.nats, 1e-12)


def test_paired_examples_are_spread_over_sorted_data():
    """The second draw goes to a keyed random subset: not the first ones, another under another seed."""
    model, data = checks.mixture_model(grid.even(2)), torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    picks = []
    for seed in (0, 1):
        examples, draws = Exhaustive(1, 50)._draws(GaussianChain(model, data, seed=seed))
        assert len(examples) == 250 and int(draws.sum()) == 50
        picks.append(examples[200:])
        assert len(set(picks[-1].tolist())) == 50
        assert abs(float(picks[-1].double().mean()) - 99.5) < 4 * 57.7 / math.sqrt(50)
    assert not torch.equal(*picks)


def test_more_pairs_than_examples_pairs_them_all():
    model = checks.mixture_model(grid.even(5))
    one = checks.estimated(Exhaustive(1, 256), model, checks.POINTS)
    two = checks.estimated(Exhaustive(2), model, checks.POINTS)
    checks.close(one.per_example.nats, two.per_example.nats, 1e-12)
    checks.close(one.total.variance, two.total.variance, 1e-12)


# ---------------------------------------------------------------- the chain's ends and corners


def test_one_level_has_no_diffusion_term():
    for estimator in (Exhaustive(2), Stratified(4)):
        model = GAUSSIAN_1.model(schedules.logsnr_linear(1.0, -1.0), grid.times([1.0]))
        found = checks.estimated(estimator, model, checks.POINTS)
        assert estimator.cost(GaussianChain(model, checks.POINTS)) == 0
        assert found.diffusion.mean == 0 and found.strata == ()
        assert found.total.mean == pytest.approx(found.prior.mean + found.reconstruction.mean)


def test_strata_cover_the_chain_from_the_data_to_the_noise():
    for name in CASES:
        estimator, levels = checks.ESTIMATORS[name]
        strata = checks.estimated(estimator, checks.mixture_model(levels), checks.POINTS).strata
        assert (strata[0].logsnr_s, strata[-1].logsnr_t) == pytest.approx((4.0, -4.0))
        assert (strata[0].s, strata[-1].t) == pytest.approx((0.0, 1.0))
        for before, after in itertools.pairwise(strata):
            assert before.t == pytest.approx(after.s) and before.logsnr_t == pytest.approx(after.logsnr_s)
            assert before.t > before.s and before.logsnr_t < before.logsnr_s


def test_a_decoder_that_calls_the_network_is_paid_for():
    model = CODES_1.model(checks.LAW, grid.even(5))
    assert model.decoder.calls_network and len(model.levels()) == 5
    for estimator, cost in ((Exhaustive(2), 10), (Stratified(4, 3), 11)):
        codes = torch.arange(4)[:, None]
        checks.estimated(estimator, model, codes)
        assert estimator.cost(GaussianChain(model, codes)) == 4 * cost


def test_exhaustive_is_exact_where_there_is_no_noise():
    """x̂ = x exactly: every KL is 0 under β̃, whatever ε."""
    known = NetworkDenoiser(lambda z, t: torch.full_like(z, 0.7), "x0", "unit")
    model = dataclasses.replace(checks.mixture_model(grid.even(5)), denoiser=known)
    found = checks.estimated(Exhaustive(2), model, torch.full((3, 1), 0.7, dtype=torch.float64))
    assert abs(found.diffusion.mean) < 1e-14 and found.diffusion.variance < 1e-28


@early_end
@untrained
def test_conditions_follow_their_examples():
    """Every example is scored under its own row: condition and data permuted together permute the exact terms."""

    def net(z, t, label):
        return z * 0 + label[:, None]

    model = dataclasses.replace(checks.mixture_model(grid.even(3)), denoiser=NetworkDenoiser(net, "x0", "unit"))
    label = torch.tensor([-1.0, -0.3, 0.2, 1.1], dtype=torch.float64)  # the truth: KL 0 under β̃
    found = evaluate(model, checks.POINTS, condition={"label": label}, precision="float64", batch_size=3)
    assert found.terms.diffusion.bits_per_dim == pytest.approx(0, abs=1e-12)
    shuffled = evaluate(
        model, checks.POINTS, estimator=Exhaustive(3), condition={"label": label.flip(0)}, precision="float64"
    )
    assert shuffled.terms.diffusion.bits_per_dim > 0.1


# ---------------------------------------------------------------- choosing, refusing


def test_names_and_objects():
    finite = GaussianChain(checks.mixture_model(grid.even(5)), checks.POINTS)
    assert choose(finite, "auto") == Passes(Adaptive())  # four examples at six levels: nothing to save
    assert choose(finite, "exhaustive") == Exhaustive() and choose(finite, "stratified") == Stratified()
    mine = Exhaustive(5)
    assert choose(finite, mine) is mine
    continuous = GaussianChain(checks.mixture_model(grid.continuous()), checks.POINTS)
    assert isinstance(choose(continuous, "auto"), Adaptive)


test_nonsense_is_refused = refusals(
    (lambda: Exhaustive(0), r"exhaustive estimate of 0 draws"),
    (lambda: Exhaustive(1, 1), r"1 draws with 1 paired examples\nhint: give draws ≥ 2, or draws = 1 with"),
    (lambda: Stratified(0), r"0 strata"),
    (lambda: Stratified(4, 1), r"1 reconstruction draws\nhint: .*error bar"),
    (
        lambda: checks.estimated(Exhaustive(), checks.mixture_model(grid.continuous()), checks.POINTS),
        r"continuous grid\nhint: use estimator='stratified'",
    ),
    (
        lambda: choose(GaussianChain(checks.mixture_model(grid.even(2)), checks.POINTS), "exhaust"),
        UnknownNameError,
        r"unknown estimator 'exhaust'\nhint: did you mean 'exhaustive'\? choose one of: auto, .*stratified",
    ),
    (
        lambda: choose(GaussianChain(checks.mixture_model(grid.even(2)), checks.POINTS), "importance"),
        UnknownNameError,
        r"no longer part of the library\nhint: it is OneTime\('importance'\) of benchmarks/one_time.py .*auto, exh",
    ),
)

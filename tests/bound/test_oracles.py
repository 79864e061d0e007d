"""The bound against closed forms: the model's own likelihood, the data's entropy, the exact NLL, the limit T → ∞."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nelbo.adapters.callable import from_callable
from nelbo.model.domain import DataDomain
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.schedule import Table
from tests.bound import checks, ddpm
from tests.bound.oracles import expected_continuous, expected_terms, hermite
from tests.expected import early_end, untrained
from tests.model.cases import GAUSSIAN_1, Tiny
from tests.tables import every_check

pytestmark = [untrained, early_end]

LINES = checks.LINES


@pytest.mark.parametrize("T", [1, 2, 3, 10, 60, 100, 1000])
@pytest.mark.parametrize("variance", checks.POLICIES)
@pytest.mark.parametrize("line", LINES)
def test_the_bound_exceeds_nll_and_entropy_by_the_kl_of_the_paths(line, variance, T):
    """At T = 1 a DDPM has one level: a VAE with a fixed encoder."""
    checks.check_gap(LINES[line], variance, T, closed_form=T <= 60)
    checks.check_entropy(LINES[line], variance, T, closed_form=T <= 60)


# ---------------------------------------------------------------- continuous

ENDS = [(5.0, -6.0), (13.3, -5.0), (2.0, 0.5), (0.0, -1.0)]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("name", checks.CONTINUOUS)
def test_the_continuous_bound_is_the_nll(name, ends):
    checks.check_continuous(name, *ends)


@pytest.mark.parametrize("path", ["ve", "flow"])
def test_on_every_path(path):
    checks.check_continuous("gaussian", 13.3, -5.0, path)


@pytest.mark.parametrize("name", ["gaussian", "mixture", "codes"])
def test_at_the_far_ends_the_standard_prior_and_decoder_are_exact(name):
    checks.check_continuous(name, 20.0, -20.0, exact_ends=False)


def test_an_interval_in_the_middle_counts_only_itself():
    """The continuous term over [a, b] and over [b, c] add up to that over [a, c]."""
    law = schedules.logsnr_linear(5.0, -6.0)

    def part(a: float, b: float) -> np.ndarray:
        model = GAUSSIAN_1.model(law, grid.continuous(a, b))
        return expected_continuous(model, checks.X, hermite(3)).diffusion[0].numpy()

    checks.close(part(0, 0.3) + part(0.3, 1), part(0, 1), 1e-9)


# ---------------------------------------------------------------- discrete → continuous


@pytest.mark.parametrize("variance", checks.POLICIES)
def test_the_error_of_a_grid_falls_as_one_over_its_steps(variance):
    """The average bound on T even steps between fixed ends; with β̃ finer grids only improve."""
    law = schedules.logsnr_linear(4.0, -5.0)
    nodes, weights = hermite(2)
    x = 0.4 + math.sqrt(0.8) * nodes[:, None]
    T, found = 2 ** np.arange(5, 11), []
    for steps in T:
        model = GAUSSIAN_1.model(law, grid.even(int(steps)), variance=variance)
        found.append(float(weights @ expected_terms(model, x, hermite(2)).total))
    excess = np.array(found) - GAUSSIAN_1.entropy()
    slopes = np.diff(np.log(excess)) / np.diff(np.log(T))
    assert np.all(np.abs(slopes + 1) < 0.1), slopes
    if variance == "beta_tilde":
        assert np.all(np.diff(excess) < 0) and np.all(excess > 0)


def test_discrete_tends_to_continuous_for_an_imperfect_denoiser_too():
    """Richardson: 2 B(2T) − B(T) meets the continuous bound with error ∝ 1/T²."""
    line, law = LINES["imperfect"], schedules.logsnr_linear(4.0, -5.0)

    def average(levels: grid.Grid) -> float:
        model = checks.linear_model(line, law, levels, checks.BetaTilde())
        expected = expected_continuous if levels.continuous else expected_terms
        return float(expected(model, checks.X, hermite(2)).total.mean())

    limit = average(grid.continuous())
    errors = [2 * average(grid.even(2 * T)) - average(grid.even(T)) - limit for T in (64, 128, 256)]
    assert abs(errors[0] / errors[1] - 4) < 0.4 and abs(errors[1] / errors[2] - 4) < 0.4
    assert abs(errors[-1]) < 1e-3


def test_the_continuous_bound_does_not_depend_on_the_schedule_between_the_ends():
    """Kingma et al. 2021, §5.1: a bent law with the same ends has the same bound."""
    bent = Table(torch.linspace(2.0, -2.2360679775, 9, dtype=torch.float64).pow(3) / 8 * 4, "bent").interpolated()
    ends = bent.table[[0, -1]].tolist()
    straight = schedules.logsnr_linear(*ends)
    one = expected_continuous(GAUSSIAN_1.model(bent, grid.continuous()), checks.X, hermite(3)).total
    two = expected_continuous(GAUSSIAN_1.model(straight, grid.continuous()), checks.X, hermite(3)).total
    checks.close(one, two, 0, 1e-6)


test_check = every_check(checks)


def test_ddpm_terms_equal_improved_diffusions_formulas():
    ddpm.check_ddpm()


def test_from_callable_builds_the_same_ddpm():
    model = from_callable(
        Tiny(3), schedule=schedules.linear(50), predicts="eps", domain=DataDomain((3,), 256), time="index"
    )
    assert model.reverse.clip is None
    ddpm.check_ddpm(model)

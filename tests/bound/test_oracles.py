"""The bound against closed forms: the model's own likelihood, the data's entropy, the exact NLL, the limit T → ∞."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nelbo.adapters.callable import from_callable
from nelbo.model.domain import DataDomain
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.schedule import LogSNRLinear, Table
from tests.bound import checks, ddpm
from tests.bound.oracles import expected_continuous, expected_terms, hermite, trapezoid
from tests.expected import early_end, untrained
from tests.model.cases import CODES_1, GAUSSIAN_1, MIXTURE_1, Tiny
from tests.model.checks import mixture_density

pytestmark = [untrained, early_end]

LINES = checks.LINES


@pytest.mark.parametrize("T", [1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("variance", checks.POLICIES)
@pytest.mark.parametrize("line", LINES)
def test_bound_is_above_the_models_own_nll(line, variance, T):
    checks.check_above_own_likelihood(LINES[line], variance, T)


@pytest.mark.parametrize("T", [1, 2, 3, 10, 60])
@pytest.mark.parametrize("variance", checks.POLICIES)
@pytest.mark.parametrize("line", LINES)
def test_gap_per_example_is_the_kl_of_the_paths(line, variance, T):
    checks.check_gap(LINES[line], variance, T)


@pytest.mark.parametrize("T", [1, 2, 3, 10, 60, 1000])
@pytest.mark.parametrize("variance", checks.POLICIES)
@pytest.mark.parametrize("line", LINES)
def test_average_bound_is_above_the_entropy(line, variance, T):
    checks.check_entropy(LINES[line], variance, T, closed_form=T <= 60)


def test_one_level_is_a_vae_with_a_fixed_encoder():
    """L = 1: no KL between levels; bound = prior + reconstruction, and the gap is KL(q(z|x) ‖ p_θ(z|x))."""
    line, law = LINES["imperfect"], schedules.logsnr_linear(1.0, -1.0)
    model = checks.linear_model(line, law, grid.times([0.5]), checks.BetaTilde())
    chain = checks.Chain.of(line, np.array([0.0]), True, None)
    found = expected_terms(model, checks.X, hermite(2))
    assert found.diffusion.shape == (0, 4)
    gaps = [checks.path_gap(chain, float(x)) for x in checks.X]
    checks.close(found.total.numpy() - chain.nll(checks.X[:, 0].numpy()), gaps, 1e-9)


# ---------------------------------------------------------------- continuous

ENDS = [(5.0, -6.0), (13.3, -5.0), (2.0, 0.5), (0.0, -1.0)]


@pytest.mark.parametrize("path", ["vp", "ve", "flow"])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_continuous_bound_is_the_nll_of_gaussian_data(ends, path):
    model = GAUSSIAN_1.model(LogSNRLinear(*ends, path), grid.continuous())
    nll = -torch.from_numpy(stats.norm.logpdf(checks.X[:, 0].numpy(), 0.4, math.sqrt(0.8)))
    checks.check_continuous(model, checks.X, nll, hermite(3))


def test_continuous_bound_is_the_nll_in_the_plane():
    checks.check_continuous_plane()


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_continuous_bound_is_the_nll_of_mixture_data(ends):
    x = torch.tensor([[-1.2], [-0.4], [0.1], [0.8]], dtype=torch.float64)
    nll = -torch.from_numpy(np.log(mixture_density(MIXTURE_1, x.numpy())))
    checks.check_continuous(MIXTURE_1.model(schedules.logsnr_linear(*ends), grid.continuous()), x, nll, trapezoid())


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_continuous_bound_is_the_nll_of_codes(ends):
    law = schedules.logsnr_linear(*ends)
    nll = -torch.from_numpy(np.log(CODES_1.probabilities[0].numpy()))
    checks.check_continuous(CODES_1.model(law, grid.continuous()), torch.arange(4)[:, None], nll, trapezoid())


@pytest.mark.parametrize("name", ["gaussian", "mixture", "codes"])
def test_at_the_far_ends_the_standard_prior_and_decoder_are_exact(name):
    """λ = ±20 with N(0, I) and N(x; z/α, σ²/α²)."""
    law = schedules.logsnr_linear(20.0, -20.0)
    if name == "gaussian":
        checks.check_continuous_ends()
    elif name == "mixture":
        x = torch.tensor([[-1.2], [0.1]], dtype=torch.float64)
        nll = -torch.from_numpy(np.log(mixture_density(MIXTURE_1, x.numpy())))
        checks.check_continuous(MIXTURE_1.model(law, grid.continuous(), exact_ends=False), x, nll, trapezoid())
    else:
        nll = -torch.from_numpy(np.log(CODES_1.probabilities[0].numpy()))
        model = CODES_1.model(law, grid.continuous(), exact_ends=False)
        found = expected_continuous(model, torch.arange(4)[:, None], trapezoid(), panels=80)
        checks.close(found.total, nll, 0, 1e-5)


def test_an_interval_in_the_middle_counts_only_itself():
    """The continuous term over [a, b] and over [b, c] add up to that over [a, c]."""
    law = schedules.logsnr_linear(5.0, -6.0)

    def part(a: float, b: float) -> np.ndarray:
        return (
            expected_continuous(GAUSSIAN_1.model(law, grid.continuous(a, b)), checks.X, hermite(3)).diffusion[0].numpy()
        )

    checks.close(part(0, 0.3) + part(0.3, 1), part(0, 1), 1e-9)


# ---------------------------------------------------------------- discrete → continuous


def bounds_on_nested_grids(variance: str) -> tuple[np.ndarray, np.ndarray, float]:
    """T, the average bound on T even steps between fixed ends, and the entropy (the continuous bound of the oracle)."""
    law = schedules.logsnr_linear(4.0, -5.0)
    nodes, weights = hermite(2)
    x = 0.4 + math.sqrt(0.8) * nodes[:, None]
    T = 2 ** np.arange(5, 11)
    found = [
        float(
            weights @ expected_terms(GAUSSIAN_1.model(law, grid.even(int(t)), variance=variance), x, hermite(2)).total
        )
        for t in T
    ]
    return T, np.array(found), 0.5 * math.log(2 * math.pi * math.e * 0.8)


@pytest.mark.parametrize("variance", checks.POLICIES)
def test_the_error_of_a_grid_falls_as_one_over_its_steps(variance):
    T, found, limit = bounds_on_nested_grids(variance)
    slopes = np.diff(np.log(found - limit)) / np.diff(np.log(T))
    assert np.all(np.abs(slopes + 1) < 0.1), slopes


def test_with_beta_tilde_nested_grids_only_improve():
    _, found, limit = bounds_on_nested_grids("beta_tilde")
    assert np.all(np.diff(found) < 0) and np.all(found > limit)


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


def test_ddpm_terms_equal_improved_diffusions_formulas():
    ddpm.check_ddpm()


def test_from_callable_builds_the_same_ddpm():
    model = from_callable(
        Tiny(3), schedule=schedules.linear(50), predicts="eps", domain=DataDomain((3,), 256), time="index"
    )
    assert model.reverse.clip is None
    ddpm.check_ddpm(model)

"""`likelihood_profile`: the curve, maximum and intervals of a law whose likelihood is known."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import likelihood_profile as benchmark

import nelbo
from nelbo import testing
from nelbo.bound.contrast.curve import Curve
from nelbo.bound.contrast.profile import Sums
from nelbo.errors import UsageError
from tests.bound.conditional import LOGSNR

GRID = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)


def law(theta: float) -> nelbo.exact.GaussianData:
    """Mean and spread both depend on θ."""
    mean = torch.tensor([0.4 * theta, -0.2 + 0.3 * math.sin(theta)]).double()
    return nelbo.exact.GaussianData(mean, torch.diag(torch.tensor([0.2, 0.3 * math.exp(0.4 * theta)]).double()))


def network(z, t, theta):
    out = torch.empty_like(z)
    for value in theta.unique().tolist():
        rows = (theta == value).nonzero()[:, 0]
        out[rows] = testing.as_network(testing.oracle(law(value)), LOGSNR, "eps", "logsnr")(z[rows], t[rows])
    return out


MODEL = nelbo.from_callable(
    network, schedule=LOGSNR, domain=nelbo.DataDomain((2,)), predicts="eps", time="logsnr", modules=[]
).with_grid(nelbo.grids.continuous())
X = law(0.3).sample(16, seed=1)


def exact(x: torch.Tensor, grid: torch.Tensor = GRID) -> Curve:
    return Curve(grid.numpy(), np.array([-float(law(t).log_prob(x).sum()) for t in grid.tolist()]))


@pytest.fixture(scope="module")
def found() -> nelbo.Profile:
    return nelbo.likelihood_profile(MODEL, X, "theta", GRID, precision="float64")


def test_the_maximum_and_its_errors(found):
    right = exact(X).minimum()
    assert found.monte_carlo_error <= 0.1001 * found.standard_error
    assert abs(found.maximum - right.place) < 4 * found.monte_carlo_error < right.information**-0.5 / 2
    assert abs(found.information / right.information - 1) < 0.25
    low, high = found.interval()
    assert low < found.maximum < high
    for end, right_end in zip((low, high), exact(X).below(0.5 * 1.959964**2), strict=True):
        assert abs(end - right_end) < 0.25 * found.standard_error


def test_the_curve_is_that_of_the_likelihood(found):
    """To the errors that its covariance says, and to more than that where noise is not shared."""
    right = torch.from_numpy(exact(X).values)
    k = int(found.values.argmin())
    error = (found.covariance.diagonal() + found.covariance[k, k] - 2 * found.covariance[:, k]).clamp_min(1e-12).sqrt()
    z = (found.values - (right - right[k])) / error
    assert float(z.abs().max()) < 4
    assert float(error.median()) < 0.2 * float((2 * found.covariance.diagonal()).median().sqrt())
    torch.testing.assert_close(found.curves.sum(0), found.values)


def test_an_edge_is_named():
    with pytest.warns(UserWarning, match="at the edge of the grid"):
        found = nelbo.likelihood_profile(MODEL, X, "theta", GRID[:5], max_nfe=20_000)
    assert found.maximum == pytest.approx(-0.5) and math.isnan(found.information)
    assert found.interval()[1] == math.inf and found.to_dict()["interval"]["high"] is None


def test_what_a_budget_leaves():
    with pytest.warns(UserWarning, match="tolerance 0.0001 was not reached"):
        found = nelbo.likelihood_profile(MODEL, X[:4], "theta", GRID, tolerance=1e-4, max_nfe=30_000)
    assert found.nfe_total <= 30_000


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"values": [0.0, 1.0]}, "2 values"),
        ({"values": [0.0, 0.1, 0.1, 0.2, 0.3]}, "rising"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_nfe": 0}, "max_nfe"),
        ({"condition": "y"}, "'y'"),
    ],
)
def test_what_is_refused(given, says):
    options: dict[str, Any] = {"condition": "theta", "values": GRID, **given}
    with pytest.raises(UsageError) as caught:
        nelbo.likelihood_profile(MODEL, X[:2], **options)
    assert says in f"{caught.value} {caught.value.hint}"


def test_an_interval_of_no_confidence(found):
    with pytest.raises(UsageError, match="confidence"):
        found.interval(1.0)
    narrow, wide = found.interval(0.5), found.interval(0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    noisy = dataclasses.replace(found, covariance=found.covariance * 1e4)
    assert noisy.interval()[1] - noisy.interval()[0] > 1.2 * (found.interval()[1] - found.interval()[0])


def test_a_curve_that_is_a_polynomial_is_read_exactly():
    grid = np.linspace(-2, 3, 15)
    curve = Curve(grid, 3 * (grid - 0.7) ** 2 + 0.2 * (grid - 0.7) ** 4)
    least = curve.minimum()
    assert least.place == pytest.approx(0.7, abs=1e-6) and least.information == pytest.approx(6, abs=1e-4)
    assert least.weights @ grid == pytest.approx(1)  # the slope of a line
    assert least.weights @ grid**2 == pytest.approx(2 * least.place)
    low, high = curve.below(0.75)
    assert (low, high) == pytest.approx((0.2, 1.2), abs=0.02)


def test_looks_add_up():
    """Two looks of as many strata are one look of both."""
    values = torch.randn(3, 16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nothing = Sums(0, torch.zeros(3, 5).double(), torch.zeros(5, 5).double())
    one, two = nothing.with_look(values), nothing.with_look(values[:, :8]).with_look(values[:, 8:])
    torch.testing.assert_close(one.curves, two.curves)
    torch.testing.assert_close(one.covariance, two.covariance)
    torch.testing.assert_close(one.curves, values.mean(1))


@pytest.mark.slow
def test_intervals_cover():
    """With the likelihood's own asymptotics: 200 data sets of 12 observations."""
    hit = 0
    for seed in range(200):
        x = law(0.2).sample(12, seed=100 + seed)
        found = nelbo.likelihood_profile(MODEL, x, "theta", GRID, seed=seed, tolerance=0.3)
        low, high = found.interval()
        hit += low <= 0.2 <= high
    assert hit / 200 > 0.95 - 4 * (0.95 * 0.05 / 200) ** 0.5


@pytest.mark.slow
def test_the_error_of_the_maximum_is_a_tenth_of_that_of_bounds_computed_one_by_one():
    """At as many evaluations, of a mixture: by the spread of repetitions, and by what the profile says of itself."""
    x = benchmark.law(benchmark.TRUE).sample(benchmark.OBSERVATIONS, seed=1)
    right = benchmark.exact(x).minimum().place
    apart = np.array([benchmark.alone(x, seed, True) for seed in range(8)]) - right
    with pytest.warns(UserWarning, match="was not reached"):
        found = [benchmark.together(x, seed) for seed in range(4)]
    said = float(np.mean([profile.monte_carlo_error for profile in found]))
    assert float(np.sqrt(np.mean(apart**2))) > 10 * said
    assert all(abs(profile.maximum - right) < 4.5 * profile.monte_carlo_error for profile in found)

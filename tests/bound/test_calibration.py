"""What the pilot says of an output that is not calibrated, and of a table of variances in another form."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.bound import calibration, readings
from tests.diagnosis.cases import CODES, SCHEDULES, model
from tests.diagnosis.mistakes import variances

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # they are looked at here
G = torch.Generator().manual_seed(0)


def said(one: nelbo.DiffusionModel, what: str, **options) -> bool:
    return any(what in note for note in nelbo.evaluate(one, CODES, max_nfe=900, **options).warnings)


def products(output) -> torch.Tensor:
    """What is kept of draws of x of variance 1, z = x + ε and `output`(z), in 64 dimensions, 4000 times."""
    x, eps = torch.randn(2, 4000, 64, generator=G, dtype=torch.float64)
    z = x + eps
    return readings.observed(x, z, z / 2, output(z))


@pytest.mark.parametrize("output", [lambda z: z / 2, lambda z: 3 * z, lambda z: z.sin(), torch.zeros_like])
def test_the_best_factors(output):
    """E[x | z] = z/2 leaves half of the variance, and no factors of the output and the input leave less."""
    errors = calibration.fitted_errors(products(output))
    assert abs(float(errors.mean()) - 32.0) < 4 * float(errors.std()) / 4000**0.5 + 0.02
    kept = products(lambda z: z / 2)
    assert float((kept[:, 6] - calibration.fitted_errors(kept)).mean()) <= 1e-3  # it is not predicted from itself


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_an_output_of_another_size(factor):
    """Of a network that is not the one of its declaration by a factor; and the factors of its output mend it."""
    assert said(model("law", lambda net: lambda z, t: factor * net(z, t)), "not calibrated")
    assert not said(model("law"), "not calibrated")


def test_what_would_mean_too_little():
    """Of a learned variance, of a network of nelbo's own, and of a few draws nothing is said."""
    shrunk = {"wrap": lambda net: lambda z, t: 0.5 * net(z, t), "grid": nelbo.grids.even(40)}
    doubled = {"wrap": lambda net: lambda z, t: torch.cat([0.5 * net(z, t), torch.ones_like(z)], 1)}
    assert said(model("law", **shrunk), "not calibrated")
    assert not said(model("law", variance="learned_range", **{**shrunk, **doubled}), "not calibrated")
    assert not said(model("law", **{**shrunk, "grid": nelbo.grids.even(2)}), "not calibrated")


FORMS = {
    "standard deviations": torch.sqrt,
    "variances squared": torch.square,
    "variances from noise to data": lambda table: table.flip(0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_variances_in_another_form(form):
    assert said(model("table", variance=FORMS[form](variances())), f"seems to hold {form}")


def test_a_table_of_variances_that_is_right():
    """β̃, β and what lies between."""
    t = SCHEDULES["table"].at_index(torch.arange(100))
    beta = torch.cat([variances()[:1], 1 - (t[1:].alpha / t[:-1].alpha).square()])
    for table in (variances(), beta, (variances() * beta).sqrt()):
        assert not said(model("table", variance=table), "seems to hold")
    weak = model("table", lambda net: lambda z, t: torch.zeros_like(z), variance=variances())
    assert not said(weak, "seems to hold")  # any larger variance suits it better

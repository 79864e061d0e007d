"""`score`: against the exact gradient, of one number by differences and of several through the network."""

from typing import Any

import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.errors import UsageError
from tests.bound import test_profile as one
from tests.bound.conditional import LOGSNR

LAW = nelbo.exact.GaussianData([0.0, 0.0], [[0.3, 0.1], [0.1, 0.2]])
CENTRED = testing.as_network(testing.oracle(LAW), LOGSNR, "x0", "logsnr")


def network(z, t, theta):
    """Of data θ + x with x ~ LAW."""
    return CENTRED(z - torch.sigmoid(t).sqrt()[:, None] * theta, t) + theta


MODEL = nelbo.from_callable(
    network, schedule=LOGSNR, domain=nelbo.DataDomain((2,)), predicts="x0", time="logsnr"
).with_grid(nelbo.grids.continuous())
X = 0.4 + LAW.sample(12, seed=3)


def test_one_number():
    found = nelbo.score(one.MODEL, one.X, "theta", 0.1, precision="float64")
    theta = torch.tensor(0.1, dtype=torch.float64)
    above, below = (-one.exact(one.X, theta + torch.tensor([s, s])).values[0] for s in (0.01, -0.01))
    assert found.value.shape == (1,) and abs(float(found.value) - (above - below) / 0.02) < 4 * float(
        found.standard_error
    )
    assert float(found.standard_error) <= 0.1 * float(found.per_observation.square().sum().sqrt()) + 1e-12


def test_several_numbers():
    at = torch.tensor([0.1, -0.2], dtype=torch.float64)
    found = nelbo.score(MODEL, X, "theta", at, precision="float64")
    exact = (X - at) @ torch.linalg.inv(torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64))
    z = (found.value - exact.sum(0)) / found.standard_error
    assert float(z.abs().max()) < 4 and found.per_observation.shape == (12, 2)
    wrong = exact.sum(0) * torch.tensor([1.2, 0.8])
    assert float(((found.value - wrong) / found.standard_error).abs().max()) > 4
    assert "±" in repr(found) and found.nfe_total % 1 == 0


def test_differences_and_gradients_agree():
    """The same draws: one number of two, by both."""

    def first(z, t, theta):
        return network(z, t, torch.stack([theta, torch.full_like(theta, -0.2)], 1))

    model = nelbo.from_callable(first, schedule=LOGSNR, domain=nelbo.DataDomain((2,)), predicts="x0", time="logsnr")
    model = model.with_grid(nelbo.grids.continuous())
    by_difference = nelbo.score(model, X, "theta", 0.1, precision="float64")
    by_gradient = nelbo.score(MODEL, X, "theta", [0.1, -0.2], precision="float64")
    error = float((by_difference.standard_error[0].square() + by_gradient.standard_error[0].square()).sqrt())
    assert abs(float(by_difference.value[0] - by_gradient.value[0])) < 4 * error


def test_a_network_that_cannot_be_differentiated():
    def fixed(z, t, theta):
        return z.detach() * 0 + theta.detach()

    model = nelbo.from_callable(fixed, schedule=LOGSNR, domain=nelbo.DataDomain((2,)), predicts="x0", time="logsnr")
    with pytest.raises(UsageError, match="does not depend on 'theta'"):
        nelbo.score(model, X, "theta", [0.1, 0.2])


@pytest.mark.parametrize("given", [{"step": 0.0}, {"tolerance": -1.0}, {"max_nfe": 0}, {"at": "a"}, {"condition": "0"}])
def test_what_is_refused(given):
    options: dict[str, Any] = {"condition": "theta", "at": [0.1, 0.2], **given}
    with pytest.raises(UsageError) as caught:
        nelbo.score(MODEL, X[:2], **options)
    assert next(iter(given)) in str(caught.value)

"""`bound_loss` is the bound on average, and so is its gradient."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.errors import UnknownNameError, UsageError
from tests.monitoring.test_monitor import DOMAIN, LAW, TABLE, X

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # of untrained networks
SCHEDULES = {"table": TABLE, "law": LAW}


def scaled(schedule, scale: torch.Tensor) -> nelbo.DiffusionModel:
    time, grid = ("index", None) if schedule is TABLE else ("logsnr", nelbo.grids.continuous())
    return nelbo.from_callable(
        lambda z, t: scale * z, schedule=schedule, domain=DOMAIN, time=time, grid=grid, modules=[]
    )


@pytest.mark.parametrize(("schedule", "times"), [("table", "low_discrepancy"), ("law", "uniform")])
def test_mean_and_gradient_are_those_of_the_bound(schedule, times):
    """Over steps, against an estimate of the bound and its difference quotient at common noise."""
    scale = torch.tensor(0.6, requires_grad=True)
    model = scaled(SCHEDULES[schedule], scale)
    losses, slopes = [], []
    for step in range(120):
        loss = nelbo.bound_loss(model, X, times=times, seed=5, step=step, reconstruction_share=0.5)
        losses.append(float(loss.detach()))
        slopes.append(float(torch.autograd.grad(loss, scale)[0]))
    how = {"estimator": "exhaustive" if schedule == "table" else "stratified", "seed": 3}

    def bound(value: float):
        with torch.no_grad():
            scale.fill_(value)
        return nelbo.evaluate(model, X, **how)

    whole, low, high = bound(0.6), bound(0.55), bound(0.65)
    for values, truth, error in (
        (losses, whole.bits_per_dim, whole.standard_error.estimator),
        (slopes, (high.bits_per_dim - low.bits_per_dim) / 0.1, 0.0),  # the bound is quadratic in the scale: exact
    ):
        values = torch.tensor(values, dtype=torch.float64)
        spread = math.hypot(float(values.std()) / math.sqrt(len(values)), error)
        assert abs(float(values.mean()) - truth) < 4 * spread + 2e-3 * abs(truth)
        assert abs(truth) > 8 * spread  # power: a factor of a half would be noticed


def test_gradients_vary_less_than_at_uniform_times():
    scale = torch.tensor(0.6, requires_grad=True)
    model = scaled(LAW, scale)

    def spread(times):
        slopes = []
        for step in range(80):
            loss = nelbo.bound_loss(model, X, times=times, seed=1, step=step)
            slopes.append(torch.autograd.grad(loss, scale)[0])
        return float(torch.stack(slopes).std())

    assert spread("low_discrepancy") < spread("uniform") / 1.2


def test_a_seed_is_drawn_where_none_is_given():
    model = scaled(TABLE, torch.tensor(0.6))
    torch.manual_seed(0)
    first, second = nelbo.bound_loss(model, X), nelbo.bound_loss(model, X)
    torch.manual_seed(0)
    assert nelbo.bound_loss(model, X) == first != second
    assert nelbo.bound_loss(model, X, seed=7, step=2) == nelbo.bound_loss(model, X, seed=7, step=2)


def test_nonsense_is_refused():
    model = scaled(TABLE, torch.tensor(0.6))
    with pytest.raises(UnknownNameError, match="'importance'"):
        nelbo.bound_loss(model, X, times="importance")
    with pytest.raises(UsageError, match="reconstruction_share=0"):
        nelbo.bound_loss(model, X, reconstruction_share=0.0)

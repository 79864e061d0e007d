"""`bound_loss` is the bound on average, and so is its gradient."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.errors import UnknownNameError, UsageError
from nelbo.monitoring import planned_times
from tests.monitoring.test_monitor import DOMAIN, LAW, TABLE, X

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # of untrained networks
SCHEDULES = {"table": TABLE, "law": LAW}


def scaled(schedule, scale: torch.Tensor) -> nelbo.DiffusionModel:
    time, grid = ("index", None) if schedule is TABLE else ("logsnr", nelbo.grids.continuous())
    return nelbo.from_callable(
        lambda z, t: scale * z, schedule=schedule, domain=DOMAIN, time=time, grid=grid, modules=[]
    )


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ("table", "low_discrepancy"),
        ("law", "uniform"),
        pytest.param("law", "planned", marks=pytest.mark.slow),
        pytest.param("table", "planned", marks=pytest.mark.slow),
    ],
)
def test_mean_and_gradient_are_those_of_the_bound(schedule, times):
    """Over steps, against an estimate of the bound and its difference quotient at common noise."""
    scale = torch.tensor(0.6, requires_grad=True)
    model = scaled(SCHEDULES[schedule], scale)
    times = planned_times(model, X) if times == "planned" else times
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


def test_gradients_vary_less_at_planned_times():
    """Of the best network for a Gaussian, with a shift that is trained; the reversed density loses."""
    shift = torch.tensor(0.0, requires_grad=True)
    variance = DOMAIN.values(X).float().var(0).mean()

    def network(z, t):  # ε̂ = σ z / (α² w + σ²)
        return z * ((1 + t.exp()).sqrt() / (1 + variance * t.exp())).float()[:, None] + shift

    noisy = nelbo.schedules.logsnr_linear(4.0, -12.0)  # most of the chain holds little of the bound
    model = nelbo.from_callable(
        network, schedule=noisy, domain=DOMAIN, time="logsnr", decoder="categorical", modules=[]
    )
    planned = planned_times(model, X)
    turned = planned_times(model, X)
    turned.fixed.copy_(planned.fixed.flip(0))

    def spread(times):
        slopes = []
        for step in range(60):
            loss = nelbo.bound_loss(model, X, times=times, seed=1, step=step)
            slopes.append(torch.autograd.grad(loss, shift)[0])
        return float(torch.stack(slopes).std())

    assert spread(planned) < spread("uniform") / 1.25 < spread(turned) / 1.5


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

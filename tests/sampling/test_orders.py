"""Deterministic samplers converge to the exact probability flow, at their order, on every path.

Of Gaussian data the flow is known: it keeps the standardised coordinates of the noisy law, per eigenvector

    (z_s − α_s m)/√(α_s² c + σ_s²) = (z_t − α_t m)/√(α_t² c + σ_t²),

and of any law on the line it keeps the quantile, F_s(z_s) = F_t(z_t). Both in closed form, for VP, VE and flow.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import nelbo
from nelbo import sample
from nelbo.errors import DomainError, UsageError
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.process import every_grid as grids
from nelbo.process import schedule as schedules
from nelbo.sampling import encode
from tests.sampling.cases import DETERMINISTIC, LAW, LINE, PATHS, PLANE

ORDERS = {"ddim": 1, "euler": 1, "flow_euler": 1, "heun": 2, "flow_midpoint": 2, "dpmpp_2m": 2}
ON_GAUSSIANS = {**ORDERS, "flow_midpoint": 3}
"""There √(quadratic in τ) solves the flow, and the h³ term of midpoint's local error vanishes identically:
with q = 1 + q₁h + κh² both √q and midpoint's step are 1 + q₁h/2 + (κ/2 − q₁²/8) h² + (q₁³/16 − κq₁/4) h³ + …"""


def flow_of(data: GaussianData, z: torch.Tensor, schedule, t: float, s: float) -> torch.Tensor:
    """The exact probability flow of z (n, D) from time t to time s."""
    a, b = schedule.at(torch.tensor([t])), schedule.at(torch.tensor([s]))
    c, U = torch.linalg.eigh(data.covariance)
    scale = ((b.alpha**2 * c + b.sigma**2) / (a.alpha**2 * c + a.sigma**2)).sqrt()
    return b.alpha * data.mean + (((z - a.alpha * data.mean) @ U) * scale) @ U.T


def slope(steps: list[int], errors: list[float]) -> float:
    """The order: minus the slope of log error over log steps, by least squares."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def gaussian_errors(sampler: str, path: str, steps: list[int]) -> list[float]:
    schedule = LAW.on(path)
    model = PLANE.model(schedule, grids.even(8))
    noise = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = PLANE.prior(schedule.at(torch.tensor([1.0]))).draw(noise)
    exact = flow_of(PLANE, start, schedule, 1.0, 0.0)
    ends = [sample(model, 16, sampler=sampler, steps=k, start=start, trajectory=True).z[-1] for k in steps]
    return [float((z - exact).abs().max()) for z in ends]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_order_on_gaussian_data(sampler, path):
    steps = [32, 64, 128]
    errors = gaussian_errors(sampler, path, steps)
    assert slope(steps, errors) == pytest.approx(ON_GAUSSIANS[sampler], abs=0.2)
    assert errors[-1] < (0.1 if ORDERS[sampler] == 1 else 2e-3)


def quantile_flow(data: MixtureData, z: float, schedule) -> float:
    """z_s with F_0(z_s) = F_1(z), by root finding in the tail that is the smaller."""
    laws = [data.noised(schedule.at(torch.tensor([t]))) for t in (0.0, 1.0)]

    def tail(law: MixtureData, x: float, upper: bool) -> float:
        gap = (x - law.means[:, 0]) / law.covariances[:, 0, 0].sqrt()
        return float((law.weights * torch.special.ndtr(-gap if upper else gap)).sum())

    upper = tail(laws[1], z, True) < 0.5
    mass = tail(laws[1], z, upper)
    return float(optimize.brentq(lambda x: tail(laws[0], x, upper) - mass, -50, 50, xtol=1e-13, rtol=1e-14))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", ["ddim", "heun", "flow_midpoint", "dpmpp_2m"])
def test_order_on_a_mixture(sampler, path):
    """Quantiles are kept, where slopes vary: the mean over 9 starts of a mixture with three components."""
    schedule = LAW.on(path)
    level = schedule.at(torch.tensor([1.0]))
    quantiles = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
    start = (level.alpha * 0.1 + (level.sigma**2 + level.alpha**2 * 4).sqrt() * quantiles)[:, None]
    exact = torch.tensor([quantile_flow(LINE, float(z), schedule) for z in start], dtype=torch.float64)
    model = LINE.model(schedule, grids.even(8), exact_ends=False)
    steps = [64, 128, 256]
    errors = []
    for k in steps:
        z = sample(model, 9, sampler=sampler, steps=k, start=start, trajectory=True).z[-1][:, 0]
        errors.append(float((z - exact).abs().mean()))
    assert slope(steps, errors) == pytest.approx(ORDERS[sampler], abs=0.2), errors


@pytest.mark.parametrize("path", PATHS)
def test_four_names_of_one_step(path):
    """Without noise DDIM, EDM's Euler and the flow's Euler are one method in three coordinates."""
    model = PLANE.model(LAW.on(path), grids.even(20))
    ddim = sample(model, 5, sampler="ddim")
    for other in ("euler", "flow_euler"):
        torch.testing.assert_close(sample(model, 5, sampler=other), ddim, rtol=1e-11, atol=1e-11)
    one = sample(model, 5, sampler=nelbo.samplers.DDIM(eta=1.0))
    torch.testing.assert_close(one, sample(model, 5), rtol=1e-11, atol=1e-11)  # η = 1 is ancestral, β̃


# ---------------------------------------------------------------- inversion


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sampler", ["ddim", "heun", "flow_midpoint", "dpmpp_2m"])
def test_encode_then_sample_returns(sampler, path):
    """Up and down again: x comes back with an error of the sampler's order, and z_L is where the flow leads."""
    schedule = LAW.on(path)
    model = PLANE.model(schedule, grids.even(8), exact_ends=False)
    x = PLANE.sample(16)
    first = schedule.at(torch.tensor([0.0]))
    exact = flow_of(PLANE, first.alpha * x, schedule, 0.0, 1.0)
    steps, back, there = [32, 64, 128], [], []
    for k in steps:
        z = encode(model, x, sampler=sampler, steps=k, batch_size=5)
        there.append(float(((z - exact) / schedule.at(torch.tensor([1.0])).sigma).abs().max()))
        back.append(float((sample(model, 16, sampler=sampler, steps=k, start=z) - x).abs().max()))
    assert slope(steps, there) == pytest.approx(ON_GAUSSIANS[sampler], abs=0.2), there
    # a method and its reverse may cancel a part of the error, never add to it
    assert slope(steps, back) > ORDERS[sampler] - 0.2, back


def test_codes_are_encoded():
    data = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
    model = data.model(schedules.logsnr_linear(9.0, -9.0), grids.even(200), exact_ends=False)
    codes = data.sample(50)
    z = encode(model, codes, sampler="heun")
    back = sample(model, 50, sampler="heun", start=z)
    assert float((back == codes).double().mean()) > 0.95


def test_refusals_of_encode():
    model = PLANE.model(LAW, grids.even(8))
    with pytest.raises(UsageError, match="'ancestral', which draws noise"):
        encode(model, torch.zeros(2, 2), sampler="ancestral")
    with pytest.raises(DomainError, match="NaN"):
        encode(model, torch.full((2, 2), math.nan))

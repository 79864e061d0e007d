"""Mistakes planted one at a time: the first row is the right declaration, with its bound; and right ones stand."""

from __future__ import annotations

import re

import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.process import forward
from tests.diagnosis.cases import CODES, DOMAIN, LAW, SCHEDULES, SHAPE, VALUES, diagnosed, model, right

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")
BAR = SCHEDULES["table"].at_index(torch.arange(100)).alpha.square()


def domain(**otherwise) -> nelbo.DataDomain:
    return nelbo.DataDomain(**{"shape": SHAPE, "bins": 256, **otherwise})


def scaled_linear():
    return nelbo.schedules.from_betas(torch.linspace(1e-3**0.5, 0.2**0.5, 100, dtype=torch.float64).square())


def beta_tilde() -> torch.Tensor:
    levels = SCHEDULES["table"].at_index(torch.arange(100))
    variance = forward.posterior(levels[:-1], levels[1:]).variance
    return torch.cat([variance[:1], variance])


def untrained(net):
    return lambda z, i: torch.where((i > 0)[:, None, None, None], net(z, i), 4.0 * torch.ones_like(z))


def wrapped(f):
    """A network that is evaluated through f."""
    return {"wrap": lambda net: lambda z, t: f(net, z, t)}


PLANTED = {
    # where, what is declared or done, the first row, the change to make
    "v for eps": ("table", {"predicts": "v"}, "predicts eps", 'predicts="eps"'),
    "x0 for eps": ("table", {"predicts": "x0"}, "predicts eps", 'predicts="eps"'),
    "eps for v": ("law", {"predicts": "eps"}, "predicts v", 'predicts="v"'),
    "v for velocity": ("flow", {"predicts": "v"}, "predicts velocity", 'predicts="velocity"'),
    "D for F": ("edm", {"predicts": "edm_D", "sigma_data": None}, "predicts edm_F, σ_data 0.5", "sigma_data=0.5"),
    "the sign": ("law", wrapped(lambda net, z, t: -net(z, t)), "predicts −v", "-net(z, t)"),
    "σ_data": ("edm", {"sigma_data": 1.0}, "predicts edm_F, σ_data 0.5", "sigma_data=0.5"),
    "data at t = 1": ("flow", wrapped(lambda net, z, t: -net(z, 1 - t)), "data at t = 1", "-net(z, 1 - t)"),
    "unit for log-SNR": ("law", {"time": "unit"}, "time log-SNR", 'time="logsnr"'),
    "sigma for log-SNR": ("law", {"time": "sigma"}, "time log-SNR", 'time="logsnr"'),
    "sigma for c_noise": ("edm", {"time": "sigma"}, r"time ln\(σ\)/4", 'time="c_noise"'),
    "half the log-SNR": ("law", wrapped(lambda net, z, t: net(z, 2 * t)), "time half the log-SNR", "net(z, t / 2)"),
    "index for index/T": ("table", wrapped(lambda net, z, t: net(z, 100 * t)), "time index/T", "net(z, t - 1 / T)"),
    "time reversed": ("table", wrapped(lambda net, z, t: net(z, 99 - t)), "time T − 1 − index", "net(z, T - 1 - t)"),
    "1000 t": ("flow", wrapped(lambda net, z, t: net(z, t / 1000)), "time 1000 × unit", "net(z, 1000 * t)"),
    "scaled linear": ("table", {"schedule": scaled_linear()}, "schedule linear", "nelbo.schedules.linear(100, 0.001"),
    "√ᾱ for ᾱ": (
        "table",
        {"schedule": nelbo.schedules.from_alphas_cumprod(BAR.sqrt())},
        "schedule (of ᾱ|linear, β scaled)",
        "nelbo.schedules.",
    ),
    "path VP": ("flow", {"schedule": SCHEDULES["flow"].on("vp")}, "path flow", 'schedule.on("flow")'),
    "range 0..1": ("law", {"domain": domain(low=0.0, high=1.0)}, "range −1 … 1", "low=-1, high=1"),
    "range 0..255": ("table", {"domain": domain(low=0.0, high=255.0)}, "range −1 … 1", "low=-1, high=1"),
    "standard deviations": ("table", {"variance": beta_tilde().sqrt()}, "variance squared", "variance=table**2"),
    "variances reversed": ("table", {"variance": beta_tilde().flip(0)}, "variance reversed", "table[::-1]"),
    "first level": ("table", {"wrap": untrained}, "first level 1", "first_level=1"),
    "BGR": ("law", {"data": CODES.flip(1)}, "channels reversed", "[2, 1, 0]"),
    "channels last": (
        "law",
        {"data": CODES.permute(0, 2, 3, 1).reshape(CODES.shape)},
        "read as channels last",
        "permute(0, 3, 1, 2)",
    ),
    "negatives": ("flow", {"data": 255 - CODES}, "values inverted", "bins - 1 - data"),
    "transposed": ("law", {"data": CODES.transpose(-1, -2).contiguous()}, "rows as columns", "transpose(-1, -2)"),
    "real values in 0..1": (
        "law",
        {"domain": domain(bins=None), "data": (VALUES + 1) / 2},
        "data as 2 x − 1",
        "mean=torch.full(shape, 0.5), scale=torch.full(shape, 0.5)",
    ),
}


QUICK = ("scaled linear", "data at t = 1", "sigma for c_noise")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PLANTED])
def test_a_mistake_is_the_first_row(name):
    """Its name, the line to write, and both numbers in the verdict."""
    where, planted, first, change = PLANTED[name]
    diagnosis = diagnosed(where, **planted)
    assert re.search(first, diagnosis.best.name), diagnosis
    verdict, declared = diagnosis.verdict, diagnosis.declared
    assert not verdict.ok and verdict.change is not None and change in verdict.change
    assert f"{diagnosis.best.bits_per_dim:.3f} bits/dim, not {declared.bits_per_dim:.3f}" in verdict.text
    assert diagnosis.nfe_total <= diagnosis.max_nfe


def test_what_is_declared_rightly_is_the_first_row():
    """And differences are paired: another path moves the bound by far less than its own error."""
    diagnosis = diagnosed("law")
    assert right(diagnosis) and diagnosis.best.as_declared and diagnosis.unit == "bits/dim"
    row = next(row for row in diagnosis.rows if row.name == "path ve")
    assert row.difference_error < 0.3 * row.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("where", SCHEDULES)
def test_what_is_declared_rightly_stands(where):
    """On other seeds of the noise."""
    for seed in (1, 2):
        diagnosis = nelbo.diagnose(model(where), CODES, max_nfe=900, seed=seed)
        assert right(diagnosis), diagnosis


@pytest.mark.slow
def test_real_values_declared_rightly_stand():
    diagnosis = diagnosed("law", domain=domain(bins=None), data=VALUES)
    assert right(diagnosis) and diagnosis.unit == "bits/dim (density)"


@pytest.mark.slow
def test_codes_declared_real():
    """A density on a lattice is multiplied by its step, so that it compares with the code length of codes."""
    coarse = nelbo.DataDomain(SHAPE, 9)
    codes = coarse.codes(VALUES)
    values = coarse.values(codes)
    diagnosis = diagnosed("law", domain=domain(bins=None), data=values, max_nfe=1200)
    assert diagnosis.unit == "bits/dim (density × step)" and not diagnosis.verdict.ok
    assert "bins=9, low=-1, high=1" in diagnosis.verdict.text
    row = next(row for row in diagnosis.rows if row.name == "codes of 9 levels")
    right = nelbo.evaluate(model("law", domain=coarse), codes, tolerance=0.02, any_cost=True)
    assert abs(row.bits_per_dim - right.bits_per_dim) < 4 * row.standard_error + 0.08
    density = nelbo.evaluate(model("law", domain=domain(bins=None)), values, tolerance=0.02, any_cost=True)
    declared = diagnosis.declared
    assert abs(declared.bits_per_dim - (density.bits_per_dim + 2)) < 4 * declared.standard_error + 0.08  # −log2(1/4)


@pytest.mark.slow
def test_codes_of_fewer_levels():
    """As they are, and times 15."""
    coarse = nelbo.DataDomain(SHAPE, 17)
    codes = coarse.codes(VALUES)
    for data, name in ((codes, "bins 17"), (15 * codes, "bins 17, codes divided")):
        diagnosis = diagnosed("law", domain=DOMAIN, data=data)
        assert diagnosis.best.name == name and "17" in diagnosis.verdict.text


@pytest.mark.slow
def test_what_costs_little_cannot_be_told_apart():
    """On a fine table one step of time is next to nothing."""
    fine = nelbo.schedules.linear(1000)
    net = testing.as_network(testing.oracle(LAW), fine, "eps", "index")
    late = nelbo.from_callable(
        lambda z, i: net(z, (i - 1).clamp(0)), schedule=fine, domain=DOMAIN, predicts="eps", time="index"
    )
    diagnosis = nelbo.diagnose(late, CODES)
    assert diagnosis.verdict.ok and "cannot be told apart" in diagnosis.verdict.text
    assert "index + 1" in diagnosis.verdict.text

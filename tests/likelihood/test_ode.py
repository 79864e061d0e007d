"""The probability-flow ODE: exact densities, orders of convergence, probes, independence of examples."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

import nelbo
from nelbo.errors import UsageError
from nelbo.likelihood import RK4, ExactTrace, Heun, Hutchinson, ode, trace
from nelbo.model.denoiser import Denoiser
from nelbo.process.prediction import Prediction
from tests.likelihood import checks


@pytest.mark.parametrize(
    "check",
    [
        checks.check_exact,
        checks.check_drift,
        checks.check_real,
        checks.check_units,
        checks.check_dequantisation,
        checks.check_fitted,
        checks.check_fit_finds_the_law,
    ],
)
def test_against_closed_forms(check):
    check()


@pytest.mark.parametrize("path", ["vp", "ve", "flow"])
@pytest.mark.parametrize(("solver", "steps"), [(Heun, (64, 128)), (RK4, (32, 64))])
def test_order_of_convergence(path, solver, steps):
    """The slope of log error in log steps is the order within 0.2."""
    model, z, exact = checks.at_first(checks.mixture(2, 2.0), path, 16)
    errors = [float((checks.log_density(model, z, solver(n)) - exact).abs().mean()) for n in steps]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert abs(slopes[-1] - solver.order) <= 0.2, (errors, slopes)


def test_probes_are_unbiased_and_tell_their_error():
    """Mean over 100 probes within 4 standard errors of the exact density; the divergence twice would be 10 off."""
    wide = checks.gaussian(8)
    data = checks.GaussianData(wide.mean, wide.covariance / 30)
    model, z, exact = checks.at_first(data, n=2)
    signs = [trace.rademacher(1, torch.arange(2), 0, p, z.shape[1:], z.device) for p in range(100)]
    end, flow = ode.log_density(model, z, solver=RK4(32), probes=signs)
    error = flow.std(0) / math.sqrt(100)
    assert bool(((end + flow.mean(0) - exact).abs() <= 4 * error).all())
    assert bool((error > 0.005).all()) and bool(((exact - end).abs() > 14 * error).all())


def test_probes_are_signs_that_differ_by_key():
    base = trace.rademacher(0, torch.arange(4), 1, 2, (500,), torch.device("cpu"))
    assert set(base.unique().tolist()) == {-1.0, 1.0} and abs(float(base.mean())) < 4 / math.sqrt(2000)
    for seed, draw, probe in ((9, 1, 2), (0, 9, 2), (0, 1, 9)):
        other = trace.rademacher(seed, torch.arange(4), draw, probe, (500,), torch.device("cpu"))
        assert abs(float((base * other).mean())) < 4 / math.sqrt(2000)
    again = trace.rademacher(0, torch.tensor([3]), 1, 2, (500,), torch.device("cpu"))
    assert torch.equal(again[0], base[3])


def test_the_probe_stays_fixed_along_a_solve(monkeypatch):
    """Every evaluation of a solve sees the same probe: a probe is drawn once an example, draw and number."""
    drawn = []
    real = trace.rademacher

    def counted(seed, examples, draw, probe, shape, device):
        drawn.append((draw, probe))
        return real(seed, examples, draw, probe, shape, device)

    monkeypatch.setattr(trace, "rademacher", counted)
    data = checks.gaussian(3)
    nelbo.ode_likelihood(data.model(checks.LAW, nelbo.grids.continuous()), data.sample(4), probes=2, steps=8)
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_choices_are_objects_or_keywords():
    data = checks.gaussian(3)
    model, x = data.model(checks.LAW, nelbo.grids.continuous()), data.sample(4)
    for objects, keywords in (
        ({"solver": Heun(8), "trace": Hutchinson(2)}, {"solver": "heun", "steps": 8, "probes": 2}),
        ({"solver": RK4(8), "trace": ExactTrace()}, {"steps": 8, "exact_trace": True}),
    ):
        one, other = (nelbo.ode_likelihood(model, x, **options).to_dict() for options in (objects, keywords))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("options", [{}, {"probes": 1}, {"tolerance": 1e-4, "steps": 8}])
def test_examples_do_not_know_each_other(options):
    """Batches of one and of all give every example the same values."""
    data = checks.mixture(3)
    model, x = data.model(checks.LAW, nelbo.grids.continuous()), data.sample(3)
    options = {"steps": 8, "per_example": True, **options}
    whole, single = (nelbo.ode_likelihood(model, x, batch_size=n, **options).per_example for n in (3, 1))
    for name in vars(whole):
        torch.testing.assert_close(getattr(single, name), getattr(whole, name), rtol=0, atol=1e-11)


def test_step_doubling_tells_the_error():
    """Per example within a factor of three of the true error, which both solvers are far from hiding."""
    data = checks.mixture(2, 2.0)
    model, x = data.model(checks.LAW, nelbo.grids.continuous()), data.sample(12)
    options = {"dequantisation": "none", "per_example": True}
    exact = nelbo.ode_likelihood(model, x, solver=RK4(192), **options).per_example.nats
    for solver in (Heun(64), RK4(32)):
        rough = nelbo.ode_likelihood(model, x, solver=solver, **options).per_example
        true = (rough.nats - exact).abs()
        assert float(true.mean()) > 1e-6
        assert 1 / 3 < float(rough.solver_error.mean() / true.mean()) < 3


def test_the_tolerance_is_kept_example_by_example():
    data = checks.mixture(2, 2.0)
    model, x = data.model(checks.LAW, nelbo.grids.continuous()), data.sample(12)
    options = {"dequantisation": "none", "per_example": True}
    exact = nelbo.ode_likelihood(model, x, steps=192, **options).per_example.nats
    result = nelbo.ode_likelihood(model, x, steps=4, tolerance=1e-5, **options)
    allowed = 1e-5 * 2 * math.log(2)
    assert float(result.per_example.solver_error.max()) <= allowed
    assert float((result.per_example.nats - exact).abs().max()) <= 3 * allowed
    most = result.estimator["most_steps"]
    assert most > 4 and result.nfe_per_example < 4 * (2 * most - 2) + 50 / 12  # not every example went all the way
    with pytest.warns(nelbo.bound.checks.NelboWarning, match="miss the ODE tolerance"):
        nelbo.ode_likelihood(model, x, steps=4, tolerance=1e-9, max_steps=8, **options)


def test_a_table_is_followed_between_its_levels():
    """DDPM's table: the exact density at its first level, and a note that the network sees fractional positions."""
    data = checks.gaussian(2)
    model = data.model(nelbo.schedules.linear(200, 1e-3, 0.1), nelbo.grids.full())
    q = checks.noisy(data, model.levels()[:1])
    z = q.sample(3)
    assert float((checks.log_density(model, z, RK4(128)) - q.log_prob(z)).abs().max()) <= 1e-5
    with pytest.warns(nelbo.bound.checks.NelboWarning, match="fractional positions"):
        result = nelbo.ode_likelihood(model, data.sample(3))
    assert result.estimator["law"] == "interpolated"


def test_the_prior_is_the_models_own():
    """N(0, I) in the place of the exact q_T costs what the two densities differ by at the end of the flow."""
    data = checks.gaussian(2)
    law = nelbo.schedules.logsnr_linear(9.0, -2.0)
    exact = data.model(law, nelbo.grids.continuous())
    standard = data.model(law, nelbo.grids.continuous(), exact_ends=False)
    z = data.sample(4)
    end = ode.solve(exact, z, 9.0, -2.0, solver=RK4(64)).z
    q = checks.noisy(data, exact.levels()[-1:])
    normal = torch.distributions.Normal(0, 1).log_prob(end).sum(1)
    difference = checks.log_density(exact, z, RK4(64)) - checks.log_density(standard, z, RK4(64))
    torch.testing.assert_close(difference, q.log_prob(end) - normal)
    assert float(difference.abs().max()) > 0.05


class NoGradient(Denoiser):
    def forward(self, z, t, condition=None):
        return Prediction(torch.zeros_like(z).detach())


class WantsIntegers(Denoiser):
    def forward(self, z, t, condition=None):
        return Prediction(z * torch.nn.functional.embedding(t.index, torch.ones(300, 2, dtype=z.dtype)))


def test_what_a_flow_cannot_be_of():
    data = checks.gaussian(2)
    model, x = data.model(checks.LAW, nelbo.grids.continuous()), data.sample(3)
    with pytest.raises(UsageError, match="carries no gradient"):
        nelbo.ode_likelihood(dataclasses.replace(model, denoiser=NoGradient()), x)
    table = data.model(nelbo.schedules.linear(200), nelbo.grids.full())
    with pytest.raises(UsageError, match="table position"):
        nelbo.ode_likelihood(dataclasses.replace(table, denoiser=WantsIntegers()), x)
    for wrong, match in (
        ({"steps": 7}, "7 ODE steps"),
        ({"exact_trace": True, "probes": 2}, "both asked for"),
        ({"probes": 0}, "0 probes"),
        ({"draws": 1}, "one draw"),
        ({"draws": 0}, "0 draws"),
        ({"importance": 4, "probes": 1}, "no bound"),
        ({"importance": 4, "dequantisation": "none"}, "not drawn"),
        ({"dequantisation": "uniform"}, "no bins"),
        ({"precision": "bf16"}, "bf16"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"dequantisation": "flow"}, "no bins"),
        ({"dequantisation": "gaussian"}, "truncated_normal"),
        ({"solver": "euler"}, "heun"),
        ({"solver": RK4(8), "steps": 8}, "8 steps"),
        ({"trace": ExactTrace(), "probes": 1}, "together with"),
    ):
        with pytest.raises(nelbo.NelboError, match=match) as caught:
            nelbo.ode_likelihood(model, x, **wrong)
        assert caught.value.hint
    one = data.model(checks.LAW, nelbo.grids.times([0.5]), exact_ends=False)
    with pytest.raises(UsageError, match="one level"):
        nelbo.ode_likelihood(one, x)

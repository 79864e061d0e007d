"""Formulas of samplers and grids broken on purpose: each is refused by an oracle of this room.

A row is (what is broken, function, text that it holds exactly once, broken text, the check that must refuse it).
"""

from __future__ import annotations

import functools

import pytest
import torch

from nelbo import sample
from nelbo.process import grids
from tests.mutations.mutate import apply
from tests.process import test_grid
from tests.sampling import test_laws, test_orders, test_samplers
from tests.sampling.cases import LAW, PLANE
from tests.sampling.test_ancestral import worst_z


def order(name: str, path: str = "vp") -> None:
    test_orders.test_order_on_gaussian_data(name, path)


def law(name: str, path: str = "vp") -> None:
    """Moments against the closed form, and nothing about power."""
    z = test_laws.drawn(PLANE, *test_laws.STOCHASTIC[name], path).numpy()
    assert worst_z(z, *test_laws.exact_moments(path)) < 4.5


def identity() -> None:
    test_orders.test_four_names_of_one_step("flow")


def eta_is_ancestral() -> None:
    model = PLANE.model(LAW, grids.even(20))
    one = sample(model, 5, sampler=test_samplers.DDIM(1.0))
    torch.testing.assert_close(one, sample(model, 5), rtol=1e-11, atol=1e-11)


P = functools.partial
any_batch = P(test_samplers.test_bits_do_not_depend_on_the_batch, test_samplers.ALL[0])
BREAKS = [
    ("ε̂ keeps x̂ whole", "nelbo.sampling.sampler:eps_of",
     "column(t.alpha, z) * x0", "x0", P(order, "flow_euler")),
    ("DDIM stays at the level it came from", "nelbo.sampling.ddim:along",
     "column(kept, z) * z", "z", P(order, "ddim")),
    ("DDIM's ε̂ forgets that x̂ is part of z", "nelbo.sampling.ddim:along",
     "-s.alpha * torch.expm1", "s.alpha * torch.exp", P(order, "ddim")),
    ("DDIM's x̂ grows with the whole log-SNR", "nelbo.sampling.ddim:along",
     "0.5 * (t.logsnr", "(t.logsnr", P(order, "ddim")),
    ("DDIM's direction keeps the share of the noise", "nelbo.sampling.ddim:DDIM.step",
     "(1 - self.eta**2 * c)", "(1 - self.eta * c)", P(law, "ddim-0.7")),
    ("the same at η = 1: no longer ancestral", "nelbo.sampling.ddim:DDIM.step",
     "self.eta * s.sigma * c.sqrt()", "self.eta * t.sigma * c.sqrt()", eta_is_ancestral),
    ("DDIM's noise has a variance for its standard deviation", "nelbo.sampling.ddim:DDIM.step",
     "s.sigma * c.sqrt()", "s.sigma * c", P(law, "ddim-0.7")),
    ("Euler divides by the noise it goes to", "nelbo.sampling.edm:Euler.step",
     "_slope(y, x0, scale_t)", "_slope(y, x0, scale_s)", P(order, "euler")),
    ("Heun's second slope at the first noise", "nelbo.sampling.edm:Heun.step",
     "_slope(end, x0_s, scale_s)", "_slope(end, x0_s, scale_t)", P(order, "heun")),
    ("Heun predicts at the level it came from", "nelbo.sampling.edm:Heun.step",
     "step.predict(alpha * end, step.s)", "step.predict(alpha * end, t)", P(order, "heun")),
    ("Heun without its half", "nelbo.sampling.edm:Heun.step",
     "0.5 * (slope", "0.6 * (slope", P(order, "heun")),
    ("churn adds the difference of variances, not its root", "nelbo.sampling.edm:_Churned.churned",
     ".clamp(min=0).sqrt()", ".clamp(min=0)", P(law, "heun-churned")),
    ("churn adds noise and leaves the level", "nelbo.sampling.edm:_Churned.churned",
     "column(noisier.alpha, y) * y, noisier", "column(level.alpha, y) * y, level", P(law, "heun-churned")),
    ("2M extrapolates a whole step", "nelbo.sampling.dpm:extrapolated",
     "0.5 * ratio", "ratio", P(order, "dpmpp_2m")),
    ("2M extrapolates backwards", "nelbo.sampling.dpm:extrapolated",
     "(x0 - step.previous.x0)", "(step.previous.x0 - x0)", P(order, "dpmpp_2m")),
    ("SDE-2M has no root of its variance", "nelbo.sampling.dpm:SDEDPMSolver2M.step",
     ".variance.sqrt()", ".variance", P(law, "dpmpp_2m_sde")),
    ("flow Euler forgets x̂ in its velocity", "nelbo.sampling.flow:FlowEuler.step",
     "(eps_of(z, x0, t) - x0)", "eps_of(z, x0, t)", P(order, "flow_euler")),
    ("flow time with λ for λ/2", "nelbo.sampling.flow:flow_time",
     "-0.5 * t.logsnr", "-t.logsnr", identity),
    ("midpoint is at a third", "nelbo.sampling.flow:FlowMidpoint.step",
     "0.5 * (start + stop)", "start + (stop - start) / 3", P(order, "flow_midpoint")),
    ("midpoint's velocity of the start", "nelbo.sampling.flow:FlowMidpoint.step",
     "step.predict(half, m).x0", "x0", P(order, "flow_midpoint")),
    ("every level draws the same noise", "nelbo.sampling.draw:_Paths.normal",
     "rows, level - 1", "rows, 0", P(law, "ancestral")),
    ("noise is keyed by the place in the batch", "nelbo.sampling.draw:_Paths.normal",
     "rows, level - 1", "rows - rows[0], level - 1", any_batch),
    ("guidance from the wrong end", "nelbo.sampling.guidance:Guidance.predict",
     "unconditional.x0 + self.scale", "conditional.x0 + self.scale",
     P(test_samplers.test_guidance_is_the_line_through_two_predictions, 2.5)),
    ("the Karras grid is quadratic in its root", "nelbo.process.spacing:Karras.times",
     "(b - a) * u", "(b - a) * u.square()", test_grid.test_spaced_on_a_law),
    ("the density's shares are not summed", "nelbo.process.spacing:of_bound",
     "cost / whole", "1 / whole", test_grid.test_where_the_bound_sits),
]  # fmt: skip


@functools.cache
def passes(check) -> bool:
    check()
    return True


@pytest.mark.parametrize("broken", BREAKS, ids=[b[0] for b in BREAKS])
def test_a_broken_formula_is_refused(broken, monkeypatch):
    _, target, old, new, check = broken
    assert passes(check)
    apply(monkeypatch, target, old, new)
    with pytest.raises(AssertionError):
        check()

"""What the pilot's draws contradict of a declaration: each output declared as each other, and right ones in silence."""

from __future__ import annotations

import re

import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.bound import readings
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.model.denoiser import TimeInput
from nelbo.process.prediction import Output
from nelbo.process.schedule import Table

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # they are looked at here
DATA = nelbo.exact.MixtureData([0.5, 0.5], [[-0.6, 0.2, 0.1, 0.5], [0.5, -0.4, 0.3, -0.2]], [0.03, 0.05])
DOMAIN = nelbo.DataDomain((4,), 256)
CODES = DOMAIN.codes(DATA.sample(96))
SCHEDULES = {
    "law": nelbo.schedules.logsnr_linear(9.0, -9.0),
    "table": nelbo.schedules.linear(100, 1e-3, 0.2),
    "flow": nelbo.schedules.flow(0.01, 0.999),
    "edm": nelbo.schedules.edm(0.01, 80.0),
}


def model(where: str, truth: str, said: str, wrap=lambda net: net, **options) -> nelbo.DiffusionModel:
    """The exact network of DATA, which predicts `truth` and is declared to predict `said`."""
    schedule = SCHEDULES[where]
    time = "index" if isinstance(schedule, Table) else "logsnr"
    sigma_data = {name: {"sigma_data": 0.5} if name == "edm_F" else {} for name in (truth, said)}
    net = wrap(testing.as_network(testing.oracle(DATA), schedule, truth, time, **sigma_data[truth]))
    return nelbo.from_callable(
        net, schedule=schedule, domain=DOMAIN, predicts=said, time=time, **{**sigma_data[said], **options}
    )


def scored(one: nelbo.DiffusionModel, **options) -> nelbo.Bound:
    return nelbo.evaluate(one, CODES, **{"tolerance": 0.05, "max_nfe": 700, **options})


def about(bound: nelbo.Bound, what: str = "seems to predict") -> str | None:
    return next((w for w in bound.warnings if what in w), None)


OUTPUTS = {
    "law": ("eps", "x0", "v", "score", "velocity"),
    "table": ("eps", "x0", "v", "score"),
    "flow": ("eps", "x0", "v", "score", "velocity"),
    "edm": ("edm_D", "edm_F"),
}
PLANTED = [
    *(("law", truth, said) for truth in OUTPUTS["law"] for said in OUTPUTS["law"] if truth != said),
    *(("table", truth, said) for truth in OUTPUTS["table"] for said in OUTPUTS["table"] if truth != said),
    *(("flow", truth, said) for truth in ("x0", "score") for said in OUTPUTS["flow"] if truth != said),
    *(("flow", "eps", said) for said in ("x0", "v", "score")),
    ("flow", "v", "eps"),
]
NOT_SEEN = {("law", "velocity", "v")}
"""Two outputs that are too much alike for this rule, within a tenth of each other at most levels."""


@pytest.mark.parametrize(("where", "truth", "said"), [case for case in PLANTED if case not in NOT_SEEN])
def test_an_output_declared_as_another(where, truth, said):
    """The result names the right one, and about the bound that it would have."""
    note = about(scored(model(where, truth, said)))
    assert note is not None and f"seems to predict {truth}, not {said} as declared" in note
    assert f"declare predicts={truth!r}, and let `nelbo diagnose`" in note
    promised = re.search(r"would be about ([\d.e+]+) bits/dim", note)
    right = scored(model(where, truth, truth)).bits_per_dim
    assert promised is not None and abs(float(promised[1]) / right - 1) < 0.12


@pytest.mark.parametrize(("where", "output"), [(where, output) for where in OUTPUTS for output in OUTPUTS[where]])
def test_what_is_declared_rightly_is_not_remarked_on(where, output):
    assert not scored(model(where, output, output)).warnings[:-1]  # the last says that max_nfe was reached


@pytest.mark.parametrize(("where", "output"), [("law", "eps"), ("table", "v"), ("flow", "eps"), ("flow", "v")])
def test_the_sign(where, output):
    note = about(scored(model(where, output, output, lambda net: lambda z, t: -net(z, t))))
    assert (
        note is not None and f"seems to predict −{output}, not {output}" in note and "lambda z, t: -net(z, t)" in note
    )


UNTAUGHT = {
    "zeros": lambda net: lambda z, t: torch.zeros_like(z),
    "constants": lambda net: lambda z, t: torch.tensor([0.3, -0.1, 0.2, 0.05]).expand_as(z),
    "noise of its own": lambda net: lambda z, t: (37 * z).sin(),
    "shrunk": lambda net: lambda z, t: 0.7 * net(z, t),
    "half as much again": lambda net: lambda z, t: 1.5 * net(z, t),
    "blurred": lambda net: lambda z, t: 0.6 * net(z, t) + 0.4 * net(z, t).roll(1, 1),
}


@pytest.mark.parametrize("how", UNTAUGHT)
@pytest.mark.parametrize(("where", "output"), [("law", "eps"), ("law", "v"), ("table", "x0"), ("flow", "velocity")])
def test_a_poor_network_is_not_misread(where, output, how):
    """Declared rightly and bad all the same: the bound says so, and no other output is named."""
    bound = scored(model(where, output, output, UNTAUGHT[how]))
    assert about(bound) is None and about(bound, "cut off") is None


def test_no_evaluation_and_no_number_changes(monkeypatch):
    with_readings = scored(model("law", "v", "eps"))
    monkeypatch.setattr(GaussianChain, "observed", lambda self, draws: 0)
    without = scored(model("law", "v", "eps"))
    assert about(with_readings) and not about(without)
    assert with_readings.bits_per_dim == without.bits_per_dim and with_readings.nfe_total == without.nfe_total


def test_the_note_survives_a_restart(tmp_path):
    """A finished evaluation asks no network again, and says the same."""
    state = tmp_path / "state"
    first, again = (scored(model("table", "v", "eps"), state=state) for _ in range(2))
    assert about(first) is not None and about(first) == about(again)


def test_a_small_chain_has_no_pilot_and_is_looked_at_all_the_same():
    """`auto` takes every level twice where that costs less than a pilot."""
    few = nelbo.grids.even(10)
    bound = nelbo.evaluate(model("law", "eps", "v", grid=few), CODES[:12])
    assert bound.estimator["name"] == "exhaustive" and about(bound) is not None
    assert about(nelbo.evaluate(model("law", "eps", "eps", grid=few), CODES[:12])) is None


@pytest.mark.parametrize("where", ["law", "flow"])
def test_an_output_that_is_cut_off(where):
    """ε̂ clamped to ±1; x̂ may be clamped, and is not remarked on."""
    note = about(scored(model(where, "eps", "eps", lambda net: lambda z, t: net(z, t).clamp(-1, 1))), "cut off")
    assert note is not None and "[-1, 1]" in note
    clamped = model(where, "x0", "x0", lambda net: lambda z, t: net(z, t).clamp(-1, 1))
    assert about(scored(clamped), "cut off") is None


@pytest.mark.parametrize("where", SCHEDULES)
def test_the_coefficients_of_a_reading(where):
    """x̂ = a z + b v of an exact network in every convention is the exact x̂."""
    schedule = SCHEDULES[where]
    t = schedule.at(torch.tensor([0.1, 0.5, 1.0]))
    x0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for output in OUTPUTS[where]:
        edm = Output.parse(output).edm
        given = 0.5 if output == "edm_F" else None
        net = testing.as_network(lambda y, logsnr: x0, schedule, output, "logsnr", sigma_data=given)
        shown = z / t.alpha[:, None] if edm else z
        if output == "edm_F":
            shown = shown / ((-t.logsnr).exp() + 0.25).sqrt()[:, None]
        v = net(shown, TimeInput.LOGSNR.of(t, torch.float64))
        for sign in (1, -1):
            a, b = readings.Reading(Output.parse(output), sign, given).coefficients(t, edm)
            torch.testing.assert_close(a[:, None] * z + sign * b[:, None] * v, x0)


def test_the_errors_follow_from_inner_products():
    x, z, v = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = readings.observed(x, z, x + 1, v)
    torch.testing.assert_close(readings.errors(values, 0.3, -1.2), (x - 0.3 * z + 1.2 * v).square().sum(1))
    torch.testing.assert_close(values[:, 6], torch.full((5,), 7.0, dtype=torch.float64))
    torch.testing.assert_close(values[:, 7], v.amax(1))
    assert values[:, 8].tolist() == [1.0] * 5


def test_of_many_elements_a_part_is_looked_at():
    """Sums and counts of the whole within 4 standard errors of the part's; of few elements they are those of all."""
    D = 9 * readings.ELEMENTS
    g = torch.Generator().manual_seed(0)
    x, eps = torch.rand(2, 3, 3, D // 3, generator=g, dtype=torch.float64) * 2 - 1
    z, x0, v = x + eps, 0.9 * x, (2 * eps).clamp(-1, 1)
    part = readings.observed(x, z, x0, v)
    whole = torch.cat([readings.observed(*(t[:, c, :4096] for t in (x, z, x0, v))) for c in range(3)])
    rows = [(p * q).flatten(1) for p, q in ((x, x), (x, z), (z, z), (x, v), (z, v), (v, v))]
    for column, terms in enumerate(rows):
        error = D * terms.std(1) / (D // 9) ** 0.5
        assert bool(((part[:, column] - terms.sum(1)).abs() < 4 * error).all())
    assert part[:, 7].tolist() == [1.0] * 3 and part[:, 9].tolist() == [-1.0] * 3
    share = part[:, [8, 10]] / D
    assert bool(((share - 0.25).abs() < 4 * (0.25 * 0.75 / (D // 9)) ** 0.5).all())
    torch.testing.assert_close(whole[:, 0], x[:, :, :4096].square().sum(2).T.flatten())

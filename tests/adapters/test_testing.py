"""`nelbo.testing`: every law passes on a model that keeps it and fails, by its name, on one that does not."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.errors import UsageError
from nelbo.model.denoiser import TimeInput
from nelbo.process.prediction import Output
from tests.expected import early_end

SHAPE = (2, 3, 3)
DOMAIN = nelbo.DataDomain(SHAPE, bins=16)
CODES = torch.randint(16, (5, *SHAPE), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def good(z, t):
    return torch.tanh(z.mean((1, 2, 3), keepdim=True) + z + 0.001 * t[:, None, None, None])


class Counting:
    """A network with a memory."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, t):
        self.calls += 1
        return good(z, t) + 1e-3 * self.calls


class Dropping(torch.nn.Module):
    """Dropout that does not care whether it is evaluated."""

    def forward(self, z, t):
        return torch.nn.functional.dropout(good(z, t), 0.2, training=True)


def neighbours(z, t):
    return good(z, t) + 0.1 * z.mean(0)


def place(z, t):
    return good(z, t) + torch.arange(len(z))[:, None, None, None] * 0.1


def first_time(z, t):
    return good(z, t[:1].expand(len(z)))


BROKEN = {
    "counting": (Counting(), "deterministic: "),
    "dropping": (Dropping(), "deterministic: "),
    "neighbours": (neighbours, "alone: the prediction of an example is another one alone"),
    "place": (place, "alone: "),
    "first time": (first_time, "own time: "),
    "not finite": (lambda z, t: good(z, t) / (t[:, None, None, None] > 3), "finite: "),
}


def model_of(fn, **options):
    return nelbo.from_callable(fn, schedule=nelbo.schedules.linear(12, 1e-3, 0.3), domain=DOMAIN, **options)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_good_model_passes(precision):
    testing.check_model(model_of(good), CODES, precision=precision)
    learned = model_of(lambda z, t: torch.cat([good(z, t), torch.tanh(z)], 1), variance="learned_range")
    testing.check_model(learned, CODES, precision=precision)
    law = nelbo.from_callable(good, schedule=nelbo.schedules.flow(), domain=DOMAIN, predicts="velocity", time="unit")
    testing.check_model(law, CODES, precision=precision)
    codes = nelbo.exact.CategoricalData([[0.1, 0.2, 0.6, 0.1]] * 2)
    testing.check_model(codes.model(nelbo.schedules.logsnr_linear(5.0, -5.0), nelbo.grids.even(6)), codes.sample(4))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_network_is_told_which_law(name):
    fn, law = BROKEN[name]
    with pytest.raises(AssertionError, match=f"^{law}"):
        testing.check_model(model_of(fn, time="logsnr" if name == "first time" else "index"), CODES)


def test_conditions():
    def fn(z, t, y):
        return good(z, t) * (1 + y[:, None, None, None])

    testing.check_model(model_of(fn), CODES, {"y": LABELS})
    with pytest.raises(AssertionError, match=r"^own condition: "):
        testing.check_model(model_of(lambda z, t, y: good(z, t)), CODES, {"y": LABELS})
    testing.check_model(model_of(lambda z, t, y: good(z, t)), CODES, {"y": LABELS}, honours_condition=False)
    with pytest.raises(AssertionError, match=r"^alone: "):
        testing.check_model(model_of(lambda z, t, y: good(z, t) * (1 + y.double().mean())), CODES, {"y": LABELS})
    with pytest.raises(UsageError, match=r"with \(z, time\) and no condition.*'y'\nhint: .*condition='y'"):
        testing.check_model(model_of(fn), CODES)
    with pytest.raises(UsageError, match=r"and condition 'label'"):
        testing.check_model(model_of(fn), CODES, {"label": LABELS})
    with pytest.raises(UsageError, match="at least 3"):
        testing.check_model(model_of(good), CODES[:2])


SCHEDULE = nelbo.schedules.logsnr_linear(6.0, -6.0)


@pytest.mark.parametrize("said", Output, ids=lambda o: o.value)
@pytest.mark.parametrize("truth", Output, ids=lambda o: o.value)
def test_a_wrong_declaration_is_caught(truth, said):
    """Every pair of outputs, on the VP path: right ones pass, wrong ones break, x0 and D being told apart by z/α."""
    sigma_data = {o: 0.5 if o is Output.EDM_F else None for o in Output}

    def make(net):
        return nelbo.from_callable(
            net,
            schedule=SCHEDULE,
            domain=nelbo.DataDomain((3,)),
            predicts=said,
            time="logsnr",
            sigma_data=sigma_data[said],
        )

    def check():
        testing.check_adapter(make, schedule=SCHEDULE, predicts=truth, time="logsnr", sigma_data=sigma_data[truth])

    if said is truth:
        check()
    else:
        with pytest.raises(AssertionError, match="x̂ is not the exact posterior mean at log-SNR"):
            check()


def test_a_wrong_time_is_caught():
    """Reversed, shifted by one, σ/α for σ, and a rounded step."""
    table = nelbo.schedules.linear(20, 1e-3, 0.3)
    wrongs = {
        "reversed": ("unit", lambda net: lambda z, t: net(z, 1 + 1 / 20 - t)),
        "off by one": ("index", lambda net: lambda z, t: net(z, (t + 1).clamp(max=19))),
        "noise to signal": ("sigma", lambda net: lambda z, s: net(z, s / (1 + s**2).sqrt())),
    }
    for time, wrong in wrongs.values():
        for wrapper, right in ((lambda net: net, True), (wrong, False)):

            def make(net, wrapper=wrapper, time=time):
                domain = nelbo.DataDomain((3,))
                return nelbo.from_callable(wrapper(net), schedule=table, domain=domain, time=time)

            if right:
                testing.check_adapter(make, schedule=table, time=time)
            else:
                with pytest.raises(AssertionError, match="the output and the time that the adapter declares"):
                    testing.check_adapter(make, schedule=table, time=time)


def test_another_schedule_is_caught():
    """An adapter that rebuilds the table in float32 is off by more than rounding."""
    betas = torch.linspace(5e-4, 0.1, 200)
    bar32 = torch.cumprod(1 - betas, 0)

    def make(schedule):
        return lambda net: nelbo.from_callable(net, schedule=schedule, domain=nelbo.DataDomain((3,)))

    exact = nelbo.schedules.from_betas(betas.double())
    testing.check_adapter(make(exact), schedule=exact)
    with pytest.raises(AssertionError, match="is not that of the exact model"):
        testing.check_adapter(make(nelbo.schedules.from_alphas_cumprod(bar32)), schedule=exact)


@pytest.mark.parametrize("time", TimeInput, ids=lambda t: t.value)
def test_what_was_told_is_undone(time):
    """Levels → the network's time → the same levels, on every path."""
    for schedule in (nelbo.schedules.linear(30, 1e-3, 0.3), nelbo.schedules.linear(30, 1e-3, 0.3).interpolated()):
        for path in ("vp", "ve", "flow"):
            levels = schedule.on(path).at(torch.arange(1, 31, dtype=torch.float64) / 30)
            again = testing.levels_of(schedule.on(path), time, time.of(levels, torch.float64))
            torch.testing.assert_close(again.logsnr, levels.logsnr, rtol=1e-9, atol=1e-9)
    if time is TimeInput.INDEX:
        with pytest.raises(UsageError, match="a table position on a 'flow' schedule"):
            testing.levels_of(nelbo.schedules.flow(), time, torch.zeros(1))


@early_end
def test_a_network_that_writes_into_its_input_does_no_harm():
    def writing(z, t):
        value = good(z, t)
        z.zero_()
        t.zero_()
        return value

    bounds = [
        nelbo.evaluate(model_of(fn), CODES, estimator="exhaustive", precision="float64") for fn in (good, writing)
    ]
    assert bounds[0].bits_per_dim == bounds[1].bits_per_dim


def test_misuse():
    def real(net):
        return nelbo.from_callable(net, schedule=SCHEDULE, domain=nelbo.DataDomain((3,)), time="logsnr")

    with pytest.raises(UsageError, match="without sigma_data"):
        testing.check_adapter(real, schedule=SCHEDULE, predicts="edm_F", time="logsnr")
    with pytest.raises(UsageError, match="3 real numbers"):
        testing.check_adapter(lambda net: model_of(net), schedule=nelbo.schedules.linear(12, 1e-3, 0.3))
    with pytest.raises(UsageError, match="a velocity on a table"):
        net = testing.as_network(lambda y, logsnr: y, nelbo.schedules.linear(5), "velocity")
        net(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))

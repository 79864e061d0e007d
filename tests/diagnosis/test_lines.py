"""The lines that a diagnosis gives a user to write, run as they stand: each does what its declaration did."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch

import nelbo
from nelbo.diagnosis import schedules, steps, times
from nelbo.model.denoiser import TimeInput

TABLE = nelbo.schedules.linear(20, 1e-3, 0.3)
FLOW = nelbo.schedules.flow()
LAW = nelbo.schedules.logsnr_linear(6.0, -6.0)


@pytest.mark.parametrize("key", times.CONVENTIONS)
def test_the_line_of_a_time(key):
    """time="…" with the function of it that stands beside it is the convention's own formula."""
    convention = times.CONVENTIONS[key]
    levels, T = (FLOW.at(torch.linspace(0.1, 0.9, 5)), 1) if convention.flow else (TABLE.at_index(torch.arange(20)), 20)
    line = re.fullmatch(r'time="(\w+)"(?:, (lambda .*))?', convention.change)
    assert line is not None
    value = TimeInput(line[1]).of(levels, torch.float64)
    if line[2]:
        value = eval(line[2], {"net": lambda z, t: t, "T": T})(None, value)
    torch.testing.assert_close(value, convention.of(levels, T), rtol=1e-12, atol=1e-12)


LINES = {
    (name, sibling.name): (schedule, sibling)
    for name, schedule in {"table": TABLE, "law": LAW, "interpolated": TABLE.interpolated()}.items()
    for sibling in schedules.siblings(
        SimpleNamespace(model=SimpleNamespace(schedule=schedule, denoiser=SimpleNamespace(time=TimeInput.UNIT)))
    )
}


@pytest.mark.parametrize(("name", "sibling"), LINES)
def test_the_line_of_a_schedule(name, sibling):
    """The schedule that it makes, to the six digits that are printed."""
    schedule, one = LINES[name, sibling]
    line = re.fullmatch("schedule=(.*)", one.change)
    assert line is not None
    alphas = torch.sigmoid(schedule.table) if hasattr(schedule, "table") else None
    names = {"nelbo": nelbo, "torch": torch, "dataclasses": dataclasses, "schedule": schedule, "alphas": alphas}
    written = eval(line[1], names)
    meant = schedule.on(one.path) if isinstance(one, schedules.OnPath) else one.make(schedule)
    at = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    assert written.table_length == meant.table_length and written.path is meant.path
    torch.testing.assert_close(written.at(at).logsnr, meant.at(at).logsnr, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("key", ["square", "root", "reversed"])
@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_the_line_of_a_table_of_variances(key, kind):
    """Whatever the table was given as."""
    values = torch.linspace(0.01, 0.2, 5, dtype=torch.float64)
    model = SimpleNamespace(reverse=SimpleNamespace(variance=nelbo.model.reverse.VarianceTable(values)))
    seen = {}
    subject = SimpleNamespace(model=model, redeclared=lambda **changes: seen.update(changes))
    one = steps.WithVariance(key)
    one.of(subject)
    table = values.clone() if kind is torch.tensor else values.tolist()
    written = eval(one.change.removeprefix("variance="), {"table": table, "torch": torch})
    torch.testing.assert_close(written.double(), seen["variance"].table, rtol=1e-6, atol=1e-9)

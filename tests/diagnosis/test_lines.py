"""The lines that a diagnosis gives a user to write, run as they stand: each does what its declaration did."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch

import nelbo
from nelbo.diagnosis import domains, schedules, steps, times
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


PIXELS = (torch.rand(50, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3) / 0.35
PIXELS[0, 0, 0, :2] = torch.tensor([-0.3 / 0.35, 0.7 / 0.35], dtype=torch.float64)


@pytest.mark.parametrize("scaled", domains._scales(PIXELS), ids=lambda scaled: scaled.name)
def test_the_line_of_a_scale(scaled):
    """Its domain sees the data as its name says; the last has the ends of pixels in 0..1 whose mean was taken off."""
    domain = eval(scaled.change, {"DataDomain": nelbo.DataDomain, "torch": torch, "shape": (1, 4, 4)})
    formula = scaled.label.rpartition(", ")[2].replace("−", "-").replace("2 x", "2 * x")
    u = domain.values(PIXELS)
    torch.testing.assert_close(u, eval(formula, {"x": PIXELS}), rtol=1e-4, atol=1e-4)
    if scaled.unusual:
        ends = torch.stack([u.min(), u.max()])
        torch.testing.assert_close(ends, torch.tensor([-1.0, 1.0]).double(), rtol=0, atol=1e-5)


def test_no_scale_is_there_twice():
    """Values that have mean 0 and deviation 1, or fill −1 … 1, have no sibling that leaves them as they are."""
    for data in ((PIXELS - PIXELS.mean()) / PIXELS.std(), 0.7 * PIXELS - 0.4):
        scales = domains._scales(data)
        assert len({(round(s.mean, 2), round(s.scale, 2)) for s in scales}) == len(scales)
        assert all(abs(s.mean) > 1e-3 or abs(s.scale - 1) > 1e-3 for s in scales)

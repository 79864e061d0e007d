"""What is declared rightly stands, and what costs little cannot be told apart from it."""

from __future__ import annotations

import pytest

import nelbo
from nelbo import testing
from tests.diagnosis.cases import CODES, DOMAIN, LAW, diagnosed, right


def test_what_is_declared_rightly_is_the_first_row():
    """And differences are paired: another path moves the bound by far less than its own error."""
    diagnosis = diagnosed("law")
    assert right(diagnosis) and diagnosis.best.as_declared and diagnosis.unit == "bits/dim"
    row = next(row for row in diagnosis.rows if row.name == "path ve")
    assert row.difference_error < 0.3 * row.standard_error


@pytest.mark.slow
def test_what_costs_little_cannot_be_told_apart():
    """On a fine table one step of time is next to nothing."""
    fine = nelbo.schedules.linear(1000)
    net = testing.as_network(testing.oracle(LAW), fine, "eps", "index")
    late = nelbo.from_callable(
        lambda z, i: net(z, (i - 1).clamp(0)), schedule=fine, domain=DOMAIN, predicts="eps", time="index"
    )
    diagnosis = nelbo.diagnose(late, CODES)
    assert right(diagnosis) and "cannot be told apart" in diagnosis.verdict.text
    assert "time index + 1" in diagnosis.verdict.alike

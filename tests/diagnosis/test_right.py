"""What is declared rightly stands: no warning of an evaluation and no verdict of a diagnosis calls it wrong."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

import nelbo
from nelbo import testing
from tests.diagnosis.cases import ALARMS, CODES, DOMAIN, LAW, SCHEDULES, VALUES, diagnosed, model, right
from tests.diagnosis.mistakes import COARSE, COARSE_CODES, REAL
from tests.diagnosis.test_inspection import GROUPED, GROUPS, LABELS, by_group
from tests.training.cases import BINS, codes, small

UNIFORM = nelbo.exact.CategoricalData(torch.full((12, 17), 1 / 17))
UNEVEN = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1]] * 12))


def on_table(schedule, **declared):
    """The exact network of ε on another table of 100 steps."""
    net = testing.as_network(testing.oracle(LAW), schedule, "eps", "index")
    clamped = lambda z, t: net(z, t.double().round().clamp(0, 99))  # noqa: E731
    return nelbo.from_callable(clamped, schedule=schedule, domain=DOMAIN, predicts="eps", time="index", **declared)


def grouped():
    declared = {"schedule": SCHEDULES["law"], "domain": DOMAIN, "predicts": "v", "time": "logsnr"}
    return nelbo.from_callable(by_group, **declared)


RIGHT = {
    **{where: (lambda where=where: model(where), CODES, None) for where in SCHEDULES},
    "cosine": (lambda: on_table(nelbo.schedules.cosine(100)), CODES, None),
    "variance β": (lambda: on_table(SCHEDULES["table"], variance="beta"), CODES, None),
    "clipped": (lambda: on_table(SCHEDULES["table"], clip=True), CODES, None),
    "x̂ on a law": (lambda: model("law", wrap=lambda net: exact("x0"), predicts="x0"), CODES, None),
    "score on a law": (lambda: model("law", wrap=lambda net: exact("score"), predicts="score"), CODES, None),
    "17 bins": (lambda: model("law", domain=COARSE), COARSE_CODES, None),
    "real values on a law": (lambda: model("law", domain=REAL), VALUES, None),
    "real values of a flow": (lambda: model("flow", domain=REAL), VALUES, None),
    "an even grid": (lambda: model("law", grid=nelbo.grids.even(20)), CODES, None),
    "conditions": (grouped, DOMAIN.codes(GROUPED), {"y": LABELS}),
    "the oracle of a Gaussian": (
        lambda: GROUPS[1].model(SCHEDULES["law"], nelbo.grids.continuous()), GROUPS[1].sample(64), None,
    ),
    "the oracle of another Gaussian": (
        lambda: GROUPS[2].model(SCHEDULES["law"], nelbo.grids.even(20)), GROUPS[2].sample(64), None,
    ),
    "the oracle of uniform codes": (
        lambda: UNIFORM.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous()), UNIFORM.sample(64),
        None,
    ),
    "the oracle of uneven codes": (
        lambda: UNEVEN.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(20)), UNEVEN.sample(64), None,
    ),
}  # fmt: skip


def exact(output: str):
    """The exact network of another output on the law."""
    return testing.as_network(testing.oracle(LAW), SCHEDULES["law"], output, "logsnr")


def stands(one, data, condition=None, max_nfe: int = 700) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bound = nelbo.evaluate(one, data, max_nfe=1200, condition=condition)
        diagnosis = nelbo.diagnose(one, data, max_nfe=max_nfe, condition=condition)
    alarms = [note for note in bound.warnings if re.search(ALARMS, note)]
    assert not alarms, [*alarms, *caught]
    assert right(diagnosis), diagnosis


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_it_stands(name):
    make, data, condition = RIGHT[name]
    stands(make(), data, condition)


RECIPES = {
    "a categorical head": {},
    "a mixture head": {"net": {"head": "mixture"}},
    "a cosine table": {"schedule": {"name": "cosine", "T": 20}, "levels": 20},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_what_nelbo_trained_stands(name, tmp_path):
    recipe = {"steps": 200, **RECIPES[name]}
    nelbo.train(codes(), tmp_path / "run", config=small(bins=BINS, **recipe))
    stands(tmp_path / "run", codes(seed=3))


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

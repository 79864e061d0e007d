"""`Checks`: what passes, what fails, and that nothing passes by accident."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from nelbo.equations import check as module
from nelbo.equations.check import Checks, check, largest

NAN = math.nan


def only(c: Checks):
    assert len(c.rows) == 1
    return c.rows[0]


@pytest.mark.parametrize("wrap", [float, np.float64, lambda v: np.array([0.0, v]), lambda v: torch.tensor([v, 0.0])])
def test_every_kind_of_number_is_taken(wrap):
    c = Checks("x")
    c.holds("below", wrap(-0.5), 0.5)
    c.must_fail("above", wrap(-0.5), 0.5)
    assert c.ok and [r.observed for r in c.rows] == [0.5, 0.5]
    c.holds("too large", wrap(0.6), 0.5)
    assert not c.ok


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("holds", (NAN, 1.0)),
        ("holds", (np.array([0.0, NAN]), 1.0)),
        ("holds", (np.array([]), 1.0)),
        ("holds", (math.inf, 1e300)),
        ("must_fail", (NAN, 1e-9)),
        ("must_fail", (torch.tensor([5.0, NAN]), 1.0)),
        ("must_fail", (torch.tensor([]), 1.0)),
        ("must_fail", (0.9, 1.0)),
        ("z", (NAN, 0.0, 1.0)),
        ("z", (0.0, 0.0, NAN)),
        ("z", (0.0, 0.0, 0.0)),
        ("z", (0.0, 0.0, -1.0)),
        ("z", (np.zeros(2), 0.0, np.array([1.0, 0.0]))),
        ("z", (4.1, 0.0, 1.0)),
        ("z_must_fail", (9.0, 0.0, NAN)),
        ("z_must_fail", (9.0, 0.0, 0.0)),
        ("z_must_fail", (7.9, 0.0, 1.0)),
        ("true", (False, 1.0)),
        ("info", (NAN,)),
    ],
)
def test_nothing_doubtful_passes(kind, arguments):
    c = Checks("x")
    c.true("another", True)
    getattr(c, kind)("row", *arguments)
    assert not c.rows[1].ok and not c.ok
    assert c.rows[1].word == "FAILS"


def test_z_is_elementwise():
    c = Checks("x")
    c.z("two", np.array([1.0, 2.0]), torch.tensor([0.0, 0.0]), np.array([1.0, 0.5]))
    assert only(c).observed == 4.0 and c.ok
    c.z_must_fail("one is enough", np.array([0.0, 9.0]), 0.0, 1.0)
    assert c.ok


def test_a_floor_that_lets_everything_fail_is_refused():
    for kind, arguments in (
        ("must_fail", (1.0, 0.0)),
        ("must_fail", (1.0, NAN)),
        ("z_must_fail", (1.0, 0.0, 1.0, -1.0)),
    ):
        with pytest.raises(ValueError, match="would let every form fail"):
            getattr(Checks("x"), kind)("row", *arguments)


def test_figures_alone_are_no_check():
    c = Checks("x")
    assert not c.ok
    c.info("a figure", 3.0)
    assert only(c).ok and not c.ok


def test_names_are_used_once():
    c = Checks("x")
    c.true("row", True)
    with pytest.raises(ValueError, match="two rows named 'row'"):
        c.true("row", True)


def test_rows_as_json():
    c = Checks("x")
    c.holds("h", np.float64(0.25), 0.5)
    c.true("t", np.bool_(True))
    c.true("t with a figure", torch.tensor(True), torch.tensor(2.0))
    c.must_fail("nan", NAN, 0.5)
    assert json.loads(json.dumps([r.to_dict() for r in c.rows], allow_nan=False)) == [
        {"name": "h", "kind": "holds", "expected": "<= 0.5", "observed": 0.25, "ok": True},
        {"name": "t", "kind": "true", "expected": "true", "observed": True, "ok": True},
        {"name": "t with a figure", "kind": "true", "expected": "true", "observed": 2.0, "ok": True},
        {"name": "nan", "kind": "must_fail", "expected": ">= 0.5", "observed": "nan", "ok": False},
    ]
    assert [r.word for r in c.rows] == ["holds", "holds", "holds", "FAILS"]


def test_largest():
    assert largest(torch.tensor([[-3.0, 1.0]])) == 3.0
    assert largest(torch.tensor([1.0], requires_grad=True)) == 1.0
    assert math.isnan(largest(np.array([NAN, 1.0])))


def test_an_entry_has_one_check(monkeypatch):
    monkeypatch.setattr(module, "CHECKS", {})
    first = check("some-id")(lambda c: None)
    assert list(module.CHECKS.items()) == [("some-id", first)]
    check("some-id")(first)  # the same place: a module imported again
    with pytest.raises(ValueError, match="second check"):
        check("some-id")(lambda c: None)

"""What the tables of this folder claim together, and that a row that no longer applies says so."""

from __future__ import annotations

import pytest

from nelbo.equations.derivation import derivations
from nelbo.equations.registry import catalogue
from tests.maths import test_units as units
from tests.mutations import test_bound, test_contrast, test_latent, test_model, test_process, test_tokens, test_verbs
from tests.mutations.breaks import apply
from tests.mutations.functions import function_at
from tests.mutations.places import call, number, operation

TABLES = (test_process, test_model, test_bound, test_verbs, test_tokens, test_contrast, test_latent)
BREAKS = [row for table in TABLES for row in table.BREAKS]


def test_every_entry_and_every_derivation_notices_a_break():
    assert {c for row in BREAKS for c in row.checks if isinstance(c, str)} == set(catalogue()) | set(derivations())


def test_formulas_of_every_room_are_broken():
    rooms = {function_at(row.target).__module__.split(".")[1] for row in BREAKS}
    assert rooms == {
        "maths",
        "data",
        "process",
        "model",
        "bound",
        "likelihood",
        "training",
        "sampling",
        "tightening",
        "codec",
    }


def test_a_stale_break_says_so(monkeypatch):
    with pytest.raises(AssertionError, match=r"has call\('sqrt'\) 0 times: update the break"):
        apply(monkeypatch, "bits_per_dim", call("sqrt").drop())
    with pytest.raises(AssertionError, match=r"has operation\('\+'\) 2 times: update the break"):
        apply(monkeypatch, "gaussian:log_density", operation("+").keep_left())
    with pytest.raises(AssertionError, match="has no t: update the break"):
        apply(monkeypatch, "bits_per_dim", operation("*").becomes("t"))
    with pytest.raises(AssertionError, match="of_no_module is defined in no module: update the break"):
        apply(monkeypatch, "of_no_module", number(1).to(2))
    with pytest.raises(AssertionError, match=r"_given is defined in \['nelbo"):
        apply(monkeypatch, "_given", number(1).to(2))


def test_a_break_is_undone(monkeypatch):
    with monkeypatch.context() as patch:
        apply(patch, "bits_per_dim", operation("*").keep_left())
        with pytest.raises(AssertionError):
            units.test_uniform_bytes_have_eight_bits()
    units.test_uniform_bytes_have_eight_bits()

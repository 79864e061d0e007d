"""Groups F to J of the catalogue: every entry holds, bites on wrong forms, and notices a broken library."""

from __future__ import annotations

import pytest

from nelbo.equations.registry import catalogue
from nelbo.equations.verify import run
from tests.equations.breaks_loss import BREAKS
from tests.mutations.mutate import apply

GROUPS = {"F": 21, "G": 16, "H": 4, "I": 9, "J": 2}
IDS = [e.id for e in catalogue().values() if e.group[0] in GROUPS]


def test_the_groups_are_complete():
    counts = {letter: sum(e.group.startswith(f"{letter} ") for e in catalogue().values()) for letter in GROUPS}
    assert counts == GROUPS


@pytest.mark.parametrize("id", IDS)
def test_entry_holds(id: str):
    result = run(id)
    assert result.ok, str(result)
    kinds = {row.kind for row in result.checks}
    assert kinds & {"holds", "z"}, "no row compares figures"
    assert "must_fail" in kinds or "z_must_fail" in kinds, "no wrong form is refuted"


@pytest.mark.parametrize(("what", "target", "old", "new", "id"), BREAKS, ids=[f"{b[0]} -> {b[-1]}" for b in BREAKS])
def test_a_broken_formula_fails_its_entry(what, target, old, new, id, monkeypatch: pytest.MonkeyPatch):
    apply(monkeypatch, target, old, new)
    result = run(id)
    assert not result.ok, f"{what}: not noticed"
    assert not any("ran to its end" in row.name for row in result.checks), "it was an error that was noticed"


def test_most_entries_are_guarded():
    guarded = {b[-1] for b in BREAKS}
    assert guarded <= set(IDS)
    assert len(guarded) >= 40

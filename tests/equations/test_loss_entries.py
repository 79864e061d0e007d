"""Groups F to J of the catalogue: every entry holds, and bites on wrong forms."""

from __future__ import annotations

import pytest

from nelbo.equations.registry import catalogue
from nelbo.equations.verify import run

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

"""The catalogue notices a broken library: formulas broken on purpose, each caught by the entry that states it.

The rows lie in `breaks_*.py` beside this file, each a list BREAKS of (what is broken, function, text that it holds
exactly once, broken text, entry). The checks are those that `nelbo equations verify` runs, unchanged; that they pass
on the library as it stands is tested in `test_verify.py`. Groups A to C are run here, D and E in
`test_bound_entries.py`, F to J in `test_loss_entries.py`; the list as a whole is looked at here.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from nelbo.equations.registry import catalogue
from tests.equations.breaks_forward import BREAKS
from tests.equations.noticed import assert_noticed

HERE = Path(__file__).parent
FILES = sorted(path.stem for path in HERE.glob("breaks_*.py"))
ALL = [row for name in FILES for row in importlib.import_module(f"tests.equations.{name}").BREAKS]


@pytest.mark.parametrize(("what", "target", "old", "new", "id"), BREAKS, ids=[f"{b[0]} -> {b[-1]}" for b in BREAKS])
def test_a_broken_formula_fails_its_entry(what, target, old, new, id, monkeypatch: pytest.MonkeyPatch):
    assert_noticed(monkeypatch, what, target, old, new, id)


def test_every_entry_of_these_groups_is_guarded():
    assert {row[-1] for row in BREAKS} == {e.id for e in catalogue().values() if e.letter in "ABC"}


def test_every_file_of_breaks_is_run():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
    assert set(re.findall(r"from tests\.equations\.(breaks_\w+) import BREAKS", tests)) == set(FILES)


def test_the_list_is_long_and_broad():
    """25 different breaks were asked for; these are breaks of the library, never of the catalogue itself."""
    assert len({(target, old, new) for _, target, old, new, _ in ALL}) >= 75
    assert len({target for _, target, *_ in ALL}) >= 30
    assert {row[-1] for row in ALL} <= set(catalogue())
    assert not any(target.startswith("nelbo.equations") for _, target, *_ in ALL)

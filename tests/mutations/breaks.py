"""A row of the tables of this folder: a formula broken on purpose, and what has to notice it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest

from nelbo.equations.derivation import derivations
from nelbo.equations.derivation import run as run_derivation
from nelbo.equations.verify import run as run_entry
from tests.mutations.functions import compiled, function_at, tree_of
from tests.mutations.places import Edit

Check = Callable[[], None] | str


class Break:
    """`edit` of the function `target` is noticed by each check: a function that takes nothing and raises
    AssertionError, or the id of an entry or of a derivation of the catalogue, whose figures then disagree."""

    def __init__(self, what: str, target: str, edit: Edit, *checks: Check) -> None:
        assert checks, f"{what}: nothing notices it"
        self.what, self.target, self.edit, self.checks = what, target, edit, checks


def each_is_noticed(breaks: Sequence[Break]) -> Callable[..., None]:
    """A test of each break with each of its checks.

    AssertionError, so that the tests cannot even be collected, where a row no longer finds its function or place.
    """
    stale = [problem for row in breaks if (problem := _problem(row))]
    assert not stale, "\n".join(["rows of tests/mutations that no longer apply:", *stale])
    cases = [pytest.param(b, check, id=f"{b.what} -> {_name(check)}") for b in breaks for check in b.checks]

    @pytest.mark.filterwarnings("ignore")  # what is broken may well be warned of
    @pytest.mark.parametrize(("broken", "check"), cases)
    def test(broken, check, monkeypatch):
        assert_noticed(monkeypatch, broken, check)

    return test


def apply(monkeypatch: pytest.MonkeyPatch, target: str, edit: Edit) -> None:
    """Run with the broken function until the monkeypatch is undone; its new code reaches all who imported it."""
    function = function_at(target)
    monkeypatch.setattr(function, "__code__", compiled(function, edit.apply(tree_of(function))))


def _problem(row: Break) -> str | None:
    try:
        row.edit.apply(tree_of(function_at(row.target)))
    except AssertionError as error:
        return f"{row.what}: {error}"
    return None


def assert_noticed(monkeypatch: pytest.MonkeyPatch, broken: Break, check: Check) -> None:
    """The check passes on the code as it stands and refuses the broken one: by a figure, not by an accident."""
    if isinstance(check, str):
        apply(monkeypatch, broken.target, broken.edit)
        failed = [row for row in _run(check).checks if not row.ok]
        assert failed, f"{broken.what}: not noticed by {check}"
        assert not any("ran to its end" in row.name for row in failed), f"an error was noticed, not a figure: {failed}"
        return
    assert _passes(check)
    apply(monkeypatch, broken.target, broken.edit)
    with pytest.raises(AssertionError):
        check()


def _run(id: str):
    return run_derivation(id) if id in derivations() else run_entry(id)


@functools.cache
def _passes(check: Callable[[], None]) -> bool:
    """Once a check, whatever the number of its breaks. That the catalogue holds is tested with the catalogue."""
    check()
    return True


def _name(check: Check) -> str:
    if isinstance(check, str):
        return check
    return f"{check.func.__name__}({check.args[0]})" if isinstance(check, functools.partial) else check.__name__

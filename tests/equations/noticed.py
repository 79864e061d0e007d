"""A break of the library, and the entry of the catalogue that has to notice it."""

from __future__ import annotations

import pytest

from nelbo.equations.verify import run
from tests.mutations.mutate import apply


def assert_noticed(monkeypatch: pytest.MonkeyPatch, what: str, target: str, old: str, new: str, id: str) -> None:
    """With `old` replaced by `new` in `target` the check of `id` fails: by a figure, not by an error."""
    apply(monkeypatch, target, old, new)
    failed = [row for row in run(id).checks if not row.ok]
    assert failed, f"{what}: not noticed by {id}"
    assert not any("ran to its end" in row.name for row in failed), f"an error was noticed, not a figure: {failed}"

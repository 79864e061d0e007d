"""Tests made of tables: calls that are refused, and checks that a module defines."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest

from nelbo.errors import UsageError


def refusals(*rows: tuple) -> Callable[..., None]:
    """A test of every row (call, pattern) or (call, error, pattern): the call raises the error, by default UsageError,
    and its text and hint match the pattern."""

    @pytest.mark.parametrize("row", rows, ids=map(str, range(len(rows))))
    def test(row):
        call, *error, pattern = row
        with pytest.raises(*error or [UsageError], match=pattern):
            call()

    return test


def every_check(*modules: types.ModuleType) -> Callable[..., None]:
    """A test of every function of the modules that is named check_… and takes nothing."""
    functions = [f for m in modules for f in vars(m).values() if getattr(f, "__module__", None) == m.__name__]
    checks = {f.__name__: f for f in functions if f.__name__.startswith("check_") and not f.__code__.co_argcount}

    @pytest.mark.parametrize("name", checks)
    def test(name):
        checks[name]()

    return test

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


def every_check(module: types.ModuleType) -> Callable[..., None]:
    """A test of every function of the module that is named check_… and takes nothing."""
    functions = {name: value for name, value in vars(module).items() if isinstance(value, types.FunctionType)}
    own = {n: f for n, f in functions.items() if n.startswith("check_") and f.__module__ == module.__name__}
    names = [name for name, function in own.items() if not function.__code__.co_argcount]

    @pytest.mark.parametrize("name", names)
    def test(name):
        own[name]()

    return test

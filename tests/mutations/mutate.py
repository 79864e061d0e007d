"""Break one formula on purpose: replace one expression in a function's source and swap the compiled code in.

The text must occur exactly once in the function, so that a break that no longer applies fails loudly instead of
passing for the wrong reason. Swapping `__code__` reaches every place that has imported the function by name.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import textwrap
import types

import pytest


def function_at(target: str) -> types.FunctionType:
    """`package.module:Class.name` → the plain function behind it (of a method, property or classmethod too)."""
    module, _, path = target.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    assert isinstance(found, types.FunctionType), f"{target} is no function"
    return found


def mutated(function: types.FunctionType, old: str, new: str) -> types.CodeType:
    """The code of `function` with `old` replaced by `new`. AssertionError unless `old` is there exactly once."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} holds {old!r} {source.count(old)} times: update the break"
    tree = ast.parse(source.replace(old, new))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    flags = __future__.annotations.compiler_flag
    module = compile(tree, f"<mutated {function.__qualname__}>", "exec", flags=flags, dont_inherit=True)
    return next(c for c in module.co_consts if isinstance(c, types.CodeType) and c.co_name == function.__name__)


def apply(monkeypatch: pytest.MonkeyPatch, target: str, old: str, new: str) -> None:
    """Run with the broken function until the monkeypatch is undone."""
    function = function_at(target)
    monkeypatch.setattr(function, "__code__", mutated(function, old, new))

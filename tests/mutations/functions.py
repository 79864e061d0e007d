"""A function of the library by its name alone, its syntax tree, and code of a changed tree to run in its stead."""

from __future__ import annotations
import __future__

import ast
import functools
import importlib
import inspect
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import nelbo

PACKAGE = Path(nelbo.__file__).parent


@functools.cache
def _definitions() -> dict[str, list[str]]:
    """Qualified name of every function and method of the library → the modules that define it.

    Left out are the rooms that show or check what the library computes; no formula is broken there.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in ("equations", "testing", "report", "cli"):
            continue
        module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(module)
            elif isinstance(node, ast.ClassDef):
                for name in {item.name for item in node.body if isinstance(item, ast.FunctionDef)}:
                    found.setdefault(f"{node.name}.{name}", []).append(module)
    return found


def function_at(target: str) -> types.FunctionType:
    """The plain function behind `name`, `Class.name` or, where several modules have it, `end.of.module:name`."""
    end, _, path = target.rpartition(":")
    modules = [m for m in _definitions().get(path, []) if f".{m}".endswith(f".{end}" if end else "")]
    assert len(modules) == 1, f"{target} is defined in {modules or 'no module'}: update the break"
    value = importlib.import_module(modules[0])
    for name in path.split("."):
        value = inspect.getattr_static(value, name)
    function = plain(value)
    assert function is not None, f"{target} is no function"
    return function


def plain(value: object) -> types.FunctionType | None:
    """The function inside a method, property, classmethod or wrapper; None where there is none."""
    for name in ("fget", "__func__", "func"):
        value = getattr(value, name, None) or value
    if callable(value) and not isinstance(value, type):
        value = inspect.unwrap(value)
    return value if isinstance(value, types.FunctionType) else None


def tree_of(function: types.FunctionType) -> ast.FunctionDef:
    """Its definition as a syntax tree, without decorators."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    return definition


def compiled(function: types.FunctionType, definition: ast.FunctionDef) -> types.CodeType:
    """Code of the definition that can stand for the function's own: same free variables."""
    outer = ast.parse("def outer():\n    pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [
        *([] if definition.name in function.__code__.co_freevars else [ast.Global([definition.name])]),
        *(ast.parse(f"{name} = None").body[0] for name in function.__code__.co_freevars),
        definition,
        ast.Return(ast.Name(definition.name, ast.Load())),
    ]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    flags = __future__.annotations.compiler_flag
    code = compile(module, f"<broken {function.__qualname__}>", "exec", flags=flags, dont_inherit=True)
    inner = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    return next(c for c in inner.co_consts if isinstance(c, types.CodeType) and c.co_name == function.__name__)


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those of annotations."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)

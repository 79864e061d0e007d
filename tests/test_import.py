"""The public face: what `import nelbo` costs and offers, and that every documented example is true."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nelbo

MODULES = sorted(m.name for m in pkgutil.walk_packages(nelbo.__path__, "nelbo.") if not m.name.endswith("__main__"))
CONTRACT = {
    "DataDomain",
    "DiffusionModel",
    "evaluate",
    "exact",
    "from_callable",
    "grids",
    "load",
    "sample",
    "schedules",
    "train",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_free():
    """`import nelbo` loads none of the heavy packages; the first name that needs torch does."""
    heavy = "{'torch', 'numpy', 'safetensors', 'pydantic', 'typer', 'rich', 'matplotlib', 'jinja2', 'sklearn'}"
    told = run(
        f"import sys, nelbo; dir(nelbo); nelbo.__version__; print(sorted({heavy} & set(sys.modules)));"
        "nelbo.DataDomain; print('torch' in sys.modules)"
    )
    assert told.splitlines() == ["[]", "True"]


def test_evaluating_needs_no_extras():
    """What draws, reads digits or trains is loaded by those who ask for it."""
    told = run(
        "import sys, nelbo; nelbo.evaluate; nelbo.sample; nelbo.from_callable;"
        "print(sorted({'matplotlib', 'jinja2', 'sklearn', 'PIL', 'typer', 'rich', 'accelerate', 'datasets'}"
        " & set(sys.modules)))"
    )
    assert told == "[]"


def test_the_names():
    assert set(nelbo.__all__) >= CONTRACT
    assert nelbo.__all__ == sorted(set(nelbo.__all__)) == dir(nelbo)
    assert set(nelbo.__all__) - {"__version__"} == set(nelbo._NAMES)
    for name in nelbo.__all__:
        assert getattr(nelbo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        nelbo.evalute  # noqa: B018


def test_type_checkers_see_the_same_names():
    """The imports under TYPE_CHECKING and the lazy table name the same things."""
    tree = ast.parse(Path(nelbo.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            target = getattr(importlib.import_module(node.module), alias.name, None)
            seen[alias.asname or alias.name] = target or importlib.import_module(f"{node.module}.{alias.name}")
    assert seen == {name: getattr(nelbo, name) for name in nelbo._NAMES}


def public(owner) -> list[tuple[str, object]]:
    """Public functions and classes of a module, and the public methods that those classes define themselves."""
    found = []
    for name, value in vars(owner).items():
        inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if name.startswith("_") or not (inspect.isclass(inner) or inspect.isroutine(inner)):
            continue
        if inspect.isclass(owner) or getattr(inner, "__module__", None) == owner.__name__:
            found.append((f"{owner.__name__}.{name}", inner))
            if inspect.isclass(inner) and not inspect.isclass(owner):
                found += public(inner)
    return found


def documented(name: str, value: object) -> bool:
    if (inspect.getdoc(value) or "").strip():
        return True  # getdoc finds the docstring of an abstract method for what implements it
    owner, _, method = name.rpartition(".")
    return any(
        (getattr(base, method, None) is not None and inspect.getdoc(getattr(base, method)))
        for module in MODULES
        for base in [getattr(sys.modules.get(module), owner, None)]
        if inspect.isclass(base)
    )


def test_every_public_name_has_a_docstring():
    bare = []
    for name in nelbo.__all__:
        value = getattr(nelbo, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(value), name
        bare += [n for n, v in (public(value) if inspect.ismodule(value) else []) if not documented(n, v)]
    for name in MODULES:
        module = importlib.import_module(name)
        assert (module.__doc__ or "").strip(), name
        bare += [n for n, v in public(module) if inspect.isfunction(v) and "." not in v.__qualname__ and not v.__doc__]
    assert bare == []


EXAMPLES = [name for name in MODULES if ">>> " in Path(importlib.util.find_spec(name).origin).read_text()]


def test_there_are_examples():
    assert {"nelbo.api.scoring", "nelbo.adapters.callable"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples(name, tmp_path, monkeypatch):
    """Every `>>>` in a docstring prints what it says."""
    if name.startswith("nelbo.data"):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failures, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert tried > 0 and failures == 0

"""The public face: what `import nelbo` costs and offers, whole signatures, docstrings, and examples that are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import nelbo

MODULES = sorted(m.name for m in pkgutil.walk_packages(nelbo.__path__, "nelbo.") if not m.name.endswith("__main__"))


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
    assert {"DataDomain", "DiffusionModel", "exact", "grids", "schedules"} <= set(nelbo.__all__)
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


VERBS = (
    *("evaluate", "ode_likelihood", "compare", "contrast", "diagnose", "tighten"),
    *("train", "sample", "load", "likelihood_profile", "score", "save_pretrained"),
    *("from_callable", "from_diffusers", "samplers.encode", "codec.compress", "codec.decompress", "codec.inspect"),
    "log_ratio",
    "surprisal",
)


def public():
    """Every public function, class, method and property by its name in `nelbo`."""
    for name in nelbo.__all__:
        value = getattr(nelbo, name)
        members = {name: value}
        if isinstance(value, types.ModuleType):
            names = getattr(value, "__all__", [n for n in vars(value) if not n.startswith("_")])
            members = {f"{name}.{n}": getattr(value, n) for n in names}
        for full, member in members.items():
            if not callable(member) or not getattr(member, "__module__", "").startswith("nelbo"):
                continue
            yield full, member
            if inspect.isclass(member):
                for n, method in inspect.getmembers(member, lambda m: callable(m) or isinstance(m, property)):
                    if not n.startswith("_") and not str(getattr(method, "__module__", "")).startswith("torch"):
                        yield f"{full}.{n}", method


PUBLIC = dict(public())


@pytest.mark.parametrize("name", VERBS)
def test_every_option_is_explained(name):
    verb = PUBLIC[name]
    text = inspect.getdoc(verb) or ""
    unexplained = [p for p in inspect.signature(verb).parameters if not re.search(rf"\b{p}\b", text)]
    assert not unexplained


def test_no_options_are_hidden():
    """No public callable takes **options: completion, help() and type checkers show all of them."""
    hidden = []
    for name, value in PUBLIC.items():
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):  # of a class without a signature of its own
            continue
        hidden += [name for p in parameters if p.kind is p.VAR_KEYWORD]
    assert not hidden


def test_the_verbs_that_share_an_option_share_its_default():
    """What travels together has one meaning in every verb."""
    for option in ("seed", "batch_size", "device", "precision", "progress", "state", "workers", "limit", "condition"):
        found = {
            repr(parameters[option].default)
            for name in VERBS
            if option in (parameters := inspect.signature(PUBLIC[name]).parameters)
            and parameters[option].default is not inspect.Parameter.empty  # what is contrasted must be given
        }
        assert len(found) == 1, (option, found)


def test_every_public_name_has_a_docstring():
    bare = [name for name, value in PUBLIC.items() if not inspect.getdoc(value)]
    for name in MODULES:
        module = importlib.import_module(name)
        assert (module.__doc__ or "").strip(), name
        bare += [
            f"{name}.{n}"
            for n, v in vars(module).items()
            if inspect.isfunction(v) and v.__module__ == name and not n.startswith("_") and not v.__doc__
        ]
    assert bare == []


EXAMPLES = [name for name in MODULES if ">>> " in Path(importlib.util.find_spec(name).origin).read_text()]


def test_there_are_examples():
    assert {"nelbo.api.scoring", "nelbo.adapters.callable"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples(name, tmp_path, monkeypatch):
    """Every `>>>` in a docstring prints what it says."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failures, tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert tried > 0 and failures == 0

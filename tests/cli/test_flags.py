"""Messages name Python's arguments, and on the command line the options of the command that is running."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from nelbo.cli import flags, main, options

BAD = """
import torch, nelbo

def make():
    return nelbo.from_callable(lambda z, t: 40 * z, schedule=nelbo.schedules.linear(T=1000),
                               domain=nelbo.DataDomain((1, 4, 4), bins=17))
"""


@pytest.fixture
def running():
    """Say which command is running, as `options.grouped` does."""

    def of(name: str) -> None:
        command = next(c for c in main.COMMANDS if c.__name__ == name)
        parameters = inspect.signature(options.grouped(command)).parameters.values()
        named = {p.name: options._options_of(p.annotation) for p in parameters}
        flags.of_command({name: found for name, found in named.items() if found})

    yield of
    flags.of_command({})


@pytest.mark.parametrize(
    ("command", "python", "shown"),
    [
        ("evaluate", "allow at least max_nfe=288", "allow at least --max-nfe 288"),
        ("evaluate", "give tolerance='5%' (of the value), or 3", "give --tolerance 5% (of the value), or 3"),
        ("evaluate", "any_cost=True goes on; bins=256.", "--any-cost goes on; --bins 256."),
        ("evaluate", "give state=FILE, or clip=True or clip=False", "give --state FILE, or --clip or --no-clip"),
        ("evaluate", "give tolerance=… in bits/dim", "give --tolerance … in bits/dim"),
        ("evaluate", "nelbo.from_diffusers(…, bins=None) or bins=2", "nelbo.from_diffusers(…, bins=None) or --bins 2"),
        ("evaluate", "f(a, seed=g(1), b=2), seed=3", "f(a, seed=g(1), b=2), --seed 3"),
        ("evaluate", "x.seed=3, reseed=3 and held_out=FILE stay", "x.seed=3, reseed=3 and held_out=FILE stay"),
        ("tighten", "held_out=FILE does not, max_nfe=3 does", "--held-out FILE does not, max_nfe=3 does"),
        ("train", "use net.head=plain, resume=True", "use --set net.head=plain, --resume"),
        ("train", "use bins=256 or max_nfe=3", "use --set bins=256 or max_nfe=3"),
        ("compress", "by nelbo.tighten(model, data, steps=2)", "by nelbo tighten MODEL --data DATA --steps 2"),
        ("evaluate", "finish it: nelbo.train(…, resume=True)", "finish it: nelbo train … --resume"),
        ("evaluate", "give condition='y' or condition={'y': rows}", "give --condition y or condition={'y': rows}"),
        ("decompress", "out='a b.npz' or out='FILE.npz'", "--out 'a b.npz' or --out FILE.npz"),
        ("train", "change it by net.width=…", "change it by --set net.width=…"),
        ("train", "standardise=True would help", "--set standardise=true would help"),
    ],
)
def test_arguments_become_options(running, command, python, shown):
    running(command)
    assert flags.translated(python) == shown
    flags.of_command({})
    assert flags.translated(python) == python


COMMANDS = {
    "report/card.py": "a model card quotes the command that evaluates the model again",
    "report/contents.py": "the report is a command alone, and is about files that commands wrote",
    "equations/pages/contents.py": "the pages are built by a command alone, from what another printed",
    "data/digits.py": "options of pip",
    **dict.fromkeys(
        (
            "bound/contrast/result.py",
            "bound/difference.py",
            "bound/result.py",
            "diagnosis/result.py",
            "likelihood/likelihood.py",
        ),
        "a kind of document is named by the command that writes it",
    ),
}
"""Files outside of cli/ that quote a command line on purpose, with the reason."""


def options_named(tree: ast.Module) -> list[str]:
    """The strings of a module, except for docstrings, that name an option."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [node.value for node in strings if id(node) not in documents and re.search(r"(?<![\w-])--[a-z]", node.value)]


def test_the_library_names_no_options():
    """Who uses it from Python reads Python's names; the command translates them."""
    library = Path(flags.__file__).parents[1]
    found = {}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if not name.startswith("cli/"):
            found[name] = options_named(ast.parse(path.read_text(encoding="utf-8")))
    assert {name: strings for name, strings in found.items() if strings and name not in COMMANDS} == {}
    assert all(found[name] for name in COMMANDS)
    assert options_named(ast.parse('"""--doc"""\nx = f"give --state {x}"\ny = "a--b ---"')) == ["give --state "]


def test_a_refused_cost_names_options(nelbo, tmp_path, monkeypatch):
    """error, hint and warnings, on stderr and in the table; the JSON document keeps Python's names."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "costly.py").write_text(BAD)
    np.save("codes.npy", np.arange(40 * 16).reshape(40, 1, 4, 4) % 17)
    refused = nelbo("evaluate", "costly:make", "--data", "codes.npy")
    assert "takes about" in refused.refused() and "the network is worse than none" in refused.err
    hint = refused.err.splitlines()[-1]
    for option in ("--tolerance 5%", "--max-nfe 1250000", "--any-cost"):
        assert option in hint
    assert "=" not in hint
    capped = nelbo("evaluate", "costly:make", "--data", "codes.npy", "--max-nfe", "900")
    assert "--max-nfe 900 was reached" in capped.out and "--max-nfe 900 was reached" in capped.err
    share = nelbo("evaluate", "costly:make", "--data", "codes.npy", "--tolerance", "5%", "--json").json
    assert share["estimator"]["tolerance"] == "5%"
    assert share["standard_error"]["estimator"] <= 0.05 * share["bits_per_dim"]
    both = nelbo("evaluate", "costly:make", "--data", "codes.npy", "--max-nfe", "9", "--any-cost")
    assert "--max-nfe 9 and --any-cost" in both.refused()

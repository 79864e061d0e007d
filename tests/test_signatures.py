"""Public functions show all of their options, and their docstrings explain each."""

from __future__ import annotations

import inspect
import re
import types

import pytest

import nelbo

VERBS = (
    *("evaluate", "ode_likelihood", "compare", "tighten", "train", "sample", "load", "save_pretrained"),
    *("from_callable", "from_diffusers", "codec.compress", "codec.decompress", "codec.inspect", "samplers.encode"),
)


def public():
    """Every public function, class and method by its name in `nelbo`."""
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
                for n, method in inspect.getmembers(member, callable):
                    if not n.startswith("_"):
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
        }
        assert len(found) == 1, (option, found)

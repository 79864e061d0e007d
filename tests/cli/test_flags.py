"""Messages name Python's arguments, and on the command line the options of the command that is running."""

from __future__ import annotations

import inspect

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
        ("train", "standardise=True would help", "--set standardise=true would help"),
    ],
)
def test_arguments_become_options(running, command, python, shown):
    running(command)
    assert flags.translated(python) == shown
    flags.of_command({})
    assert flags.translated(python) == python


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

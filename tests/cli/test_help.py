"""Help, version and the list of commands; and that they cost no import of torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nelbo._version import __version__

OPTIONS = {
    "demo": "--out --seed --json",
    "train": "--data --out --config --set --resume",
    "evaluate": "--data --tolerance --max-nfe --steps --continuous --seed --batch-size --limit --per-example --out "
    "--json --device --precision --estimator --state --variance --decoder --bins --range --clip --condition "
    "--trust-code",
    "compare": "--data --tolerance --json --variance --decoder --bins --range --clip --condition --trust-code",
    "contrast": "--data --condition --values --confidence --indifference --tolerance --posterior-tolerance --max-nfe "
    "--prior --out --state --json --variance --decoder --bins --range --clip --trust-code",
    "diagnose": "--data --max-nfe --out --json --variance --decoder --bins --range --clip --condition --trust-code",
    "ode": "--data --solver --steps --tolerance --probes --exact-trace --dequantisation --draws --importance --seed "
    "--batch-size --limit --per-example --out --json --device --precision --state --variance --decoder --bins --range "
    "--clip --condition --trust-code",
    "tighten": "--data --steps --out --json --trust-code",
    "sample": "-n --sampler --steps --grid --seed --out --variance --decoder --bins --range --clip --condition "
    "--guidance --null-condition --trust-code",
    "compress": "--out --verify --few --force --steps --chunk --limit --seed --batch-size --variance --decoder --bins "
    "--range --clip --condition --json --trust-code",
    "decompress": "--out --batch-size --json --trust-code",
    "report": "--out",
    "info": "--json --trust-code",
    "equations": "",
}
"""The options that CONTRACT.md promises, by command."""


def test_help_lists_the_commands_that_exist_and_no_other(nelbo):
    result = nelbo("--help")
    listed = result.out.partition("Commands:")[2].partition("Exit status")[0]
    assert result.status == 0
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == list(OPTIONS)
    assert nelbo().out == result.out


@pytest.mark.parametrize("command", OPTIONS)
def test_every_promised_option_is_in_the_help(nelbo, command):
    result = nelbo(command, "--help")
    assert result.status == 0
    words = result.out.replace(",", " ").split()
    assert [option for option in OPTIONS[command].split() if option not in words] == []
    assert command == "equations" or "Exit status: 0 done; 2 bad input or usage; 130 interrupted" in result.out


def test_no_summary_is_cut(nelbo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for result in (nelbo("--help"), nelbo("equations", "--help")):
        assert "..." not in result.out.partition("Commands:")[2]


def test_completion():
    """A shell that asks what may follow gets the commands and options."""
    for words, expected in (("nelbo eva", "evaluate"), ("nelbo evaluate --tol", "--tolerance")):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_NELBO_COMPLETE": "complete_bash"}
        done = subprocess.run(
            [sys.executable, "-m", "nelbo"], env={**os.environ, **asked}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


def test_version(nelbo):
    assert nelbo("--version").out == f"nelbo {__version__}\n"


def test_help_and_usage_errors_do_not_import_torch():
    code = """if True:
        import sys
        from nelbo.cli.main import execute
        statuses = execute(["--help"]), execute(["evaluate", "--help"]), execute(["evaluate", "--nonsense"])
        heavy = {"torch", "numpy", "matplotlib", "rich", "pydantic.main"} & set(sys.modules)
        print(statuses, sorted(heavy & {"torch", "numpy", "matplotlib"}))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(0, 0, 2) []"

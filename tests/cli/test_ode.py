"""`nelbo ode`: one document of the bound's schema, files, options that fit together; and its old name."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def model(trained, tmp_path, monkeypatch):
    """A small trained model of the digits, whose network takes the log-SNR."""
    monkeypatch.chdir(tmp_path)
    return trained


DATA = ("--data", "digits:test", "--limit", "3")
ODE = (*DATA, "--steps", "4")


def test_one_document_and_a_file_of_examples(nelbo, model):
    result = nelbo("ode", model, *ODE, "--json", "--per-example", "rows.npz", "--out", "ode.json", "--seed", "3")
    assert result.status == 0, result
    document = result.json
    assert document["schema"] == "nelbo.bound/1" and document["quantity"] == "ode"
    assert document["estimator"]["probes"] == 1 and document["estimator"]["steps"] == 4
    rows = np.load("rows.npz")
    assert {"index", "nats", "standard_error", "flow", "dequantisation", "solver_error"} <= set(rows.files)
    assert rows["nats"].mean() / 64 / np.log(2) == pytest.approx(document["bits_per_dim"])
    again = nelbo("ode", model, *ODE, "--json", "--seed", "3", "--batch-size", "1").json
    assert again["bits_per_dim"] == pytest.approx(document["bits_per_dim"], rel=1e-5)


def test_the_table_and_the_other_options(nelbo, model):
    result = nelbo("ode", model, *ODE, "--probes", "2", "--dequantisation", "uniform", "--draws", "3")
    assert result.status == 0 and "ode bound" in result.out and "flow" in result.out
    assert nelbo("ode", model, *ODE, "--exact-trace", "--solver", "heun", "--importance", "2").status == 0


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--continuous",), "--continuous"),
        (("--max-nfe", "10"), "--max-nfe"),
        (("--probes", "2", "--exact-trace"), "2 probes"),
        (("--dequantisation", "flaw"), "flaw"),
        (("--solver", "euler"), "euler"),
        (("--tolerance", "-1"), "tolerance"),
    ],
)
def test_what_does_not_fit_together(nelbo, model, options, culprit):
    assert culprit in nelbo("ode", model, *DATA, *options).refused()


def test_the_old_name_works_and_says_what_to_type(nelbo, model):
    options = ("--ode", "--ode-steps", "4", "--ode-solver=heun", "--ode-tolerance", "1", "--probes", "1")
    old = nelbo("evaluate", model, *DATA, *options, "--json")
    new = nelbo("ode", model, *ODE, "--solver", "heun", "--tolerance", "1", "--probes", "1", "--json")
    assert {**old.json, "seconds": 0} == {**new.json, "seconds": 0}
    typed = f"nelbo ode {model} {' '.join(DATA)} --steps 4 --solver=heun --tolerance 1 --probes 1 --json"
    assert typed in old.err and typed not in new.err
    assert "--ode" not in nelbo("evaluate", "--help").out


@pytest.mark.parametrize("options", [("--tolerance", "0.1"), ("--steps=10",), ("--continuous",), ("--max-nfe", "10")])
def test_under_the_old_name_options_of_the_bound_are_refused(nelbo, model, options):
    """--tolerance and --steps mean something else for `nelbo ode`."""
    assert options[0].partition("=")[0] in nelbo("evaluate", model, *DATA, "--ode", *options).refused()


@pytest.mark.parametrize("options", [("--probes", "2"), ("--ode-steps", "4"), ("--exact-trace",)])
def test_evaluate_has_none_of_the_options(nelbo, model, options):
    assert options[0] in nelbo("evaluate", model, *DATA, *options).refused()

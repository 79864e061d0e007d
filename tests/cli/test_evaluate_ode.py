"""`nelbo evaluate --ode`: one document of the bound's schema, files, the options that belong together."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def model(trained, tmp_path, monkeypatch):
    """A small trained model of the digits, whose network takes the log-SNR."""
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    return trained


ODE = ("--data", "digits:test", "--limit", "3", "--ode", "--ode-steps", "4")


def test_one_document_and_a_file_of_examples(nelbo, model):
    told = nelbo("evaluate", model, *ODE, "--json", "--per-example", "rows.npz", "--out", "ode.json", "--seed", "3")
    assert told.status == 0, told
    document = told.json
    assert document["schema"] == "nelbo.bound/1" and document["quantity"] == "ode"
    assert document["estimator"]["probes"] == 1 and document["estimator"]["steps"] == 4
    rows = np.load("rows.npz")
    assert {"index", "nats", "standard_error", "flow", "dequantisation", "solver_error"} <= set(rows.files)
    assert rows["nats"].mean() / 64 / np.log(2) == pytest.approx(document["bits_per_dim"])
    again = nelbo("evaluate", model, *ODE, "--json", "--seed", "3", "--batch-size", "1").json
    assert again["bits_per_dim"] == pytest.approx(document["bits_per_dim"], rel=1e-5)


def test_the_table_and_the_other_options(nelbo, model):
    told = nelbo("evaluate", model, *ODE, "--probes", "2", "--dequantisation", "uniform", "--draws", "3")
    assert told.status == 0 and "ode bound" in told.out and "flow" in told.out
    assert nelbo("evaluate", model, *ODE, "--exact-trace", "--ode-solver", "heun", "--importance", "2").status == 0


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (("--ode", "--tolerance", "0.1"), "--tolerance"),
        (("--ode", "--steps", "10"), "--steps"),
        (("--ode", "--continuous"), "--continuous"),
        (("--ode", "--max-nfe", "10"), "--max-nfe"),
        (("--probes", "2"), "--probes"),
        (("--ode-steps", "4"), "--ode-steps"),
        (("--exact-trace",), "--exact-trace"),
        (("--ode", "--probes", "2", "--exact-trace"), "2 probes"),
        (("--ode", "--ode-steps", "5"), "5 ODE steps"),
        (("--ode", "--dequantisation", "none"), "none"),
        (("--ode", "--dequantisation", "flaw"), "flaw"),
        (("--ode", "--ode-solver", "euler"), "euler"),
        (("--ode", "--importance", "3"), "no bound"),
        (("--ode", "--ode-tolerance", "-1"), "tolerance"),
    ],
)
def test_what_does_not_belong_together(nelbo, model, options, culprit):
    assert culprit in nelbo("evaluate", model, "--data", "digits:test", "--limit", "2", *options).refused()

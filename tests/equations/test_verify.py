"""`verify`: every entry passes on the library as it stands; the report; what a failure does."""

from __future__ import annotations

import json

import pytest
import torch

import nelbo
from nelbo.equations import catalogue, check, verify
from nelbo.equations.verify import run
from nelbo.errors import UnknownNameError


@pytest.fixture(scope="module")
def report():
    return verify()


def test_every_entry_passes(report):
    assert report.failed == () and report.ok
    assert [e.id for e in report] == list(catalogue())
    assert len(report) == len(catalogue()) >= 128
    kinds = {kind: sum(r.kind == kind for e in report for r in e.checks) for kind in ("holds", "must_fail", "z")}
    assert kinds["holds"] >= 400 and kinds["must_fail"] >= 120 and kinds["z"] >= 20


WITHOUT_A_WRONG_FORM = {
    "vlb-add-kl",
    "vlb-jensen",
    "kl-route-linearity",
    "kl-route-drop-kl",
    "vlb-substitute-kernels",
    "vlb-pull-prior",
    "vae-elbo",
    "vae-as-one-step-diffusion",
    "chain-factorise",
    "chain-conditional-to-joint",
    "chain-joint-refactor",
    "chain-joint-to-conditional-x0",
    "chain-cancel-qx0",
    "chain-log-expand",
    "chain-absorb-first",
    "rao-blackwell-term",
    "rao-blackwell-random-t",
}
"""Entries that no source prints wrongly in a way that gives a number; their guard is the breaks of tests/mutations."""


def test_every_entry_compares_figures_and_refutes_a_wrong_form(report):
    kinds = {e.id: {r.kind for r in e.checks} for e in report}
    assert all(found & {"holds", "z", "must_fail"} for found in kinds.values())
    assert {id for id, found in kinds.items() if not found & {"must_fail", "z_must_fail"}} == WITHOUT_A_WRONG_FORM


def test_what_is_printed_wrongly_is_refuted(report):
    """Each wrong row with figures: an entry that its figures name, or that covers it, refutes something here."""
    refuting = {e.id for e in report} - WITHOUT_A_WRONG_FORM
    for document in catalogue().documents.values():
        for row in document.rows:
            sources = [s for i in row.ids for s in catalogue()[i].sources if s.row == row.row]
            named = {text.split(":")[0] for s in sources for text in s.evidence}
            assert named <= set(catalogue()), row.row
            assert row.status == "correct" or not named or refuting & (named | set(row.ids)), row.row


def test_the_report(report):
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(document["entries"][0]) == {"id", "ok", "seconds", "checks"}
    assert all(
        set(c) == {"name", "kind", "expected", "observed", "ok"} for e in document["entries"] for c in e["checks"]
    )
    assert document["entries"][0]["ok"] is True
    text = str(report["posterior-mean"])
    assert text.splitlines()[0].startswith("posterior-mean: ok (") and "fails as it must" in text
    assert f"{len(report)} of {len(report)} equations verified" in report.summary()


def test_some_entries_in_the_catalogues_order():
    seen = []
    report = nelbo.equations.verify(
        "posterior-mean", "bayes-rule", "posterior-mean", progress=lambda done, planned: seen.append((done, planned))
    )
    assert [e.id for e in report] == ["bayes-rule", "posterior-mean"] and report.ok
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_the_same_figures_every_time():
    ids = ("diffusion-kernel-jump", "reverse-joint", "vlb-cancel-evidence", "chain-to-kl", "sum-objective")
    first, second = (verify(*ids).to_dict() for _ in range(2))
    for document in (first, second):
        for e in document["entries"]:
            del e["seconds"]
    assert first == second


def test_an_unknown_id():
    with pytest.raises(UnknownNameError, match="unknown equation 'posterior-men'"):
        verify("bayes-rule", "posterior-men")


def test_a_check_that_breaks_off_has_failed(monkeypatch):
    def breaks_off(c):
        c.holds("something first", 0.0, 1.0)
        raise FloatingPointError("no\nnumber")

    monkeypatch.setitem(check.CHECKS, "bayes-rule", breaks_off)
    report = verify("bayes-rule", "posterior-mean")
    assert not report.ok and report.failed == ("bayes-rule",)
    assert report["bayes-rule"].checks[-1].name == "the check ran to its end (FloatingPointError: no number)"
    assert "FAILED: bayes-rule" in str(report)


def test_an_entry_without_a_check_has_failed(monkeypatch):
    monkeypatch.delitem(check.CHECKS, "bayes-rule")
    assert not run("bayes-rule").ok


def test_threads_are_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        verify("bayes-rule")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

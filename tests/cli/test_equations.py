"""`nelbo equations`: list, show, verify; what they refuse."""

from __future__ import annotations

import json

import pytest

from nelbo.equations import catalogue, check


def test_help(nelbo):
    result = nelbo("equations")
    assert result.status == 0 and all(name in result.out for name in ("list", "show", "verify", "build"))
    assert nelbo("equations", "verify", "--help").status == 0


def test_list(nelbo):
    result = nelbo("equations", "list")
    assert result.status == 0 and result.err == ""
    lines = result.out.splitlines()
    assert (lines[0], lines[-1]) == ("A preliminaries", f"{len(catalogue())} equations")
    assert all(id in result.out for id in catalogue())
    document = nelbo("equations", "list", "--json").json
    assert [e["id"] for e in document["entries"]] == list(catalogue())


def test_list_filters(nelbo):
    wrong = nelbo("equations", "list", "--tag", "posterior", "--status", "misprinted", "--source", "003", "--json").json
    ids = {e["id"] for e in wrong["entries"]}
    assert ids == {e.id for e in catalogue().by_tag("posterior") if "misprinted" in e.statuses and "003" in e.documents}
    assert "posterior-mean" in ids
    entries = nelbo("equations", "list", "--search", "posterior mean", "--json").json["entries"]
    assert entries[0]["id"] == "posterior-mean"
    assert nelbo("equations", "list", "--search", "xyzzy").out == "no equation fits\n"


def test_show(nelbo):
    result = nelbo("equations", "show", "posterior-mean")
    assert result.status == 0 and "Check: passed" in result.out and "fails as it must" in result.out
    document = nelbo("equations", "show", "posterior-mean", "--json").json
    assert document["latex"] == catalogue()["posterior-mean"].latex and document["check"]["ok"] is True
    assert document["implemented_in"][0]["name"] == "nelbo.process.forward.posterior_mean"


def test_verify(nelbo):
    result = nelbo("equations", "verify", "posterior-mean", "bayes-rule")
    assert result.status == 0 and result.out.startswith("bayes-rule: ok") and "2 of 2 equations verified" in result.out
    document = nelbo("equations", "verify", "posterior-mean", "--json").json
    assert [e["id"] for e in document["entries"]] == ["posterior-mean"]
    assert {c["kind"] for c in document["entries"][0]["checks"]} == {"holds", "must_fail"}
    assert all(c["ok"] for c in document["entries"][0]["checks"])


def test_a_failing_check(nelbo, monkeypatch):
    monkeypatch.setitem(check.CHECKS, "bayes-rule", lambda c: c.holds("never", 1.0, 0.5))
    result = nelbo("equations", "verify", "bayes-rule", "posterior-mean", "--json")
    assert result.status == 2 and json.loads(result.out)["entries"][0]["ok"] is False
    error, hint = result.err.splitlines()[-2:]
    assert error == "error: the checks of 1 of 2 fail: bayes-rule" and "verify bayes-rule" in hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "posterior-men"), "unknown equation 'posterior-men'"),
        (("list", "--source", "9"), "unknown source document '9'"),
        (("shaw",), "there is no command 'shaw'"),
        (("show",), "missing argument"),
        (("build",), "missing option"),
        (("build", "--out", "/dev/null"), "is a file"),
        (("build", "--out", "x", "--checks", "c", "--no-checks"), "both given"),
    ],
)
def test_refusals(nelbo, arguments, message):
    assert message in nelbo("equations", *arguments).refused()


def test_build_writes_the_site(nelbo, tmp_path):
    out = tmp_path / "site"
    (tmp_path / "checks.json").write_text(nelbo("equations", "verify", "bayes-rule", "--json").out)
    result = nelbo("equations", "build", "--out", out, "--checks", tmp_path / "checks.json", "--json").json
    assert result["pages"] == len(list(out.rglob("*.html"))) > len(catalogue())
    assert result["failed"] == []
    assert "✓ holds" in (out / "equations/bayes-rule.html").read_text()
    again = nelbo("equations", "build", "--out", out, "--no-checks")
    assert again.out == f"{out / 'index.html'}\n" and again.err == ""
    assert "✓ holds" not in (out / "equations/bayes-rule.html").read_text()


def test_build_warns_of_a_check_that_fails(nelbo, tmp_path):
    row = {"name": "a row", "kind": "holds", "expected": "<= 1", "observed": 2.0, "ok": False}
    failed = {"entries": [{"id": "bayes-rule", "ok": False, "seconds": 0.1, "checks": [row]}]}
    (tmp_path / "checks.json").write_text(json.dumps(failed))
    result = nelbo("equations", "build", "--out", tmp_path / "site", "--checks", tmp_path / "checks.json")
    assert result.status == 0 and "warning: the pages show checks that fail: bayes-rule" in result.err
    assert "does not hold" in (tmp_path / "site/equations/bayes-rule.html").read_text()


def test_derivations_are_verified_too(nelbo):
    """By their ids, beside equations; and all of them where nothing is named."""
    report = nelbo("equations", "verify", "five-lines", "--json").json
    assert report["entries"] == [] and [d["id"] for d in report["derivations"]] == ["five-lines"]
    assert all(row["ok"] for row in report["derivations"][0]["checks"])
    both = nelbo("equations", "verify", "five-lines", "bayes-rule").out
    assert "1 of 1 equation verified" in both and "1 of 1 derivation verified" in both

"""Derivations: their files, their lines as numbers, and that a wrong line is noticed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nelbo.equations import derivation
from nelbo.equations.derivation import Walk, derivations, load, run, verify_derivations
from nelbo.equations.registry import catalogue
from nelbo.errors import DataError, UnknownNameError

WALKS = {
    "likelihood-to-bound": 13,
    "five-lines": 6,
    "thirteen-lines": 14,
    "vae-to-diffusion": 10,
    "noise-loss": 8,
    "variational-diffusion": 9,
    "snr-and-limit": 9,
    "probability-flow": 10,
}


def test_the_walks_and_their_lengths():
    assert {id: len(d.steps) for id, d in derivations().items()} == WALKS
    assert not set(WALKS) & set(catalogue()), "a walk and an entry share an id"


@pytest.mark.parametrize("id", WALKS)
def test_every_line_follows_from_the_one_before(id: str):
    result = run(id)
    assert result.ok, str(result)
    compared = [int(m[1]) for r in result.checks if (m := re.match(r"line (\d+) [=≤≥].* line \d+$", r.name))]
    starts = WALKS[id] - len(compared)
    assert compared == sorted(set(compared)) and starts <= 4, "most lines are compared with the one before"


def test_some_walks_are_verified_in_order():
    seen = []
    report = verify_derivations("five-lines", "noise-loss", progress=lambda done, planned: seen.append((done, planned)))
    assert [r.id for r in report] == ["five-lines", "noise-loss"] and report.ok
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_an_unknown_walk_lists_the_known():
    with pytest.raises(UnknownNameError) as caught:
        verify_derivations("six-lines")
    assert "five-lines" in str(caught.value.hint)


def test_walks_know_their_entries():
    assert "five-lines" in derivations().through("vlb-add-kl")
    assert derivations()["five-lines"].entries[:2] == ("latent-marginal", "vlb-add-kl")


def test_lines_that_differ_are_rows_that_fail():
    w = Walk("x")
    w.start(np.array([1.0, 2.0]))
    w.line(np.array([1.0, 2.1]))
    w.at_least(np.array([1.0, 2.0]))
    w.at_most(np.array([1.5, 1.0]))
    w.line(np.array([1.0, np.nan]))
    assert [r.ok for r in w.checks.rows] == [False, False, False, False]
    assert [r.name for r in w.checks.rows] == [
        "line 2 = line 1", "line 3 ≥ line 2", "line 4 ≤ line 3", "line 5 = line 4",
    ]  # fmt: skip


def test_a_walk_that_skips_a_line_fails(monkeypatch: pytest.MonkeyPatch):
    def short(w: Walk) -> None:
        w.start(1.0)
        w.line(1.0)

    monkeypatch.setitem(derivation.WALKS, "five-lines", short)
    assert not run("five-lines").ok


GOOD = """id = "mine"
title = "T"
intro = "I"
[[steps]]
latex = 'a'
rule = "r"
entry = "vlb-add-kl"
explanation = "e"
[[steps]]
latex = 'b'
rule = "r"
entry = "vlb-add-kl"
explanation = "e"
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "T"\n', "", "keys"),
        ('rule = "r"\n', "", "keys"),
        ('title = "T"', 'title = ""', "title"),
        ("latex = 'b'", "latex = 3", "latex"),
        ('entry = "vlb-add-kl"', 'entry = "no-such"', "no-such"),
        ('id = "mine"', 'id = "other"', "other"),
        ('intro = "I"', 'intro = "I', "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, old: str, new: str, said: str):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert len(load(path).steps) == 2
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(path)
    assert "mine.toml" in str(caught.value) and said in str(caught.value)

"""Groups D and E of the catalogue: what kinds of row their checks have, and no chance."""

from __future__ import annotations

import pytest

from nelbo.equations.registry import catalogue
from nelbo.equations.verify import run
from tests.expected import early_end

IDS = [e.id for e in catalogue().values() if e.letter in "DE"]

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


def test_both_groups_are_complete():
    letters = [e.letter for e in catalogue().values()]
    assert (letters.count("D"), letters.count("E")) == (25, 27)


@pytest.mark.parametrize("id", IDS)
@early_end
def test_entry_holds(id: str):
    result = run(id)
    assert result.ok, str(result)
    kinds = {row.kind for row in result.checks}
    assert kinds & {"holds", "z"}, "no row compares figures"
    assert bool(kinds & {"must_fail", "z_must_fail"}) == (id not in WITHOUT_A_WRONG_FORM)


@pytest.mark.parametrize("id", ["vlb-cancel-evidence", "chain-to-kl", "rao-blackwell-total", "sum-objective"])
def test_figures_are_the_same_every_time(id: str):
    assert [r.observed for r in run(id).checks] == [r.observed for r in run(id).checks]

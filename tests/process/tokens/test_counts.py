"""Masks of a given count: subsets are uniform, and patterns of hidden neighbours as likely as an enumeration says."""

from __future__ import annotations

from tests.process.tokens import checks


def test_counts():
    checks.check_counts()
    checks.check_patterns()
    checks.check_patterns_by_hand()
    checks.check_independent_patterns()


def test_sets_that_cover_the_places_evenly():
    checks.check_streams()


def test_subsets():
    checks.check_subsets()
    checks.check_around_a_place()

"""Terms and draws of the chains over symbols against enumerations of orders, sets and whole paths."""

from __future__ import annotations

import pytest

from tests.bound.tokens import checks

CASES = [(name, rule) for name in checks.TIMED for rule in checks.RULES]
CASES = [c for c in CASES if c[1] == "mixture" or not c[0].startswith("masked")]


@pytest.mark.parametrize("name", checks.COUNTED)
def test_counts(name):
    checks.check_counts(name)
    checks.check_draws_of_counts(name)


def test_an_exact_network_has_the_bound_of_the_data():
    checks.check_bayes()


@pytest.mark.parametrize("name", ["mask left in", "no carry-over"])
def test_rules_that_are_looser(name):
    checks.check_looser(name)


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_paths(name, rule):
    checks.check_paths(name, rule)


@pytest.mark.parametrize("name", checks.TIMED)
def test_draws_of_times(name):
    checks.check_draws_of_times(name)


@pytest.mark.parametrize("name", checks.RAGGED)
def test_sequences_of_unequal_length(name):
    checks.check_ragged(name)


@pytest.mark.parametrize("name", ["every count", "masked, cosine"])
def test_controls(name):
    checks.check_controls(name)


def test_what_a_pilot_teaches():
    checks.check_neighbours()
    checks.check_place_fit()
    checks.check_learning()


def test_draws_of_one_sequence():
    checks.check_strands()


def test_noise_at_both_ends():
    checks.check_first_level()


def test_continuous_masks():
    checks.check_continuous_masks()


@pytest.mark.parametrize("rule", ["mixture", "plug_in"])
@pytest.mark.parametrize("name", ["uniform", "rates"])
def test_continuous_limit(name, rule):
    checks.check_continuous_limit(name, rule)

"""Damaged and odd data files: examples or one error of nelbo's own, never anything else. See `fuzz`."""

from __future__ import annotations

import collections
import shutil
import warnings
from pathlib import Path

import pytest

pytest.importorskip("PIL.Image")
from tests.data import fuzz

QUICK, ALL = 100, 6000


def run(numbers: range, root: Path) -> collections.Counter[str]:
    outcomes: collections.Counter[str] = collections.Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags
        for number in numbers:
            place = root / str(number)
            place.mkdir()
            try:
                outcomes[fuzz.trial(number, place)] += 1
            except Exception as error:
                raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}") from error
            shutil.rmtree(place)
    return outcomes


def test_a_hundred_mutations(tmp_path):
    outcomes = run(range(QUICK), tmp_path)
    assert outcomes["refused"] > QUICK / 4 and outcomes["read"] > QUICK / 20


@pytest.mark.slow
def test_all_mutations(tmp_path):
    outcomes = run(range(QUICK, QUICK + ALL), tmp_path)
    assert outcomes["refused"] > ALL / 4 and outcomes["read"] > ALL / 20

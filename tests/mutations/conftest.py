"""Exact values are computed with the code as it stands, never kept from one that was broken."""

from __future__ import annotations

import pytest

from tests.bound import checks


@pytest.fixture(autouse=True)
def fresh_truth():
    checks._EXACT.clear()
    yield
    checks._EXACT.clear()

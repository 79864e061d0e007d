"""The parts of a model against plain formulas: every check of checks.py, fitted.py and learned.py."""

from __future__ import annotations

from tests.model import checks, fitted, learned
from tests.tables import every_check

test_check = every_check(checks, fitted, learned)

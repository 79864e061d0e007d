"""Checks: what an entry claims, run on the library's own functions.

    @check("posterior-mean")
    def _(c: Checks) -> None:
        c.holds("nelbo's mean = the Schur complement's", posterior_mean(x, z, s, t) - oracle, 1e-12)
        c.must_fail("printed with α for ᾱ", posterior_mean(x, z, s, t) - printed, 0.1)

A residual is a float, a numpy array, a tensor or a list of these, and its largest absolute value counts. NaN passes
nothing, and neither does an array without elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from nelbo.typing import Json

Numbers = float | np.floating[Any] | np.ndarray | Tensor | Sequence[Any]

CHECKS: dict[str, Callable[[Checks], None]] = {}
"""Catalogue id -> the function that checks it. Filled by importing `nelbo.equations.checks`."""


@dataclass(frozen=True)
class Row:
    """One result. kind: holds, must_fail, z, z_must_fail, true or info; ok of a must-fail row: it was caught.

    expected: the condition in words, such as "<= 1e-12"; "" of an info row. observed: the figure measured.
    """

    kind: str
    name: str
    expected: str
    observed: float | bool
    ok: bool

    @property
    def word(self) -> str:
        """The verdict as shown to people."""
        if not self.ok:
            return "FAILS"
        return {"info": "measured", "must_fail": "fails as it must", "z_must_fail": "fails as it must"}.get(
            self.kind, "holds"
        )

    def to_dict(self) -> Json:
        """As in `equations verify --json`; a figure that is not finite is a string."""
        observed: Any = self.observed
        if isinstance(observed, float) and not math.isfinite(observed):
            observed = str(observed)
        return {
            "name": self.name,
            "kind": self.kind,
            "expected": self.expected,
            "observed": observed,
            "ok": self.ok,
        }


@dataclass
class Checks:
    """The rows of one entry's check, in the order in which they were measured."""

    id: str
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is a row that could fail, and none did."""
        return any(r.kind != "info" for r in self.rows) and all(r.ok for r in self.rows)

    def holds(self, name: str, residual: Numbers, bound: float) -> None:
        """max |residual| ≤ bound."""
        worst = largest(residual)
        self._add("holds", name, f"<= {bound:g}", worst, worst <= bound)

    def must_fail(self, name: str, residual: Numbers, floor: float) -> None:
        """The residual of a form that is wrong: max |residual| ≥ floor > 0."""
        _positive(floor, "floor")
        worst = largest(residual)
        self._add("must_fail", name, f">= {floor:g}", worst, worst >= floor)

    def z(self, name: str, estimate: Numbers, exact: Numbers, se: Numbers, limit: float = 4.0) -> None:
        """max |estimate − exact| / se ≤ limit; every standard error must be above 0."""
        worst = _z(estimate, exact, se)
        self._add("z", name, f"|z| <= {limit:g}", worst, worst <= limit)

    def z_must_fail(self, name: str, estimate: Numbers, wrong: Numbers, se: Numbers, floor: float = 8.0) -> None:
        """The estimate refutes a wrong value: max |estimate − wrong| / se ≥ floor."""
        _positive(floor, "floor")
        worst = _z(estimate, wrong, se)
        self._add("z_must_fail", name, f"|z| >= {floor:g}", worst, worst >= floor)

    def true(self, name: str, condition: bool | np.bool_ | np.ndarray | Tensor, value: Numbers | None = None) -> None:
        """The condition is met; `value` is the figure to show beside it."""
        met = bool(condition)
        self._add("true", name, "true", met if value is None else numbers(value).item(), met)

    def info(self, name: str, value: Numbers) -> None:
        """A figure worth showing. It must be finite, and decides nothing else."""
        shown = numbers(value).item()
        self._add("info", name, "", shown, math.isfinite(shown))

    def _add(self, kind: str, name: str, expected: str, observed: float | bool, ok: bool) -> None:
        if any(r.name == name for r in self.rows):
            raise ValueError(f"the check of {self.id!r} has two rows named {name!r}")
        self.rows.append(Row(kind, name, expected, observed, bool(ok)))


def check(entry: str) -> Callable[[Callable[[Checks], None]], Callable[[Checks], None]]:
    """Register a function as the check of the entry with this id. An entry has one check."""

    def register(function: Callable[[Checks], None]) -> Callable[[Checks], None]:
        code, earlier = function.__code__, CHECKS.get(entry)
        if earlier is not None and (earlier.__module__, earlier.__code__.co_firstlineno) != (
            function.__module__,
            code.co_firstlineno,
        ):  # the same place again is a module imported again
            raise ValueError(f"the entry {entry!r} has a second check, {code.co_filename}:{code.co_firstlineno}")
        CHECKS[entry] = function
        return function

    return register


def numbers(values: Numbers) -> np.ndarray:
    """As a float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def largest(residual: Numbers) -> float:
    """max |residual|: NaN where an element is, or where there are none."""
    array = np.abs(numbers(residual))
    return float(array.max()) if array.size and not np.isnan(array).any() else math.nan


def _z(estimate: Numbers, exact: Numbers, se: Numbers) -> float:
    spread = numbers(se)
    if not (spread > 0).all():
        return math.nan
    return largest((numbers(estimate) - numbers(exact)) / spread)


def _positive(floor: float, what: str) -> None:
    if not floor > 0:
        raise ValueError(f"a {what} of {floor} would let every form fail")

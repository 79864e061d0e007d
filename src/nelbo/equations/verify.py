"""Run the checks of the catalogue, and report their results."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nelbo.equations.check import Checks, Row
from nelbo.equations.registry import catalogue
from nelbo.progress import callback, shows_progress
from nelbo.typing import Json


@dataclass(frozen=True)
class Result:
    """The result of one entry's check: its rows, and the seconds that it took."""

    id: str
    ok: bool
    seconds: float
    checks: tuple[Row, ...]

    def to_dict(self) -> Json:
        """As in `equations verify --json`."""
        rows = [r.to_dict() for r in self.checks]
        return {"id": self.id, "ok": self.ok, "seconds": round(self.seconds, 4), "checks": rows}

    def __str__(self) -> str:
        lines = [f"{self.id}: {'ok' if self.ok else 'FAILED'} ({self.seconds:.2f} s)"]
        return "\n".join([*lines, *(f"  {line(row)}" for row in self.checks)])


@dataclass(frozen=True)
class Report:
    """The results of the entries that were asked for, in the order of the catalogue."""

    entries: tuple[Result, ...]
    noun: str = "equation"

    @property
    def ok(self) -> bool:
        """Whether all entries passed."""
        return all(e.ok for e in self.entries)

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the entries that failed."""
        return tuple(e.id for e in self.entries if not e.ok)

    def __getitem__(self, id: str) -> Result:
        return next(e for e in self.entries if e.id == id)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> Json:
        """{entries: [{id, ok, seconds, checks: [{name, kind, expected, observed, ok}]}]}."""
        return {"schema": "nelbo.equations/1", "entries": [e.to_dict() for e in self.entries]}

    def summary(self) -> str:
        """One line: how many entries and checks passed, how many of these are wrong forms that were caught."""
        rows = [r for e in self.entries for r in e.checks]
        caught = sum(r.ok and r.kind.endswith("must_fail") for r in rows)
        passed = sum(e.ok for e in self.entries)
        seconds = sum(e.seconds for e in self.entries)
        equations = f"{len(self)} {self.noun}{'s' * (len(self) != 1)}"
        failed = f"; FAILED: {', '.join(self.failed)}" if self.failed else ""
        return (
            f"{passed} of {equations} verified, {sum(r.ok for r in rows)} of {len(rows)} checks passed, "
            f"{caught} of them wrong forms that were caught ({seconds:.1f} s){failed}"
        )

    def __str__(self) -> str:
        return "\n".join([*map(str, self.entries), self.summary()])


def line(row: Row) -> str:
    """`holds             1.2e-15 <= 1e-12   name`: the verdict, the figure and its condition."""
    figure = row.observed if isinstance(row.observed, bool) else f"{row.observed:.4g}"
    condition = "" if row.expected in ("", "true") else f" {row.expected}"
    return f"{row.word:<17} {f'{figure}{condition}':<22} {row.name}"


@shows_progress("verifying")
def verify(*ids: str, progress: Callable[[int, int], None] | bool | None = None) -> Report:
    """Run the checks of the entries `ids`, or of all: the library's own functions against independent oracles.

    progress: as of `nelbo.evaluate`, of (checks done, all). A check that raises counts as failed, with the error as a
    row. Errors: UnknownNameError for an id that the catalogue does not have.

    >>> import nelbo
    >>> report = nelbo.equations.verify("posterior-variance")
    >>> report.ok
    True
    """
    known = catalogue()
    asked = {known[i].id for i in ids} if ids else set(known)
    selected = [i for i in known if i in asked]
    return Report(each(selected, run, callback(progress)))


def each(
    ids: list[str], run: Callable[[str], Result], progress: Callable[[int, int], None] | None
) -> tuple[Result, ...]:
    """`run` of every id, on one thread, with progress."""
    results = []
    if progress is not None:
        progress(0, len(ids))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
    try:
        for done, id in enumerate(ids, 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # checks break what they test on purpose
                results.append(run(id))
            if progress is not None:
                progress(done, len(ids))
    finally:
        torch.set_num_threads(threads)
    return tuple(results)


def run(id: str) -> Result:
    """Run the check of one entry."""
    function = catalogue().check(id)
    checks = Checks(id)
    started = time.perf_counter()
    if function is None:
        checks.true("the entry has a check", False)
    else:
        try:
            function(checks)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            checks.true(f"the check ran to its end ({type(error).__name__}: {text})", False)
    return Result(id, checks.ok, time.perf_counter() - started, tuple(checks.rows))

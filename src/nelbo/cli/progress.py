"""The progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nelbo.duration import duration

if TYPE_CHECKING:
    from nelbo.typing import Json


QUIET_SECONDS = 10.0
"""Without a terminal, the least time between two lines."""


class Progress:
    """Progress of one piece of work, called with (done, planned; 0 where not known); `note` is shown with it."""

    def __init__(self, title: str):
        self.title = title
        self.note = ""
        self.bound = ""
        self.started = time.monotonic()

    def __call__(self, done: int, planned: int) -> None:
        """Show how much is done."""

    def training(self, record: Json) -> None:
        """Show a record of `nelbo.train`; not every record has a loss."""
        if "loss" in record:
            self.note = f"{record['loss']:.3f} bits/dim{self.bound}"
        if "bound" in record:
            self.bound = f", bound {record['bound']:.3f} ± {record['standard_error']:.3f}"
        self(record["step"], record["steps"])

    def estimate(self, bits_per_dim: float, standard_error: float) -> None:
        """Note the estimate of the bound so far."""
        self.note = f"{bits_per_dim:.4f} ± {standard_error:.4f} bits/dim"


class _Lines(Progress):
    """A plain line every `QUIET_SECONDS` at most."""

    def __init__(self, title: str):
        super().__init__(title)
        self.last_line = self.started

    def __call__(self, done: int, planned: int) -> None:
        now = time.monotonic()
        if now - self.last_line < QUIET_SECONDS:
            return
        self.last_line = now
        elapsed = now - self.started
        share = f" of {planned} ({100 * done / planned:.0f} %)" if planned else ""
        note = f", {self.note}" if self.note else ""
        left = f", {duration(elapsed * (planned - done) / done)} left" if planned > done > 0 else ""
        print(f"{self.title}: {done}{share}{note}, {elapsed:.0f} s{left}", file=sys.stderr, flush=True)


class _Bar(Progress):
    """A bar of rich, with the remaining time."""

    def __init__(self, title: str, bars: Any):
        super().__init__(title)
        self.bars = bars
        self.task = bars.add_task(title, total=None, note="")

    def __call__(self, done: int, planned: int) -> None:
        self.bars.update(self.task, completed=done, total=planned or None, note=self.note)


@contextmanager
def shown(title: str, silent: bool = False) -> Iterator[Progress]:
    """The progress of one piece of work on stderr; of a silent process nothing."""
    if silent:
        yield Progress(title)
        return
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True) as bars:
        yield _Bar(title, bars)

"""The progress of long work: a bar in a terminal, a line that renews itself in a notebook, plain lines elsewhere.

Work that knows something of its result tells it to the callback's method `result`, where it has one (`tell`).
Every long verb shows it by default where somebody looks on, that is in notebooks and where stderr is a terminal.
`NELBO_PROGRESS=0` in the environment turns that off. rich is imported when a bar is drawn.
"""

from __future__ import annotations

import functools
import html
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from nelbo.duration import duration
from nelbo.errors import UsageError

if TYPE_CHECKING:
    from nelbo.typing import Json

Verb = TypeVar("Verb", bound=Callable[..., Any])

QUIET_SECONDS = 10.0
"""Without a terminal, the least time between two lines."""
BRIEF_SECONDS = 0.5
"""Work that ends sooner shows nothing."""
SWITCH = "NELBO_PROGRESS"


class Progress:
    """Progress of one piece of work, called with (done, planned; 0 where not known); `note` is shown with it. This one
    shows nothing."""

    def __init__(self, title: str):
        self.title = title
        self.note = ""
        self.bound = ""
        self.unit = "bits/dim"
        self.started = time.monotonic()

    def __call__(self, done: int, planned: int) -> None:
        """Show how much is done."""

    def training(self, record: Json) -> None:
        """Show a record of `nelbo.train`; not every record has a loss."""
        if "loss" in record:
            self.note = f"{record['loss']:.3f} {record.get('unit', self.unit)}{self.bound}"
        if "bound" in record:
            self.bound = f", bound {record['bound']:.3f} ± {record['standard_error']:.3f}"
        self(record["step"], record["steps"])

    def result(self, text: str) -> None:
        """Note what is known of the result so far."""
        self.note = text

    def estimate(self, bits_per_dim: float, standard_error: float) -> None:
        """Note the estimate of the bound so far."""
        self.result(with_error(bits_per_dim, standard_error, unit=self.unit))

    def message(self, text: str) -> None:
        """A line about the work for a person."""
        to_stderr(text)

    def close(self) -> None:
        """End the display."""

    def line(self, done: int, planned: int) -> str:
        """Everything that is known, as text."""
        elapsed = time.monotonic() - self.started
        share = f" of {planned} ({100 * done / planned:.0f} %)" if planned else ""
        note = f", {self.note}" if self.note else ""
        left = f", {duration(elapsed * (planned - done) / done)} left" if planned > done > 0 else ""
        return f"{self.title}: {done}{share}{note}, {elapsed:.0f} s{left}"


class _Lines(Progress):
    """A plain line every `QUIET_SECONDS` at most."""

    def __init__(self, title: str):
        super().__init__(title)
        self.last_line = self.started

    def __call__(self, done: int, planned: int) -> None:
        now = time.monotonic()
        if now - self.last_line >= QUIET_SECONDS:
            self.last_line = now
            to_stderr(self.line(done, planned))


class _Bar(Progress):
    """A bar of rich, with the remaining time, which goes when the work ends."""

    def __init__(self, title: str):
        super().__init__(title)
        self.bars: Any = None  # until there is something to show

    def __call__(self, done: int, planned: int) -> None:
        if self.bars is None and time.monotonic() - self.started >= BRIEF_SECONDS:
            self._begin()
        if self.bars is not None:
            self.bars.update(self.task, completed=done, total=planned or None, note=self.note)

    def _begin(self) -> None:
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
        self.bars = Bars(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True)
        self.task = self.bars.add_task(self.title, total=None, note="")
        self.bars.start()

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()


class _Cell(Progress):
    """A line with a bar below the cell of a notebook, which goes when the work ends."""

    def __init__(self, title: str):
        super().__init__(title)
        self.handle: Any = None
        self.last = self.started

    def __call__(self, done: int, planned: int) -> None:
        now = time.monotonic()
        if now - self.last < BRIEF_SECONDS:
            return
        self.last = now
        bar = f'<progress value="{done}" max="{planned}"></progress> ' if planned else ""
        self._show(f"<div>{bar}{html.escape(self.line(done, planned))}</div>")

    def _show(self, text: str) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        if self.handle is None:
            self.handle = display(HTML(text), display_id=True)
        else:
            self.handle.update(HTML(text))

    def message(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        if self.handle is not None:
            self._show("")


def with_error(value: float, standard_error: float, *, unit: str = "bits/dim") -> str:
    """A value with its standard error, in words."""
    return f"{value:.4f} ± {standard_error:.4f} {unit}"


def in_unit(progress: Callable[..., Any] | bool | None, unit: str) -> None:
    """Let a callback that shows estimates show them in this unit; others are called with numbers alone."""
    if isinstance(progress, Progress):
        progress.unit = unit


def tell(progress: Callable[..., Any] | None, text: str) -> None:
    """Hand what is known of the result to a callback that shows it; others are called with numbers alone."""
    result = getattr(progress, "result", None)
    if callable(result):
        result(text)


def to_stderr(text: str) -> None:
    """Print a line there, or nothing where it cannot be written (a full disk, a reader that has gone): the work goes
    on, and its results and exit status say how it ended."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this is a kernel of Jupyter."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def on_terminal() -> bool:
    """Whether stderr is a terminal that can draw a bar."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def shown(title: str, silent: bool = False, lines: bool = True) -> Iterator[Progress]:
    """The progress of one piece of work, in the form that suits the place; of a silent process none.

    lines: whether there are plain lines where there is neither a notebook nor a terminal.
    """
    kind = _Cell if in_notebook() else _Bar if on_terminal() else _Lines if lines else Progress
    progress = (Progress if silent else kind)(title)
    try:
        yield progress
    finally:
        progress.close()


def shows_progress(title: str, *, records: bool = False) -> Callable[[Verb], Verb]:
    """A verb whose argument `progress` is a callback, True, False, or None: shown where somebody looks on.

    With it go `watch` and `message`, where the verb has them: the estimate is noted beside the bar, and messages are
    printed unless they have a place of their own. records: the callback takes a record of training.
    """

    def decorate(verb: Verb) -> Verb:
        parameters = inspect.signature(verb).parameters

        @functools.wraps(verb)
        def called(*args: Any, progress: Any = None, **options: Any) -> Any:
            if not (progress is None or isinstance(progress, bool) or callable(progress)):
                raise UsageError(f"progress={progress!r}", "give True, False, or a function to be called")
            if callable(progress) or not (progress or (progress is None and _looked_at(options.get("workers")))):
                return verb(*args, progress=progress if callable(progress) else None, **options)
            with shown(title) as bar:
                if "message" in parameters and options.get("message") is None:
                    options["message"] = bar.message
                if "watch" in parameters:
                    options["watch"] = _both(bar.estimate, options.get("watch"))
                return verb(*args, progress=bar.training if records else bar, **options)

        return called  # type: ignore[return-value]

    return decorate


def callback(progress: Any) -> Callable[..., Any] | None:
    """The function to call, which `shows_progress` has put in the place of True and None."""
    return progress if callable(progress) else None


def _looked_at(workers: Any) -> bool:
    """Whether this process shows progress unasked: there is somebody to see it, and it is the first of its run."""
    first = getattr(workers, "rank", 0) == 0 if workers is not None else os.environ.get("RANK", "0") == "0"
    return first and os.environ.get(SWITCH) != "0" and (in_notebook() or on_terminal())


def _both(one: Callable[..., None], other: Callable[..., None] | None) -> Callable[..., None]:
    def called(*args: Any) -> None:
        one(*args)
        if other is not None:
            other(*args)

    return called

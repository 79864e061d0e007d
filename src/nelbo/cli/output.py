"""Where a command's words go: results to stdout, everything else to stderr, and with --json one document alone."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nelbo.errors import UsageError

if TYPE_CHECKING:
    from nelbo.typing import Json


class Output:
    """The two streams of one command: results and the JSON document to stdout, messages to stderr; or silent."""

    def __init__(self, as_json: bool, silent: bool = False):
        self.as_json = as_json
        self.silent = silent
        self._stdout = sys.stdout

    def text(self, text: str) -> None:
        """A result for a person, to stdout; nothing where a JSON document is asked for."""
        if not self.as_json and not self.silent:
            print(text, file=self._stdout)

    def document(self, document: Json) -> None:
        """The result for a program, to stdout; nothing where it was not asked for."""
        if self.as_json and not self.silent:
            print(json.dumps(document, indent=2, allow_nan=False), file=self._stdout)

    def message(self, text: str) -> None:
        """A line about the work, to stderr, as it is: no markup, no wrapping."""
        if not self.silent:
            print(text, file=sys.stderr, flush=True)

    @property
    def on_one_screen(self) -> bool:
        """Whether stdout and stderr are both the terminal, so that saying something on both says it twice."""
        return not self.as_json and sys.stderr.isatty() and self._stdout.isatty()


@contextlib.contextmanager
def session(as_json: bool = False, silent: bool = False) -> Iterator[Output]:
    """The output of one command. Warnings become lines `warning: …` on stderr.

    Under --json whatever else prints meanwhile (a plugged-in network, say) goes to stderr. silent: of several
    processes that share the work this is one that leaves the talking to another.
    """
    output = Output(as_json, silent)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        from nelbo.bound.evaluate import NelboWarning

        kind = "" if issubclass(category, NelboWarning) else f"{category.__name__}: "
        output.message(f"warning: {kind}{' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield output


def check_target(path: Path, what: str, suffixes: tuple[str, ...] = ()) -> Path:
    """`path`, once it is sure that a file can be written there: before the work, not after an hour of it.

    Missing parent folders are made. Errors: UsageError, OSError.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(
            f"{what} {path}: the name ends in {path.suffix or 'nothing'!r}, which is no known form",
            f"give a file name that ends in {' or '.join(suffixes)}",
        )
    if path.is_dir():
        raise UsageError(f"{what} {path} is a folder", "give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(
            f"{what} {path} cannot be written: permission denied", "choose another place, or change its rights"
        )
    return path


def check_folder(path: Path, what: str) -> Path:
    """`path`, once it is sure to be a folder that can be written to, or none yet. Errors: UsageError."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{what} {path} is a file", "give the name of a folder; it is made where it is missing")
    if path.is_dir() and not os.access(path, os.W_OK):
        raise UsageError(
            f"{what} {path} cannot be written to: permission denied", "choose another place, or change its rights"
        )
    return path

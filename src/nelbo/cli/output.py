"""Output of a command: results to stdout and files, all else to stderr; with --json one document alone on stdout."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nelbo.cli import flags
from nelbo.errors import UsageError
from nelbo.progress import to_stderr

if TYPE_CHECKING:
    from nelbo.bound.difference import Comparison
    from nelbo.bound.result import Bound
    from nelbo.typing import Json


class Console:
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
            to_stderr(text)

    @property
    def on_one_screen(self) -> bool:
        """Whether stdout and stderr are both the terminal, so that a text written to both appears twice."""
        return not self.as_json and sys.stderr.isatty() and self._stdout.isatty()


@contextlib.contextmanager
def session(as_json: bool = False, silent: bool = False, one_process: bool = False) -> Iterator[Console]:
    """The output of one command. Warnings become lines `warning: …` on stderr.

    Under --json whatever else prints meanwhile (the network of a plug-in, say) goes to stderr. silent: print nothing,
    because another of several processes that share the work prints the results. one_process: the work is much, and is
    not shared. Errors: UsageError where it is not, and a launcher has started several processes.
    """
    from nelbo import runtime

    if one_process and runtime.launched():
        raise UsageError(
            f"{runtime.workers().size} processes were launched, and each would do all of this command's work",
            "start it without a launcher; processes share the work of evaluate, compare, ode, sample and train",
        )
    output = Console(as_json, silent)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        from nelbo.bound.checks import NelboWarning

        kind = "" if issubclass(category, NelboWarning) else f"{category.__name__}: "
        output.message(f"warning: {kind}{flags.translated(' '.join(str(message).split()))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield output


@contextlib.contextmanager
def shared_session(as_json: bool = False) -> Iterator[Console]:
    """The output of a command whose work several processes may share: one prints, and all wait for the last."""
    from nelbo import runtime

    with session(as_json, silent=not runtime.leads()) as output:
        yield output
        runtime.finish()


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


def deliver(bound: Bound | Comparison, output: Console, out: Path | None, per_example: Path | None) -> None:
    """The result of a command that scores data: files first, then the screen."""
    from nelbo.files import write_atomic

    if output.silent:
        return
    if per_example is not None and bound.per_example is not None:
        write_atomic(per_example, _rows(bound.rows(), bound.examples, per_example))
    elif per_example is not None:
        output.message(f"warning: {per_example} was not written: not every example was finished")
    document = bound.to_dict()
    if out is not None:
        write_atomic(out, json.dumps(document, indent=2, allow_nan=False) + "\n")
    output.document(document)
    output.text(table(bound, output))


def table(bound: Bound | Comparison, output: Console) -> str:
    """The table; without its warnings where the same screen has them already."""
    warnings = () if output.on_one_screen else tuple(flags.translated(text) for text in bound.warnings)
    return str(dataclasses.replace(bound, warnings=warnings))


def _rows(columns: Mapping[str, Any], examples: int, path: Path) -> bytes:
    """The file of --per-example: index and columns such as nats, standard_error and the terms, each (N,), as NPZ or,
    by its name, CSV."""
    import numpy as np

    arrays = {"index": np.arange(examples), **{name: np.asarray(values) for name, values in columns.items()}}
    if path.suffix.lower() == ".csv":
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(arrays)
        rows.writerows(zip(*(values.tolist() for values in arrays.values()), strict=True))
        return text.getvalue().encode()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()

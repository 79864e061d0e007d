"""Failures as one line `error: …`, one line `hint: …` and an exit status; a traceback only on request."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple

from nelbo import runtime
from nelbo.cli import flags
from nelbo.errors import Interrupted, NelboError
from nelbo.progress import to_stderr

TRACEBACK = "NELBO_TRACEBACK"
"""Environment variable: set to 1, failures also print the traceback."""


class Failure(NamedTuple):
    """The two lines of a failure and its exit status: 2 bad input or usage, 130 interrupted, 1 a bug."""

    message: str
    hint: str
    status: int = 2


def report(error: BaseException, arguments: Sequence[str] = ()) -> int:
    """Print the failure of `nelbo ARGUMENTS` on stderr and return the exit status. Of several processes one prints."""
    failure = describe(error, arguments)
    if not runtime.reports_failure():
        return failure.status
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
    for name, text in (("error", failure.message), ("hint", failure.hint)):
        to_stderr(f"{name}: {' '.join(line.strip() for line in text.splitlines())}")
    return failure.status


def describe(error: BaseException, arguments: Sequence[str] = ()) -> Failure:
    """The failure for an exception of `nelbo ARGUMENTS`."""
    if isinstance(error, NelboError):
        message, hint = flags.translated(error.message), flags.translated(error.hint)
        return Failure(message, hint, 130 if isinstance(error, Interrupted) else 2)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return Failure("interrupted before it was done", "run the same command again", 130)
    if hasattr(error, "format_message"):  # click's usage errors, whether typer brings its own click or not
        return _usage(error, arguments)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error):
        return Failure(
            f"out of memory: {str(error) or 'no more can be had'}",
            "give a smaller --batch-size or a smaller --limit, or a model with fewer parameters",
        )
    return Failure(
        f"internal: {type(error).__name__}: {error}",
        f"set {TRACEBACK}=1 and run again to see where; unless that is in your own module, it is a bug of nelbo: "
        "please report it with the command and that text",
        1,
    )


_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another --out",
    errno.EDQUOT: "free some space, or choose another --out",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another --out",
    errno.EACCES: "choose another place, or change its rights",
    errno.EPERM: "choose another place, or change its rights",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOENT: "check how the path is written",
    errno.EEXIST: "a part of the path is a file and not a folder; choose another path",
    errno.ENOTDIR: "a part of the path is a file and not a folder; choose another path",
    errno.EISDIR: "give the name of a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
}


def _system(error: OSError) -> Failure:
    places = [os.fsdecode(f) for f in (error.filename, error.filename2) if isinstance(f, (str, bytes))]
    where = places[-1] if places else "a stream"
    reason = error.strerror or str(error) or type(error).__name__
    return Failure(
        f"{where}: {reason[:1].lower()}{reason[1:]}", _REMEDIES.get(error.errno or 0, "check the path and the disk")
    )


def _usage(error: Any, arguments: Sequence[str]) -> Failure:
    ctx = getattr(error, "ctx", None)
    path = getattr(ctx, "command_path", "nelbo")
    see = f"see `{path} --help`"
    kind = type(error).__name__
    if ctx is not None and kind == "NoSuchOption":
        options = [o for p in ctx.command.get_params(ctx) for o in getattr(p, "opts", ()) if o.startswith("-")]
        return Failure(f"`{path}` has no option {error.option_name}", _choices(error.option_name, options))
    message = str(error.format_message()).strip()
    unknown = re.match(r"No such command ['\"](.*?)['\"]\.", message)
    if unknown and ctx is not None:
        return Failure(f"there is no command {unknown[1]!r}", _choices(unknown[1], ctx.command.list_commands(ctx)))
    if kind == "MissingParameter" and ctx is not None:
        return Failure(
            message.rstrip(".").replace("Missing", "missing", 1),
            " ".join(ctx.get_usage().replace("Usage:", "usage:").split()),
        )
    for option in getattr(getattr(error, "param", None), "opts", ()):
        given = next((b for a, b in pairwise(arguments) if a == option), None)
        if given is not None:
            reason = message.partition(": ")[2].removeprefix("Value error, ")
            return Failure(f"{option} {given}: {reason[:1].lower()}{reason[1:]}", see)
    return Failure(f"{message[:1].lower()}{message[1:]}".rstrip("."), see)


def _choices(name: str, choices: list[str]) -> str:
    near = get_close_matches(name, choices, n=1, cutoff=0.7)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}choose one of: {', '.join(choices)}"

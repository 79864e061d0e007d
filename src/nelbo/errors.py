"""One hierarchy of errors; every message restates the input and every hint gives the remedy.

The command line prints `error: {message}` and `hint: {hint}` and exits with status 2; in Python the same two
sentences are the text of the exception. `NelboError` itself is never raised, only its subclasses.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class NelboError(Exception):
    """Base of all errors that nelbo raises on purpose.

    `message` says what was given and why it cannot be used; `hint` says what to do instead.
    """

    def __init__(self, message: str, hint: str):
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\nhint: {hint}")

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class UsageError(NelboError):
    """An option, argument or combination of them that means nothing."""


class ShapeError(NelboError):
    """A tensor whose shape does not fit the model's domain."""


class DomainError(NelboError):
    """Values outside the declared data domain: NaN, codes beyond the bins, floats where codes are expected."""


class DataError(NelboError):
    """A data source that is missing, unreadable or not of a known form."""


class ModelFolderError(NelboError):
    """A model folder with a missing, truncated, altered or unknown file."""


class ArchiveError(NelboError):
    """A compressed file that is damaged, of another format, or does not decode to what was encoded.

    `lost`: the images that could not be recovered, as (first, past the last); `recovered`: where the
    recovered images are; None where there are none.
    """

    lost: tuple[tuple[int, int], ...] = ()
    recovered: object = None


class NumericalError(NelboError):
    """A network or formula that produced NaN or infinity."""


class WorkerError(NelboError):
    """A run of several processes that lost one of them."""


class UnknownNameError(NelboError):
    """A name that is none of the known ones; the hint lists them."""

    @classmethod
    def of(cls, kind: str, name: object, choices: Iterable[str]) -> UnknownNameError:
        """Build the error for `name`, an unknown `kind`, listing `choices` and the nearest of them."""
        known = sorted(choices)
        near = get_close_matches(str(name), known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        return cls(f"unknown {kind} {name!r}", f"{guess}choose one of: {', '.join(known)}")


class CostError(NelboError):
    """An estimate that is planned to cost far more than is usual, to which nobody agreed; it stopped after the pilot.

    evaluations: those planned. pilot: what the pilot says of the terms, an `Estimate`; None where there is none.
    """

    evaluations: float = 0.0
    pilot: Any = None


class Interrupted(NelboError):
    """The user stopped a long job; what was done is saved, and the hint says how to go on. Exit status 130."""

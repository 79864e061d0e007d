"""Where data are: a DATA string as a path with options, opened where it is a regular file; and what it may declare.

    PATH#OPTION#NAME=VALUE        a path that exists as it is written has no options, also where it contains '#'

A FIFO or a device may block or never end, so that neither is opened. Sizes that a file declares are compared with its
own before memory is taken.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nelbo.errors import DataError, UnknownNameError

INFLATED = 256
"""Most bytes that a compressed byte of data may stand for; deflate reaches 1032 where all are zero."""
SMALL, MOST_OF_SMALL = 10 << 20, 768 << 20
"""Most bytes that a small compressed file may stand for."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_REMEDIES = {
    errno.EACCES: "change its rights, or give a copy",
    errno.EPERM: "change its rights, or give a copy",
    errno.ELOOP: "a link leads back to itself; remove it",
    errno.ENAMETOOLONG: "give a shorter name",
}


@dataclass(frozen=True)
class Place:
    """A path, and the options behind it: bare words, and values by name."""

    path: Path
    words: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, spec: str) -> Place:
        """From a DATA string. Errors: DataError for a path that cannot be one."""
        pieces = spec.split("#")
        whole = next((n for n in range(len(pieces), 0, -1) if os.path.lexists(path_of("#".join(pieces[:n])))), 1)
        options = [piece.partition("=") for piece in pieces[whole:]]
        return cls(
            path_of("#".join(pieces[:whole])),
            tuple(name for name, mark, _ in options if not mark),
            tuple((name, value) for name, mark, value in options if mark),
        )

    def checked(self, names: tuple[str, ...], words: int = 0) -> dict[str, str]:
        """The values by name. Errors: UnknownNameError for one that is not in `names`; DataError for words too many."""
        for name, _ in self.values:
            if name not in names:
                raise UnknownNameError.of(f"option of the data {self.path}", name, names)
        if len(self.words) > words:
            known = ", ".join(f"#{name}=…" for name in names)
            raise DataError(
                f"{self.path} is followed by {'#' + '#'.join(self.words)!r}, which is no option of such data",
                f"its options are: {known}" if known else "leave it out",
            )
        return dict(self.values)


def path_of(text: str) -> Path:
    """The path that `text` names, `~` expanded. Errors: DataError."""
    if "\0" in text:
        raise DataError(f"the data {text!r}: a path has no NUL character", "check how the path is written")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"the data {text!r}: there is no such home folder", "write the path in full") from None


def is_folder(path: Path) -> bool:
    """Whether there is a folder at the path; False where that cannot be looked at."""
    try:
        return path.is_dir()
    except OSError:  # no right to look, or a name that is too long
        return False


def is_file(path: Path) -> bool:
    """Whether there is a regular file at the path; False where that cannot be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def status(path: Path) -> os.stat_result:
    """The status of a regular file. Errors: DataError for whatever is none, or cannot be looked at."""
    try:
        result = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(result.st_mode):
        raise DataError(f"{path} is {kind(result.st_mode)} and not a regular file", "copy the data into a file")
    return result


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Errors: DataError."""
    status(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        yield file


def kind(mode: int) -> str:
    """What a file of this mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a path that the system refuses."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return DataError(f"there is no file {path}", "check the path")
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return DataError(f"{path} cannot be read: {reason}", _REMEDIES.get(error.errno or 0, "check the path and the disk"))


def check_inflated(declared: int, stored: int, what: str) -> None:
    """Errors: DataError where `declared` bytes are more than `stored` compressed ones may stand for."""
    allowed = min(INFLATED * stored, MOST_OF_SMALL) if stored < SMALL else INFLATED * stored
    if declared > max(allowed, 1 << 20):
        raise DataError(
            f"{what} declares {declared} bytes of data, {declared / max(stored, 1):.0f} times the {stored} bytes that "
            "it is compressed to",
            "read a part of it by a limit; or, if it is meant, write it uncompressed, as with numpy.save",
        )


def printable(name: str) -> str:
    """A file's name as text that can be printed and stored; bytes that are no UTF-8 are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

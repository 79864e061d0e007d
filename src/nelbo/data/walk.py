"""The files of a folder, with links followed, in one order; and a reason for every entry that is none of them."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nelbo.data import places
from nelbo.errors import DataError

MET = 64
"""How often one folder may be reached through links."""


@dataclass(frozen=True)
class File:
    """A regular file: its path relative to the folder, with '/', and where it is; size and time of its content."""

    name: str
    path: Path
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, name: str, path: Path, status: os.stat_result) -> File:
        return cls(name, path, status.st_size, status.st_mtime_ns)


def files(folder: Path) -> tuple[list[File], list[tuple[str, str]]]:
    """All regular files below `folder` that are not hidden, and (name, reason) of all other entries.

    A link stands for what it leads to; one that leads to a folder above itself is not followed. Errors: DataError for a
    folder that cannot be read and for one that links reach more than `MET` times.
    """
    regular: list[File] = []
    passed: list[tuple[str, str]] = []
    met: Counter[tuple[int, int]] = Counter()
    root = folder.stat()
    waiting: list[tuple[Path, str, frozenset[tuple[int, int]]]]
    waiting = [(folder, "", frozenset({(root.st_dev, root.st_ino)}))]
    while waiting:
        place, prefix, above = waiting.pop()
        inside = entries(place)
        if not inside and prefix:
            passed.append((prefix, "an empty folder"))
        for entry in inside:
            name = prefix + entry.name
            if entry.name.startswith("."):
                passed.append((name, "hidden"))
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink():
                    raise places.unreadable(Path(entry.path), error) from None
                passed.append((name, "a link that leads nowhere"))
                continue
            if stat.S_ISREG(status.st_mode):
                regular.append(File.of(name, Path(entry.path), status))
            elif not stat.S_ISDIR(status.st_mode):
                passed.append((name, places.kind(status.st_mode)))
            else:
                key = (status.st_dev, status.st_ino)
                met[key] += 1
                if met[key] > MET:
                    raise DataError(
                        f"links below {folder} lead to {entry.path} more than {MET} times", "remove the links"
                    )
                if key in above:
                    passed.append((name, "a link to a folder above it"))
                else:
                    waiting.append((Path(entry.path), f"{name}/", above | {key}))
    return regular, sorted(passed)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder. Errors: DataError where it cannot be read."""
    try:
        with os.scandir(folder) as iterator:
            return list(iterator)
    except OSError as error:
        problem = places.unreadable(folder, error)
        raise DataError(f"the folder {problem.message}", problem.hint) from None


def in_order(names: Iterable[str]) -> list[str]:
    """Relative paths as text in the order of their characters; what is in one folder by number, where all of it are
    numbers (1.png, 2.png, 10.png)."""
    names = list(names)
    widths: dict[str, int | None] = {}  # of the numbers in a folder; None where not all are numbers
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            parent, number = "/".join(parts[:depth]), _number(part, depth + 1 == len(parts))
            width = widths.get(parent, 0)
            widths[parent] = None if width is None or number is None else max(width, len(number))

    def key(name: str) -> str:
        parts = name.split("/")
        for depth, part in enumerate(name.split("/")):
            width = widths["/".join(name.split("/")[:depth])]
            number = _number(part, depth + 1 == len(parts))
            if width is not None and number is not None:
                parts[depth] = f"{number.rjust(width, '0')} {part}"
        return "/".join(parts)

    return sorted(names, key=key)


def _number(part: str, file: bool) -> str | None:
    """The digits of a name that is a number, without zeros before them; None where it is none."""
    stem = posixpath.splitext(part)[0] if file else part
    return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdigit() else None

"""Names of the pictures of a folder: packed in an archive, and as the paths at which they are restored.

A name is a path relative to its folder, with `/` between its parts, as bytes: what is not UTF-8 is kept as it is
(`surrogateescape`). It is restored at itself; a picture whose format loses pixels is restored as PNG, at its name with
`.png` behind it. This map is injective on every archive: two names of one path are refused by `Restored`, in which both
`compress` and `decompress` enter every name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from nelbo.codec.stack import Damaged

LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
"""Endings of pictures that keep every pixel; a name with another ending gets .png appended."""
LONGEST, LONGEST_PART = 4096, 255
"""Bytes of a path and of each of its parts that Linux allows."""
MOST = 1 << 26
"""Bytes of all names of a chunk, unpacked: names that count up take a few bytes in the file, however many they are."""
_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})([^0-9]*)")
_ERRORS = "surrogateescape"


class Unusable(Exception):
    """A name that cannot be kept or restored, and why."""


class Restored:
    """The paths of the names that were entered so far."""

    def __init__(self):
        self._names: dict[str, str] = {}
        self._folders: set[str] = set()

    def enter(self, name: str) -> PurePosixPath:
        """The path at which a picture of this name is restored. Errors: `Unusable`, also where another has it."""
        path = restored(name)
        text = str(path)
        above = [str(folder) for folder in path.parents if str(folder) != "."]
        if text in self._names:
            raise Unusable(f"{shown(self._names[text])} and {shown(name)} would both be restored as {shown(text)}")
        if text in self._folders or any(folder in self._names for folder in above):
            raise Unusable(f"{shown(name)} is restored as {shown(text)}, where another name has a file or a folder")
        self._names[text] = name
        self._folders.update(above)
        return path


def restored(name: str) -> PurePosixPath:
    """The path of a name below the folder that is restored. Errors: `Unusable`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise Unusable(f"{shown(name)} is no path below a folder")
    if "\0" in name or "\n" in name or (os.sep == "\\" and any(sign in name for sign in "\\:")):
        raise Unusable(f"{shown(name)} has characters that no file name has here")
    path = PurePosixPath(name)
    if path.suffix.lower() not in LOSSLESS:
        path = path.with_name(path.name + ".png")
    data = str(path).encode(errors=_ERRORS)
    if len(data) > LONGEST or any(len(part) > LONGEST_PART for part in data.split(b"/")):
        raise Unusable(f"{shown(name)} would be restored under a name of more than {LONGEST_PART} bytes")
    return path


def packed(names: Sequence[str]) -> bytes:
    """Names as one text: one a line; or, if they count up, the text around the number and the first number.

    Errors: `Unusable` where they are too long together.
    """
    numbered = _NUMBERED.fullmatch(names[0]) if names else None
    if numbered is not None:
        before, number, behind = numbered.groups()
        text = f"\n{before}\n{len(number)}\n{int(number)}\n{behind}".encode(errors=_ERRORS)
        if _fits(text, len(names)) and unpacked(text, len(names)) == list(names):
            return text
    text = "\n".join(names).encode(errors=_ERRORS)
    if not _fits(text, len(names)):
        raise Unusable(f"the names of {len(names)} pictures of a chunk have more than {MOST} bytes together")
    return text


def unpacked(text: bytes, n: int) -> list[str]:
    """The names of n images, none where there are none: the inverse of `packed`. Errors: `Damaged`."""
    lines = text.split(b"\n", n + 4)
    if not text.startswith(b"\n"):
        if text and len(lines) != n:
            raise Damaged(f"names of another number than {n}")
        return [line.decode(errors=_ERRORS) for line in lines] if text else []
    if len(lines) != 5 or not (lines[2].isdigit() and lines[3].isdigit()):
        raise Damaged("names that cannot be read")
    if len(lines[2]) > 3 or len(lines[3]) > 18 or int(lines[2]) > LONGEST_PART or not _fits(text, n):
        raise Damaged("names of impossible length")
    before, behind = (line.decode(errors=_ERRORS) for line in (lines[1], lines[4]))
    width, first = int(lines[2]), int(lines[3])
    return [f"{before}{first + i:0{width}d}{behind}" for i in range(n)]


def _fits(text: bytes, n: int) -> bool:
    """Whether the n names of a packed text have at most `MOST` bytes together."""
    if not text.startswith(b"\n"):
        return len(text) <= MOST
    lines = text.split(b"\n")
    return len(lines) == 5 and n * (len(lines[1]) + len(lines[4]) + max(19, int(lines[2]))) <= MOST


def shown(name: str) -> str:
    """A name in a message: quoted, on one line, and cut if it is long."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:60]}…{text[-40:]}"

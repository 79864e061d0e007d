"""A folder of pictures: all of them in one order, their labels, and by name whatever else is in the folder."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from nelbo.data import arrays, classes, listings, pictures, places, walk
from nelbo.data.walk import File
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
"""Names of folders, in any case, that hold a part of a data set rather than a class."""


def is_folder(spec: str) -> bool:
    """Whether a DATA string is a folder, or a folder with the choice of one of its sub-folders: FOLDER:train."""
    above = spec.rpartition(":")[0]
    return places.is_folder(places.path_of(spec)) or (above != "" and places.is_folder(places.path_of(above)))


def path_of(spec: str) -> Path:
    """The folder that a DATA string names. Errors: UnknownNameError for a sub-folder that is not there."""
    path = places.path_of(spec)
    if places.is_folder(path):
        return path
    root, _, part = spec.rpartition(":")
    above = places.path_of(root)
    if part in ("", ".", "..") or "/" in part or not places.is_folder(above / part):
        known = [e.name for e in walk.entries(above) if places.is_folder(Path(e.path)) and e.name[0] != "."]
        raise UnknownNameError.of(f"sub-folder of {root}", part, map(places.printable, known))
    return above / part


def read_folder(spec: str, limit: int | None = None) -> Examples:
    """All pictures below a folder as codes (N, H, W) or (N, 3, H, W) uint8, in the order of `walk.in_order`.

    Labels: those of a listing in the folder (see `listings`), else the first sub-folder of every picture, whose name is
    the class. What Pillow opens is a picture, whatever its ending; other entries are named in `Examples.facts`. With
    `limit`, only the first so many pictures are decoded. If there are many, they are decoded when they are needed and
    not kept (see `LazyRows`).
    Errors: DataError for no pictures, an unreadable one, sizes or modes that differ (two of them are named), parts of a
    data set in the place of classes, a listing that does not fit.
    """
    folder = path_of(spec)
    image = pictures.pillow(f"the pictures of {spec}")
    files, passed = walk.files(folder)
    listed = listings.listing(files)
    chosen, others = _pictures(folder, files)
    if not chosen:
        raise DataError(
            f"the folder {folder} holds no pictures ({len(files)} other files)",
            f"pictures are what Pillow opens, such as {', '.join(pictures.ENDINGS[:8])}; for arrays give FILE.npz",
        )
    passed += [(file.name, "no picture") for file in others if listed is None or file.path != listed.path]
    if listed is not None and listed.unused:
        passed.append((listed.path.name, f"columns that are not read: {', '.join(listed.unused)}"))
    elif listed is not None and listed.labels is None:
        passed.append((listed.path.name, "no labels in it"))
    count = len(chosen) if limit is None else min(limit, len(chosen))
    labels, names = _labels(spec, [file.name for file in chosen], listed)

    def read(rows: list[int]) -> list[tuple[np.ndarray, str]]:
        return [_read(image, chosen[row]) for row in rows]

    data, kind = pictures.stacked(count, read, lambda row: places.printable(chosen[row].name), str(folder))
    return Examples(
        data,
        places.printable(spec if count == len(chosen) else f"{spec}[:{count}]"),
        None if labels is None else labels[:count],
        2 if kind == pictures.MODES["1"] else 256,
        classes=names,
        names=tuple(file.name for file in chosen[:count]),
        facts=arrays.passed_over([(places.printable(name), reason) for name, reason in sorted(passed)]),
    )


def names(folder: Path, limit: int | None = None) -> list[str]:
    """The names of the pictures that `read_folder` reads, relative to the folder, in its order. Errors: DataError."""
    return [file.name for file in _pictures(folder, walk.files(folder)[0])[0][:limit]]


def _pictures(folder: Path, files: list[File]) -> tuple[list[File], list[File]]:
    """The files that are pictures, in order, and the others. Errors: DataError for other kinds of pictures."""
    chosen: dict[str, File] = {}
    others = []
    for file in files:
        ending = posixpath.splitext(file.name)[1].lower()
        if ending in pictures.ENDINGS or pictures.recognised(file.path):
            chosen[file.name] = file
        elif ending in pictures.FOREIGN:
            raise DataError(
                f"the folder {folder} holds pictures of a format that is not read: {places.printable(file.name)}",
                "convert them, for instance to PNG, or move them away",
            )
        else:
            others.append(file)
    return [chosen[name] for name in walk.in_order(chosen)], others


def _read(image, file: File) -> tuple[np.ndarray, str]:
    with places.opened(file.path) as stream:
        now = os.fstat(stream.fileno())
        if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
            raise DataError(f"{file.path} has changed while it was used", "start again when nothing writes to it")
        with pictures.opened(image, stream, str(file.path)) as opened:
            return pictures.codes(opened, str(file.path)), pictures.MODES[opened.mode]


def _labels(
    spec: str, relative: Sequence[str], listed: listings.Listing | None
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels and names of classes. Errors: DataError for parts of a data set in the place of classes."""
    tops = dict.fromkeys(name.split("/")[0] for name in relative if "/" in name)
    parts = [top for top in tops if top.lower() in SPLITS]
    if len(parts) > 1 or (parts and len(parts) == len(tops) and listed is None):
        some = walk.in_order(parts)
        raise DataError(
            f"the folder {spec} holds {', '.join(f'{part}/' for part in some)}: parts of a data set and not classes",
            f"choose one, as in {spec}:{some[-1]}",
        )
    if listed is not None:
        return listed.of(relative)
    below = dict.fromkeys(name.split("/")[1] for name in relative if name.count("/") > 1)
    if len(parts := [part for part in below if part.lower() in SPLITS]) > 1:
        raise DataError(
            f"the folders in {spec} hold {', '.join(f'{part}/' for part in walk.in_order(parts))}: parts of a data set",
            "give each part a folder of its own that holds the classes, as train/cat and test/cat",
        )
    if any("/" not in name for name in relative):
        return None, ()
    return classes.numbered([name.split("/")[0] for name in relative], f"the folder {spec}")

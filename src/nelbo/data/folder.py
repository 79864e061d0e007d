"""A folder of images: every picture in it and its sub-folders, in the order of their relative paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nelbo.data import arrays, pictures
from nelbo.errors import DataError
from nelbo.model.examples import Examples

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Pictures of formats that are not read; skipping them would drop data silently.
_OTHER_PICTURES = (".avif", ".gif", ".heic", ".j2k", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".tga")


def read_folder(folder: Path, limit: int | None = None) -> Examples:
    """All pictures below `folder` as codes (N, H, W) or (N, 3, H, W) uint8, sorted by relative path (as text).

    Labels: the index of the first sub-folder's name among the sorted names, if every picture is in a sub-folder.
    Hidden files and files that are no pictures are skipped. With `limit`, only the first so many are opened. If there
    are many pictures, they are decoded when they are needed and not kept (see `LazyRows`).
    Errors: DataError for no pictures, an unreadable one, and sizes or modes that differ (two of them are named).
    """
    paths = _pictures(folder)
    count = len(paths) if limit is None else min(limit, len(paths))
    image = pictures.pillow(f"the pictures of {folder}")
    name = str(folder) if count == len(paths) else f"{folder}[:{count}]"

    def read(rows: list[int]) -> list[tuple[np.ndarray, str]]:
        return [_read(image, paths[row]) for row in rows]

    data, kind = pictures.stacked(count, read, lambda row: paths[row].name, str(folder))
    labels = _labels([p.relative_to(folder) for p in paths])
    bins = 2 if kind == pictures.MODES["1"] else 256
    return Examples(data, name, None if labels is None else arrays.labels(labels[:count]), bins)


def names(folder: Path, limit: int | None = None) -> list[str]:
    """The names of the pictures that `read_folder` reads, relative to the folder, in its order. Errors: DataError."""
    return [p.relative_to(folder).as_posix() for p in _pictures(folder)[:limit]]


def _pictures(folder: Path) -> list[Path]:
    try:
        files = [p for p in folder.rglob("*") if p.is_file()]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error}", "check its permissions") from None
    visible = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    visible.sort(key=lambda p: p.relative_to(folder).as_posix())
    foreign = [p for p in visible if p.suffix.lower() in _OTHER_PICTURES]
    if foreign:
        raise DataError(
            f"the folder {folder} holds pictures of a format that is not read: {foreign[0].relative_to(folder)}",
            f"convert them or move them away; the formats that are read are {', '.join(ENDINGS)}",
        )
    chosen = [p for p in visible if p.suffix.lower() in ENDINGS]
    if not chosen:
        raise DataError(
            f"the folder {folder} holds no pictures ({len(files)} other files)",
            f"the formats that are read are {', '.join(ENDINGS)}",
        )
    return chosen


def _read(image, path: Path) -> tuple[np.ndarray, str]:
    try:
        opened = image.open(path)
    except Exception as error:  # each of Pillow's plugins fails in its own way on foreign bytes
        raise DataError(f"{path} is not a readable picture: {error}", "remove it or fetch it again") from None
    with opened:
        return pictures.codes(opened, str(path)), pictures.MODES[opened.mode]


def _labels(relative: list[Path]) -> list[int] | None:
    if any(len(p.parts) < 2 for p in relative):
        return None
    index = {name: i for i, name in enumerate(sorted({p.parts[0] for p in relative}))}
    return [index[p.parts[0]] for p in relative]

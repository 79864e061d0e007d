"""A folder of images: every picture in it and its sub-folders, in the order of their relative paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nelbo.data import arrays, picture
from nelbo.data.lazy import STREAMED, LazyRows
from nelbo.errors import DataError
from nelbo.model.examples import Examples

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Pictures too, but of kinds that are not read: to pass over them would be to drop data silently.
_OTHER_PICTURES = (".avif", ".gif", ".heic", ".j2k", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".tga")


def read_folder(folder: Path, limit: int | None = None) -> Examples:
    """All pictures below `folder` as codes (N, H, W) or (N, 3, H, W) uint8, sorted by relative path (as text).

    Labels: the number of the first sub-folder's name among the sorted names, where every picture is in a sub-folder.
    Hidden files and files that are no pictures are passed over. With `limit`, only the first so many are opened. Many
    pictures are decoded whenever they are asked for, and not kept (see `LazyRows`).
    Errors: DataError for no pictures, an unreadable one, and sizes or modes that differ (the first two are named).
    """
    paths = _pictures(folder)
    chosen = paths[:limit]
    image = picture.pillow(f"the pictures of {folder}")
    name = str(folder) if len(chosen) == len(paths) else f"{folder}[:{len(chosen)}]"
    labels = _labels([p.relative_to(folder) for p in paths])
    told = None if labels is None else arrays.labels(labels[: len(chosen)])
    first = _read(image, chosen[0])
    if first[0].nbytes * len(chosen) >= STREAMED:
        return Examples(_lazy(image, chosen, *first).as_data(), name, told, picture.bins(first[1]))
    read = [first, *(_read(image, path) for path in chosen[1:])]
    for path, codes, mode in zip(chosen, *zip(*read, strict=True), strict=True):
        if (codes.shape, mode) != (read[0][0].shape, read[0][1]):
            raise DataError(
                f"the pictures of {folder} differ: {_about(chosen[0], *read[0])}, but {_about(path, codes, mode)}",
                "give pictures of one size and one mode; nothing is resized, cropped or converted",
            )
    return Examples(arrays.tensor(np.stack([codes for codes, _ in read]), name), name, told, picture.bins(first[1]))


def names(folder: Path, limit: int | None = None) -> list[str]:
    """The names of the pictures that `read_folder` reads, relative to the folder, in its order. Errors: DataError."""
    return [p.relative_to(folder).as_posix() for p in _pictures(folder)[:limit]]


def _lazy(image, paths: list[Path], first: np.ndarray, mode: str) -> LazyRows:
    """The pictures behind a function that reads some; each is compared with the first one as it is read."""

    def decode(rows: list[int]) -> torch.Tensor:
        stack = []
        for row in rows:
            codes, its = _read(image, paths[row])
            if (codes.shape, its) != (first.shape, mode):
                raise DataError(
                    f"the pictures differ: {_about(paths[0], first, mode)}, but {_about(paths[row], codes, its)}",
                    "give pictures of one size and one mode; nothing is resized, cropped or converted",
                )
            stack.append(codes)
        return torch.from_numpy(np.stack(stack))

    return LazyRows(torch.arange(len(paths)), first.shape, decode)


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
            f"the folder {folder} holds pictures of a kind that is not read: {foreign[0].relative_to(folder)}",
            f"convert them or move them away; read are {', '.join(ENDINGS)}",
        )
    pictures = [p for p in visible if p.suffix.lower() in ENDINGS]
    if not pictures:
        raise DataError(
            f"the folder {folder} holds no pictures ({len(files)} other files)", f"read are {', '.join(ENDINGS)}"
        )
    return pictures


def _read(image, path: Path) -> tuple[np.ndarray, str]:
    try:
        opened = image.open(path)
    except Exception as error:  # each of Pillow's plugins has its own ways to fail on foreign bytes
        raise DataError(f"{path} is not a readable picture: {error}", "remove it or fetch it again") from None
    with opened:
        return picture.codes(opened, str(path)), opened.mode


def _about(path: Path, codes: np.ndarray, mode: str) -> str:
    return f"{path.name} is {codes.shape[-1]}×{codes.shape[-2]} {picture.MODES[mode]}"


def _labels(relative: list[Path]) -> list[int] | None:
    if any(len(p.parts) < 2 for p in relative):
        return None
    number = {name: i for i, name in enumerate(sorted({p.parts[0] for p in relative}))}
    return [number[p.parts[0]] for p in relative]

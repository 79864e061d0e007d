"""IDX: the format of MNIST. Four bytes of magic (0, 0, type, number of axes), the axes as big-endian uint32, the data.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from nelbo.data import arrays, places
from nelbo.errors import DataError
from nelbo.model.examples import Examples

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AXES = 32
"""More axes than any data have; numpy's arrays have up to 64."""
_NAME = re.compile(r"[-.]idx\d-|-ubyte(\.gz)?$")
_REMEDY = "it is truncated, altered or not IDX; fetch it again"


def is_idx(path: Path) -> bool:
    """Whether the file's name is that of an IDX file: `…-ubyte`, `…-ubyte.gz`, `…-idx3-…`."""
    return bool(_NAME.search(path.name))


def read_idx(path: Path, limit: int | None = None) -> Examples:
    """An IDX file of images as examples (N, H, W), with the labels of its companion file if there is one next to it.

    The companion of `t10k-images-idx3-ubyte.gz` is `t10k-labels-idx1-ubyte.gz` or `t10k-labels-idx1-ubyte`. limit: read
    no more than so many images. Errors: DataError for a wrong magic number, sizes that do not fit, a damaged gzip
    stream, a companion that is damaged or has another length.
    """
    images, shape = load(path, limit)
    if len(shape) < 2:
        raise DataError(
            f"{path} holds {math.prod(shape)} numbers on one axis: labels, not images", "give the file of the images"
        )
    name = str(path) if len(images) == shape[0] else f"{path}[:{len(images)}]"
    data = arrays.tensor(images, str(path))
    companion = _companion(path)
    if companion is None:
        return Examples(data, name)
    labels, labels_shape = load(companion, limit)
    if labels_shape != shape[:1]:
        raise DataError(
            f"{companion} has labels of shape {labels_shape} for the {shape[0]} images of {path}",
            "put the labels that belong to these images next to them, or move the file away",
        )
    return Examples(data, name, arrays.labels(labels))


def load(path: Path, limit: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    """The array of an IDX file, plain or gzip, or its first rows; and the shape that the file declares.

    Errors: DataError.
    """
    with places.opened(path) as file:
        stored = os.fstat(file.fileno()).st_size
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
            dtype, shape, start = _header(stream, path)
            rows = shape[0] if limit is None else min(limit, shape[0])
            whole, wanted = math.prod(shape) * dtype.itemsize, rows * math.prod(shape[1:]) * dtype.itemsize
            if packed:
                places.check_inflated(wanted, stored, str(path))
            elif stored - start != whole:
                raise _misfit(path, shape, whole, stored - start)
            raw = stream.read(wanted)
            if len(raw) < wanted:
                raise _misfit(path, shape, whole, len(raw))
            if rows == shape[0] and stream.read(1):  # reading to the end also checks the gzip stream
                raise DataError(f"{path} declares the shape {shape}, which is {whole} bytes, and more follow", _REMEDY)
        except (OSError, EOFError, zlib.error, MemoryError) as error:
            raise DataError(f"{path} cannot be read: {error or type(error).__name__}", _REMEDY) from None
    return np.frombuffer(raw, dtype).reshape((rows, *shape[1:])), shape


def _header(stream: IO[bytes], path: Path) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type, shape and length of the header."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or head[3] == 0:
        raise DataError(f"{path} is not an IDX file: it starts with the bytes {head.hex(' ') or '(none)'}", _REMEDY)
    axes = head[3]
    if axes > AXES:
        raise DataError(f"{path} declares {axes} axes", _REMEDY)
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path} ends within its header of {axes} axes", _REMEDY)
    return np.dtype(TYPES[head[2]]), struct.unpack(f">{axes}I", sizes), 4 + 4 * axes


def _misfit(path: Path, shape: tuple[int, ...], declared: int, present: int) -> DataError:
    return DataError(
        f"{path} declares the shape {shape}, which is {declared} bytes, but {present} bytes follow", _REMEDY
    )


def _companion(path: Path) -> Path | None:
    name = re.sub(r"idx\d", "idx1", path.name.replace("images", "labels"))
    if name == path.name or "images" not in path.name:
        return None
    stem = name.removesuffix(".gz")
    candidates = (path.with_name(n) for n in (name, stem, f"{stem}.gz"))
    return next((file for file in candidates if places.is_file(file)), None)

"""IDX: the format of MNIST. Four bytes of magic (0, 0, type, number of axes), the axes as big-endian uint32, the data.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "file formats".
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from nelbo.data import arrays
from nelbo.errors import DataError
from nelbo.model.examples import Examples

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"[-.]idx\d-|-ubyte(\.gz)?$")
_REMEDY = "it is truncated, altered or not IDX; fetch it again"


def is_idx(path: Path) -> bool:
    """Whether the file's name is that of an IDX file: `…-ubyte`, `…-ubyte.gz`, `…-idx3-…`."""
    return bool(_NAME.search(path.name))


def read_idx(path: Path) -> Examples:
    """An IDX file of images as examples (N, H, W), with the labels of its companion file if there is one next to it.

    The companion of `t10k-images-idx3-ubyte.gz` is `t10k-labels-idx1-ubyte.gz` or `t10k-labels-idx1-ubyte`.
    Errors: DataError for a wrong magic number, sizes that do not fit, a damaged gzip stream, a companion that is
    damaged or has another length.
    """
    images = load(path)
    if images.ndim < 2:
        raise DataError(
            f"{path} holds {images.size} numbers on one axis: labels, not images", "give the file of the images"
        )
    data = arrays.tensor(images, str(path))
    companion = _companion(path)
    if companion is None:
        return Examples(data, str(path))
    labels = load(companion)
    if labels.shape != (len(images),):
        raise DataError(
            f"{companion} has labels of shape {labels.shape} for the {len(images)} images of {path}",
            "put the labels that belong to these images next to them, or move the file away",
        )
    return Examples(data, str(path), arrays.labels(labels))


def load(path: Path) -> np.ndarray:
    """The array of an IDX file, plain or gzip. Errors: DataError."""
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}", _REMEDY) from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES or raw[3] == 0:
        raise DataError(f"{path} is not an IDX file: it starts with the bytes {raw[:4].hex(' ') or '(none)'}", _REMEDY)
    dtype, axes = np.dtype(TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise DataError(f"{path} ends within its header of {axes} axes", _REMEDY)
    shape = struct.unpack(f">{axes}I", raw[4:start])
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) - start != expected:
        raise DataError(
            f"{path} declares the shape {shape}, which is {expected} bytes, but {len(raw) - start} bytes follow",
            _REMEDY,
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)


def _companion(path: Path) -> Path | None:
    name = re.sub(r"idx\d", "idx1", path.name.replace("images", "labels"))
    if name == path.name or "images" not in path.name:
        return None
    stem = name.removesuffix(".gz")
    candidates = (path.with_name(n) for n in (name, stem, f"{stem}.gz"))
    return next((file for file in candidates if file.is_file()), None)

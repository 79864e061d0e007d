"""Files of numpy, `.npy` and `.npz`: headers first, then the rows that are asked for, and nothing unpickled.

An npy file is a header (element type, order, shape) and the elements. An npz file is a zip archive of npy files. What a
header declares is compared with the size of what holds it before memory is taken.
"""

from __future__ import annotations

import math
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from torch import Tensor

from nelbo import files
from nelbo.data import arrays, places
from nelbo.errors import DataError, NelboError
from nelbo.model.examples import Examples

MAPPED = 16 << 20
"""Bytes from which on an npy file is mapped instead of read; below, reading is as fast and needs little memory."""
_REMEDY = "it is truncated, altered or of another format; write it again with numpy.savez or numpy.save"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Header:
    """What an npy file declares: shape, element type, whether the first axis runs fastest; and where elements begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """Of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, limit: int | None) -> int:
        """How many rows are to be read: all, where they are not one after the other in the file."""
        if limit is None or not self.shape or self.fortran:
            return self.shape[0] if self.shape else 1
        return min(limit, self.shape[0])

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def read_npz(path: Path, key: str | None = None, limit: int | None = None) -> Examples:
    """The array `key` of an npz file as examples (N, …); without `key`, its only array that does not hold labels.

    Labels come from a key of `arrays.LABEL_KEYS` (for `x_train` also `y_train`, for `images` also `labels`) that holds
    N integers. The name is the file's, with `#key` if a key was given. limit: read no more than so many rows.
    Errors: DataError for an unreadable file, an unknown key, several candidates, object arrays, an empty array.
    """
    with _archive(path) as archive:
        chosen = arrays.chosen_key(archive.headers, key, str(path), lambda k: f"as in {path}#{k}")
        where, total = str(path) if key is None else f"{path}#{key}", archive.headers[chosen].rows(None)
        data = arrays.tensor(archive.read(chosen, limit), where)
        label = arrays.label_key(archive.headers, chosen, total)
        labels = None if label is None else arrays.labels(archive.read(label, limit))
        passed = [(name, "no array") for name in archive.others]
        if key is None:
            used = (chosen, label)
            passed += [(f"#{k}", f"{h}, no labels of the data") for k, h in archive.headers.items() if k not in used]
    name = where if len(data) == total else f"{where}[:{len(data)}]"
    return Examples(data, name, labels, facts=arrays.passed_over(passed)).first(limit)


def read_key(path: Path, key: str, limit: int | None = None) -> np.ndarray:
    """The first rows of the array `key` of an npz file. Errors: DataError for an unreadable file and an unknown key."""
    with _archive(path) as archive:
        arrays.chosen_key(archive.headers, key, str(path), str)
        return archive.read(key, limit)


def described(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array `key` of an npz file. Errors: DataError as of `read_key`."""
    with _archive(path) as archive:
        header = archive.headers[arrays.chosen_key(archive.headers, key, str(path), str)]
        return header.shape, header.dtype


def read_npy(path: Path, limit: int | None = None) -> Examples:
    """The array of an npy file as examples (N, …); a large file is mapped, so that its size costs no memory.

    Errors: DataError as for `read_npz`.
    """
    array, total = _load_npy(path, limit)
    data = arrays.tensor(array, str(path))
    if isinstance(array, np.memmap) and data.data_ptr() == array.ctypes.data:
        return Examples(data, str(path), release=_releasing(array, data, path)).first(limit)
    return Examples(data, str(path) if len(data) == total else f"{path}[:{len(data)}]").first(limit)


def load(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """The array of an npy file, or the arrays of an npz file by key; nothing is unpickled.

    Errors: DataError for a missing, truncated or altered file and for object arrays.
    """
    if not _is_zip(path):
        return _load_npy(path, None)[0]
    with _archive(path) as archive:
        return {key: archive.read(key, None) for key in archive.headers}


def keys(path: Path) -> list[str]:
    """The keys of the arrays of an npz file. Errors: DataError."""
    with _archive(path) as archive:
        return list(archive.headers)


# ---------------------------------------------------------------- npy


def _load_npy(path: Path, limit: int | None) -> tuple[np.ndarray, int]:
    """The array, and how many rows the file has; not more of them are read than the limit says."""
    if _is_zip(path):
        with _archive(path) as archive:
            listed = arrays.listed(archive.headers)
        raise DataError(f"{path} is named .npy but holds several arrays: {listed}", "name it .npz")
    with places.opened(path) as file, _damage(path):
        header, size = _header(file), os.fstat(file.fileno()).st_size
        if size != header.start + header.bytes and not header.dtype.hasobject:
            raise DataError(
                f"{path} is not a readable numpy file: it declares {header}, which is {header.bytes} bytes, and "
                f"{size - header.start} bytes follow its header",
                _REMEDY,
            )
        if header.bytes >= MAPPED and not header.dtype.hasobject:
            order = "F" if header.fortran else "C"
            files.mapping(path, size)
            mapped = np.memmap(file, header.dtype, "c", header.start, header.shape, order)  # writing changes a copy
            return mapped, header.rows(None)
        return _elements(file, header, header.rows(limit), str(path)), header.rows(None)


def _header(file: IO[bytes]) -> Header:
    """The header at the beginning of `file`. Errors: what numpy raises on foreign bytes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    if any(isinstance(n, bool) or n < 0 for n in shape) or dtype.itemsize == 0:
        raise ValueError(f"an array of shape {shape} and type {dtype}")
    return Header(tuple(shape), dtype, bool(fortran), file.tell())


def _elements(file: IO[bytes], header: Header, rows: int, where: str) -> np.ndarray:
    """The first rows, read from where the header ends. Errors: DataError, EOFError where there are fewer."""
    if header.dtype.hasobject:
        raise DataError(
            f"{where} holds an array of Python objects, which could run code when read",
            "save it as an array of numbers; arrays of different shapes cannot be one array",
        )
    shape = (rows, *header.shape[1:]) if header.shape else ()
    array = np.empty(math.prod(shape), header.dtype)
    content = array.view(np.uint8)
    done = 0
    while done < len(content):
        piece = file.read(min(len(content) - done, 1 << 22))
        if not piece:
            raise EOFError(f"{len(content) - done} bytes are missing")
        content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if header.fortran and rows == (header.shape[0] if header.shape else 1):
        return array.reshape(shape[::-1]).transpose()
    return array.reshape(shape)


def _releasing(array: np.memmap, data: Tensor, path: Path) -> Callable[[], None]:
    """A function that returns the pages of a mapped file to the system, unless the tensor was written to.

    Errors (of the function): DataError where the file was written to: its pages are those of the mapping.
    """
    mapped, advice = getattr(array, "_mmap", None), getattr(mmap, "MADV_DONTNEED", None)
    before = places.status(path)

    def release() -> None:
        now = path.stat() if places.is_file(path) else before  # what was removed or replaced is still mapped
        same_file = (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
        if same_file and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DataError(f"{path} has changed while it was used", "start again when nothing writes to it")
        if mapped is not None and advice is not None and data._version == 0:
            mapped.madvise(advice)

    return release


# ---------------------------------------------------------------- npz


@dataclass(frozen=True)
class _Archive:
    """An open npz file: headers of its arrays by key, and the names of its other members."""

    file: zipfile.ZipFile
    path: Path
    headers: dict[str, Header]
    others: list[str]

    def read(self, key: str, limit: int | None) -> np.ndarray:
        """The first rows of an array. Errors: DataError."""
        where, header = f"{self.path}#{key}", self.headers[key]
        member = self.file.getinfo(f"{key}.npy")
        rows = header.rows(limit)
        if member.file_size != header.start + header.bytes and not header.dtype.hasobject:
            raise DataError(
                f"{where} is not a readable numpy array: it declares {header}, which is {header.bytes} bytes, in a "
                f"member of {member.file_size} bytes",
                _REMEDY,
            )
        wanted = rows * (header.bytes // header.shape[0]) if header.shape and header.shape[0] else header.bytes
        stored = member.compress_size if member.compress_type != zipfile.ZIP_STORED else wanted
        places.check_inflated(wanted, min(stored, self.path.stat().st_size), where)
        with _damage(self.path), self.file.open(member) as stream:
            stream.read(header.start)
            array = _elements(stream, header, rows, where)
            if rows == header.rows(None) and stream.read(1):
                raise ValueError("a member is longer than it declares")  # reading its end also checks the CRC
            return array


@contextmanager
def _archive(path: Path) -> Iterator[_Archive]:
    with places.opened(path) as file:
        if not _starts_zip(file):
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{path} is named .npz but holds a single array", "name it .npy")
            raise DataError(f"{path} is not a readable numpy file: it is no zip archive", _REMEDY)
        with _damage(path):
            archive = zipfile.ZipFile(file)
            headers, others = {}, []
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    others.append(places.printable(info.filename))
                    continue
                key = info.filename.removesuffix(".npy")
                if key in headers:
                    raise ValueError(f"two arrays are called {key!r}")
                if info.compress_type not in _METHODS:
                    raise ValueError(f"{key!r} is compressed by a method that numpy does not write")
                with archive.open(info) as stream:
                    headers[key] = _header(stream)
        yield _Archive(archive, path, headers, others)


def _is_zip(path: Path) -> bool:
    with places.opened(path) as file:
        return _starts_zip(file)


def _starts_zip(file: BinaryIO) -> bool:
    head = file.read(4)
    file.seek(0)
    return head in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What numpy, zipfile and zlib raise on foreign bytes, a dozen types that mean the same, as one DataError."""
    try:
        yield
    except NelboError:
        raise
    except MemoryError:
        raise DataError(
            f"{path} needs more memory than there is", "read a part of it by a limit, or give an uncompressed .npy file"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DataError(f"{path} is not a readable numpy file: {reason}", _REMEDY) from None

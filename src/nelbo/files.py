"""Writing files so that nothing is lost or half written: to a temporary file next to them, fsync, rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path`; a reader sees the old file or the whole new one, also after a crash.

    Missing parent folders are made; a link stays a link; a device or pipe (/dev/stdout) is written to and never
    replaced. Errors: OSError naming the path (no space, no permission), with the old file left as it was.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.write(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return path


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write and read back, which becomes `path` when the block ends well, and vanishes when it does not.

    Missing parent folders are made; a link stays a link. Errors: OSError naming the path, with the old file as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path.resolve()) as file:
            yield file
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)).parent != path.resolve().parent:
            raise  # an error of another file, which was being read
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".nelbo-", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _replace(path: Path, data: bytes) -> None:
    with _writing(path) as file:
        file.write(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

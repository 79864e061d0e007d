"""Writing files so that nothing is lost or half written: to a temporary file next to them, fsync, rename.

A temporary file or folder is named `.nelbo-*.tmp` and is locked (flock) by the process that writes it. The lock ends
with the process, however it ends. The first file that a later process writes to the same folder therefore finds the
temporary files of dead processes, and deletes them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no flock, and nothing is cleaned up there
    fcntl = None

PREFIX, SUFFIX = ".nelbo-", ".tmp"
_swept: set[Path] = set()
"""Folders that this process has cleaned: once is enough, for large folders take long to list."""


_mapped: dict[Path, int] = {}
"""Files that this process has mapped, and their sizes then."""


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path`; a reader sees the old file or the whole new one, also after a crash.

    Missing parent folders are made; a link stays a link; a device or pipe (/dev/stdout) is written to and never
    replaced. Lone surrogates, which names that are not UTF-8 contain, are written as text (a backslash and udcXX).
    Errors: OSError naming the path (no space, no permission), with the old file left as it was.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
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
    handle, temporary = temporary_file(path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~umask())
            temporary.replace(path)  # while the lock is held, or another process may take it for that of a dead one
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _replace(path: Path, data: bytes) -> None:
    with _writing(path) as file:
        file.write(data)


class NotRegular(OSError):
    """A device or a pipe in the place of a file."""

    def __str__(self) -> str:
        return "it is a device or a pipe, not a regular file"


def regular(path: Path) -> Path:
    """The path, unless a device or a pipe is there, which has no end or makes the reader wait. Errors: NotRegular."""
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise NotRegular(errno.EINVAL, "it is a device or a pipe, not a regular file", str(path))
    return path


def temporary_file(folder: Path) -> tuple[int, Path]:
    """A new locked temporary file in `folder`: its open descriptor, and its path."""
    sweep(folder)
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=PREFIX, suffix=SUFFIX)
        if lock(handle, wait=True) is not False and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process found it before it was locked, and deleted it


def temporary_folder(folder: Path) -> tuple[int | None, Path]:
    """A new locked temporary folder in `folder`: the descriptor that holds the lock, to be closed, and its path."""
    sweep(folder)
    while True:
        path = Path(tempfile.mkdtemp(dir=folder, prefix=PREFIX, suffix=SUFFIX))
        path.chmod(0o777 & ~umask())
        if fcntl is None:
            return None, path
        with suppress(FileNotFoundError):  # another process found it before it was locked, and deleted it
            handle = os.open(path, os.O_RDONLY)
            if lock(handle, wait=True) is not False and path.exists():
                return handle, path
            os.close(handle)


def replace_folder(new: Path, place: Path) -> None:
    """Give the finished temporary folder `new` the name `place`; what has that name is deleted.

    Where the system can exchange two names (Linux), somebody who looks or a crash at any moment finds the old folder or
    the new one; elsewhere there is a moment between two renames. Errors: OSError, with the old folder as it was.
    """
    if not place.exists():
        new.rename(place)
    elif exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = new.with_name(f"{new.name}.old")  # by a name that `sweep` does not delete
        place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            old.rename(place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def exchange(a: Path, b: Path) -> bool:
    """Swap two names of one file system in one step; False where the system cannot."""
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        return ctypes.CDLL(None).renameat2(here, os.fsencode(a), here, os.fsencode(b), swap) == 0
    except (OSError, AttributeError, TypeError):  # no such function, or no C library that can be asked
        return False


@contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock an existing folder against other processes and threads that do the same; whether the lock was had.

    wait: until the others are done. Where the file system has no locks, the lock counts as had.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield lock(handle, wait=wait) is not False
    finally:
        os.close(handle)


def sweep(folder: Path, *, again: bool = False) -> None:
    """Delete the temporary files and folders of dead processes from `folder`: once in the life of this process, or
    `again`."""
    folder = folder.resolve()
    if fcntl is None or (folder in _swept and not again):
        return
    _swept.add(folder)
    with suppress(OSError):
        for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
            with suppress(OSError):
                _delete_unless_locked(path)


def _delete_unless_locked(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return  # nelbo makes neither links nor pipes, and opening one of the latter would wait
    handle = os.open(path, os.O_RDONLY)
    try:
        if lock(handle, wait=False) is True:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def lock(handle: int, *, wait: bool) -> bool | None:
    """Whether the lock of an open file was taken; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def mapping(path: Path, size: int) -> None:
    """Note that a file of this size is mapped."""
    _mapped[path.absolute()] = size


def truncated() -> Path | None:
    """A mapped file that is shorter than it was, where there is one."""
    for path, size in _mapped.items():
        with suppress(OSError):  # it may be gone, which leaves the mapping whole
            if path.stat().st_size < size:
                return path
    return None


def umask() -> int:
    """The bits that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

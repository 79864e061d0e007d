"""The state of a long evaluation: every value computed so far, appended to one file, safe against a kill at any moment.

The draws of an estimate are keyed and planned deterministically, so a run that is started again asks for the same
values in the same order; those that the file holds are read instead of computed, and the final number is the same to
the last bit. A record is a header (call, first row, rows, columns, CRC-32) and float64 values; a record cut off or
damaged by a crash ends the file there and what follows is computed again.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.files import lock
from nelbo.typing import Json

_MAGIC = b"nelbo.state/5\n"
_RECORD = struct.Struct("<QQQQI")


class StateFile:
    """Values by (call, row). `identity` says what is evaluated; a file of another evaluation is refused."""

    def __init__(self, path: str | Path, identity: Json):
        self.path = Path(path)
        self.known: dict[int, list[tuple[int, Tensor]]] = {}
        head = _MAGIC + json.dumps(identity, sort_keys=True).encode() + b"\n"
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is no regular file", "give the name of a file as state=FILE")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            self._check_alone()
            size = self._read(self.file.read(), head)
            self.file.truncate(size)
            self.file.seek(size)
            if not size:
                self._append(head)
        except BaseException:
            self.file.close()
            raise

    def _check_alone(self) -> None:
        """Errors: UsageError where another process appends to the file."""
        if lock(self.file.fileno(), wait=False) is False:
            raise UsageError(
                f"{self.path} is the state of an evaluation that runs now", "wait for it, or give another state=FILE"
            )

    def _read(self, content: bytes, head: bytes) -> int:
        if head.startswith(content):  # killed before the first record was begun, or in the middle of the head
            return len(head) if content == head else 0
        if content.startswith(b"nelbo.state/") and not content.startswith(_MAGIC):
            raise UsageError(
                f"{self.path} is the state of another version of nelbo",
                "finish it with that version, or give another state=FILE",
            )
        if not content.startswith(_MAGIC):
            raise UsageError(f"{self.path} is not the state of an evaluation", "give another state=FILE")
        if not content.startswith(head):
            raise UsageError(
                f"{self.path} is the state of another evaluation (model, data, seed or options differ)",
                "give the same command again, or another state=FILE",
            )
        at = len(head)
        while at + _RECORD.size <= len(content):
            call, first, rows, columns, check = _RECORD.unpack_from(content, at)
            end = at + _RECORD.size + 8 * rows * columns
            body = content[at + _RECORD.size : end]
            if end > len(content) or zlib.crc32(_RECORD.pack(call, first, rows, columns, 0) + body) != check:
                break
            values = torch.from_numpy(np.frombuffer(body, "<f8").reshape(rows, columns).copy())
            self.known.setdefault(call, []).append((first, values))
            at = end
        return at

    def recall(self, call: int, out: Tensor) -> Tensor:
        """Fill `out` (n, columns) with what is known of a call; the mask (n,) of rows that are."""
        mask = torch.zeros(len(out), dtype=torch.bool)
        for first, values in self.known.pop(call, []):
            out[first : first + len(values)] = values
            mask[first : first + len(values)] = True
        return mask

    def keep(self, call: int, first: int, values: Tensor) -> None:
        """Append values (n, columns) of rows first … first + n − 1 of a call; on disk when this returns."""
        body = values.double().contiguous().numpy().astype("<f8").tobytes()
        head = (call, first, *values.shape)
        check = zlib.crc32(_RECORD.pack(*head, 0) + body)
        self._append(_RECORD.pack(*head, check) + body)

    def _append(self, content: bytes) -> None:
        """Errors: OSError naming the file."""
        try:
            self.file.write(content)
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error

    def close(self) -> None:
        """Close the file; it stays, and a finished evaluation started again reads its number from it."""
        self.file.close()

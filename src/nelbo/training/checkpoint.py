"""Checkpoints of a run: everything that step k + 1 needs, one file a checkpoint, written whole or not at all.

Batches, noise and dropout are keyed by the step, so there is no generator to save: weights, their average, the
optimiser and the step are all of the state. Behind the archive that torch writes stands its SHA-256, because reading
the archive does not notice a bit that has turned over.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from nelbo.files import write_atomic

KEEP = 2
DIGEST = hashlib.sha256().digest_size


UNREADABLE = (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError)
"""What reading a damaged file may raise."""


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (tensors and plain values, with its `step`) to folder/step-XXXXXXXX.pt; the last KEEP stay.

    Errors: OSError naming the file, as where the disk is full; the checkpoints that are there stay.
    """
    path = write(folder / f"step-{state['step']:08d}.pt", state)
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def write(path: Path, state: dict[str, Any]) -> Path:
    """Write `state` to `path`, whole or not at all. Errors: OSError naming the file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_atomic(path, buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read whole (None where there is none), and a line for each file passed over."""
    passed = []
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            return read(path), passed
        except UNREADABLE as error:
            passed.append(f"checkpoint {path} cannot be read ({type(error).__name__}); trying the one before")
    return None, passed


def tidy(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left half written."""
    for left in folder.glob(".nelbo-*.tmp"):
        left.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; runs no code. Errors: those of `UNREADABLE`."""
    content = path.read_bytes()
    archive, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(archive).digest() != digest:
        raise ValueError("its bytes are not those that were written")
    return torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")

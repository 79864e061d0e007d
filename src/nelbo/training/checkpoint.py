"""Checkpoints of a run: everything that step k + 1 needs, one file a checkpoint, written completely or not at all.

Batches, noise and dropout are keyed by the step, so there is no generator to save: weights, their average, optimiser,
criterion and step are the whole state. The SHA-256 of the archive that torch writes is appended to it, because reading
the archive does not detect a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from nelbo.errors import UsageError
from nelbo.files import regular, write_atomic
from nelbo.typing import Json

KEEP = 2
"""Checkpoints that are kept: the one before the newest serves where the newest is damaged."""
ENTRIES = {"step", "seconds", "net", "ema", "optimizer", "criterion", "validation", "identity"}
FREE = ("log_every", "checkpoint_every", "tracker")
"""Settings that may differ when a run is continued: they do not change its weights."""
UNREADABLE = (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError)
"""Errors that reading a damaged file may raise."""
_DATA = {
    "data": "other data",
    "labels": "other labels or names of classes",
    "validation": "other validation data",
    "validation_labels": "other labels of the validation data",
}
_DIGEST = hashlib.sha256().digest_size


def save(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` (tensors and plain values, with its `step`) to folder/step-XXXXXXXX.pt; the newest KEEP are kept.

    Errors: OSError naming the file, as where the disk is full; existing checkpoints are kept.
    """
    path = write(folder / f"step-{state['step']:08d}.pt", state)
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def write(path: Path, state: dict[str, Any]) -> Path:
    """Write `state` to `path`, completely or not at all. Errors: OSError naming the file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return write_atomic(path, buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read (None where there is none), and a message for each file that cannot."""
    messages = []
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            return read(path), messages
        except UNREADABLE as error:
            messages.append(f"checkpoint {path} cannot be read ({type(error).__name__}); trying the one before")
    return None, messages


def read(path: Path, entries: Set[str] = ENTRIES) -> dict[str, Any]:
    """The state in `path`, on the CPU, with these entries at least; runs no code. Errors: those of `UNREADABLE`."""
    content = regular(path).read_bytes()
    archive, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(archive).digest() != digest:
        raise ValueError("its bytes are not those that were written")
    state = torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
    if not isinstance(state, dict) or not state.keys() >= entries or not isinstance(state["step"], int):
        raise ValueError("it is not the state of a run")
    return state


def check_identity(saved: Json, current: Json, out: Path) -> None:
    """That a checkpoint is of this run: the same data and settings but for those in FREE. Errors: UsageError."""
    for part, data in _DATA.items():
        if saved.get(part, current[part]) != current[part]:  # checkpoints of snapshots of version 0.1 have no labels
            raise UsageError(
                f"the checkpoints in {out} are of a run on {data}", "give the same data=DATA, or another out=FOLDER"
            )
    changed = [k for k in current["config"] if k not in FREE and saved["config"].get(k) != current["config"][k]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"the checkpoints in {out} are of a run with {key} = {saved['config'].get(key)!r}, "
            f"not {current['config'][key]!r}",
            "give the same configuration, or another out=FOLDER",
        )

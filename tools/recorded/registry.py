"""Rows by name, and how their values are written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nelbo

FREE_TEXT = ("warnings", "notes", "note")
UNSTABLE = ("version", "seconds", "validation_seconds", "date", "torch", "trained_by", "file", "digest")
"""Keys of JSON documents that are left out: messages for people, and what differs from run to run."""


@dataclass(frozen=True)
class On:
    """Where a row runs: a device, or None for the library's own choice, and an empty folder."""

    device: str | None
    folder: Path

    @property
    def options(self) -> dict[str, Any]:
        """The keyword `device`, for a verb that takes it."""
        return {} if self.device is None else {"device": self.device}


@dataclass(frozen=True)
class Row:
    """compute(on) → values by key.

    device: it obeys `on.device`. rel: allowed relative difference on other hardware. planned: its draws follow from
    values that it measured, so that on another device, where these differ in their last bits, they may be others.
    """

    compute: Callable[[On], Mapping[str, Any]]
    device: bool
    rel: float
    planned: bool


@dataclass(frozen=True)
class Document:
    """A JSON document, of which the hash is kept, without free text and what differs from run to run."""

    value: Any


ROWS: dict[str, Row] = {}


def row(name: str, *, device: bool = False, rel: float = 1e-5, planned: bool = False) -> Callable:
    """Decorator: the function computes the row `name`."""

    def register(compute: Callable[[On], Mapping[str, Any]]) -> Callable[[On], Mapping[str, Any]]:
        if name in ROWS:
            raise ValueError(f"two rows are called {name}")
        ROWS[name] = Row(compute, device, rel, planned)
        return compute

    return register


def sha(data: bytes) -> str:
    """The first 16 hex digits of SHA-256, with a mark by which hashes are known."""
    return "sha256:" + hashlib.sha256(data).hexdigest()[:16]


def stripped(value: Any) -> Any:
    """A JSON document without the keys in `FREE_TEXT` and `UNSTABLE`, at every depth."""
    if isinstance(value, Mapping):
        return {k: stripped(v) for k, v in value.items() if k not in FREE_TEXT + UNSTABLE}
    if isinstance(value, (list, tuple)):
        return [stripped(v) for v in value]
    return value


def written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they stand in the file: floats by `float.hex`, arrays by hash, mean and root mean square."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Document):
            result[key] = sha(json.dumps(stripped(value.value), sort_keys=True).encode())
        elif isinstance(value, bytes):
            result[key] = sha(value.replace(nelbo.__version__.encode(), b"VERSION"))
        elif isinstance(value, float):
            result[key] = value.hex()
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            array = torch.as_tensor(value).detach().cpu()
            numbers = array.double()
            head = f"{array.dtype} {tuple(array.shape)} ".encode()
            result[key] = sha(head + array.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            result[f"{key}.mean"] = float(numbers.mean()).hex()
            result[f"{key}.rms"] = float(numbers.square().mean().sqrt()).hex()
        else:
            result[key] = value
    return result

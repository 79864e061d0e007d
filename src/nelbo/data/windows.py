"""Streams of symbols cut into sequences of one length, every symbol counted: scored, given, padded or left over.

    fixed        windows [kL, (k + 1)L); what is behind the last whole one is left over
    rolling      windows that end every `stride` symbols and at the end of the stream: each scores what the one before
                 did not, and is given the rest, so that every symbol is scored once and none is left over
    documents    a window a stream, padded where that is shorter; what is longer is cut, or rolls

A window never reaches over the end of its stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.errors import DataError
from nelbo.typing import Json


@dataclass(frozen=True, eq=False)
class Stream:
    """symbols (n,), and the UTF-8 bytes (n,) that each stands for; None where they are not known."""

    symbols: np.ndarray
    bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.symbols)


@dataclass(frozen=True)
class Cut:
    """How streams are cut: sequences of `length`; stride: the windows roll, and end so many symbols apart; documents:
    a sequence holds no more than one stream, from its beginning; pad: the symbol behind a short one."""

    length: int
    stride: int | None = None
    documents: bool = False
    pad: int | None = None

    @property
    def pads(self) -> bool:
        """Whether streams shorter than a sequence are padded."""
        return self.documents or self.stride is not None

    def places(self, n: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Of a stream of n symbols: the first symbol of every window, how many of its symbols are given, and how many
        symbols of the stream are in none."""
        L, S = self.length, self.stride
        if n < L and not self.pads:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), n
        if n <= L:
            return np.zeros(1, np.int64), np.zeros(1, np.int64), 0
        if S is None:
            starts = np.arange(0, 1 if self.documents else n - L + 1, L)
            return starts, np.zeros_like(starts), n - L * len(starts)
        ends = np.append(np.arange(L, n, S), n)
        scored = np.diff(ends, prepend=0)
        return ends - L, L - scored, 0


@dataclass(frozen=True, eq=False)
class Windows:
    """data (N, L) int32; prompt, mask (N, L): as of `Examples`, None where no place is given, or padded; bytes (N, L)
    of every place, 0 of padding. facts: what was left over or cut, in symbols."""

    data: Tensor
    prompt: Tensor | None
    mask: Tensor | None
    bytes: Tensor | None
    facts: Json


def windows(streams: Sequence[Stream], cut: Cut, limit: int | None, where: str) -> Windows:
    """The sequences of all streams in their order, at most `limit`. Errors: DataError where there is none, and where
    there is no symbol to pad with."""
    L, parts, made = cut.length, [], 0
    over = {"tokens": 0, "streams": 0}
    for stream in streams:
        starts, given, rest = cut.places(len(stream))
        if rest:
            over = {"tokens": over["tokens"] + rest, "streams": over["streams"] + 1}
        starts, given = (v[: None if limit is None else limit - made] for v in (starts, given))
        if len(starts):
            parts.append((stream, starts, given))
            made += len(starts)
    if not made:
        total = sum(map(len, streams))
        raise DataError(f"{where} has {total} symbols, less than a sequence of {L}", "give a smaller #length")
    if any(len(stream) < L for stream, _, _ in parts) and cut.pad is None:
        raise DataError(
            f"{where} has streams of fewer than {L} symbols, and there is no symbol to pad them with",
            "say which: #pad=NUMBER; padding is shown to the network and never scored",
        )
    places = np.arange(L)
    given = np.concatenate([given for _, _, given in parts])
    filled = np.concatenate([np.full(len(starts), min(L, len(stream))) for stream, starts, _ in parts])
    mask = torch.from_numpy(places < filled[:, None]) if (filled < L).any() else None
    bytes_, widths = None, [stream.bytes for stream, _, _ in parts]
    if all(w is not None and w.strides == (0,) for w in widths):  # a byte each, in no memory where none is padded
        bytes_ = torch.ones((), dtype=torch.int32).expand(made, L) if mask is None else mask.int()
    elif all(w is not None for w in widths):
        bytes_ = _stacked([(stream.bytes, starts) for stream, starts, _ in parts], L, 0)
    facts: Json = {}
    complete = limit is None or made < limit
    if complete and over["tokens"] and cut.documents:
        facts["cut"] = {"tokens": over["tokens"], "documents": over["streams"]}
    elif complete and over["tokens"]:
        facts["left_over"] = {"tokens": over["tokens"]}
    return Windows(
        data=_stacked([(stream.symbols, starts) for stream, starts, _ in parts], L, cut.pad or 0),
        prompt=torch.from_numpy(places < given[:, None]) if given.any() else None,
        mask=mask,
        bytes=bytes_,
        facts=facts,
    )


def _stacked(parts: Sequence[tuple[np.ndarray | None, np.ndarray]], L: int, pad: int) -> Tensor:
    """The windows that begin at the starts, (N, L) int32, padded behind the end."""
    rows = np.empty((sum(len(starts) for _, starts in parts), L), np.int32)
    row = 0
    for values, starts in parts:
        assert values is not None  # asked by the caller
        here = rows[row : row + len(starts)]
        row += len(starts)
        if len(values) < L:
            here[:, : len(values)], here[:, len(values) :] = values, pad
        else:
            here[:] = np.lib.stride_tricks.sliding_window_view(values, L)[starts]
    return torch.from_numpy(rows)

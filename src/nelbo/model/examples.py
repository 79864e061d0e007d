"""Examples: the data that are scored or trained on, with their name and fingerprints."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.typing import Json

REPRESENTATIVE = 8
"""Examples from which their spread estimates that of the population: of so few it is known to about a quarter."""
_CHUNK = 1024
"""Examples looked at at once, wherever all of them are."""
_OF_ALL = ("bytes", "left_over", "cut", "empty", "separators")
"""Facts that are of all examples together."""
_OF_PLACES = {"prompt": "bools", "mask": "bools", "place_bytes": "integers"}
"""Rows that say something of every place, and of which type; a mask may be one of positions, (N, n) of (N, n, …)."""
_LINE = 10
"""Names in a line for a person; a result lists more."""


def _nothing() -> None:
    """Data in memory stay there."""


def described(facts: Json) -> dict[str, str]:
    """The facts of `Examples` as lines for a person, by their name."""
    lines = {}
    if "passed_over" in facts:
        count, entries = facts["passed_over"]["count"], facts["passed_over"]["entries"][:_LINE]
        some = ", ".join(f"{entry['name']} ({entry['reason']})" for entry in entries)
        lines["passed over"] = f"{some}{f' and {count - len(entries)} more' if count > len(entries) else ''}"
    if "classes" in facts:
        pairs = [f"{name} is {number}" for name, number in facts["classes"].items()]
        rest = len(pairs) - _LINE
        lines["classes"] = ", ".join(pairs[:_LINE]) + (f" and {rest} more" if rest > 0 else "")
    if "left_over" in facts:
        lines["left over"] = f"{facts['left_over']['tokens']} symbols behind the last whole sequence"
    if "cut" in facts:
        cut = facts["cut"]
        lines["cut"] = f"{cut['tokens']} symbols at the ends of {cut['documents']} documents longer than a sequence"
    if "empty" in facts:
        lines["empty"] = f"{facts['empty']} documents without a symbol, left out"
    if "separators" in facts:
        lines["separators"] = f"{facts['separators']['bytes']} bytes between documents, in none"
    if "unknown" in facts:
        lines["unknown"] = f"{facts['unknown']} tokens that stand for what the vocabulary lacks"
    if facts.get("lossless") is False:
        lines["tokenizer"] = "it loses some of the text, so that bits a byte are of its tokens and no code for the text"
    return lines


@numbers
@dataclass(frozen=True, eq=False)
class Examples:
    """data (N, …): integer codes or real values, as read; name: where from; labels (N,) int64 where the form has them.

    Nothing here resizes, flips, drops or reorders. Position in `data` is the example's index in every key of noise.
    """

    data: Tensor
    name: str = "array"
    labels: Tensor | None = None
    bins: int | None = None
    """Number of codes a pixel may have, where the form of the data says so (17 for digits, 256 for bytes)."""
    release: Callable[[], None] = _nothing
    """Gives back the memory of what was read from a file that is mapped and not loaded; it is read again on demand."""
    classes: tuple[str, ...] = ()
    """Names of the labels, where the data have them: label k is called classes[k]."""
    names: tuple[str, ...] = ()
    """Relative paths of the examples' files, of data that are a folder of pictures."""
    facts: Json = field(default_factory=dict)
    """What a result states of the data besides their name: `passed_over`, and `classes` (name → number) where used; of
    a text its scored `bytes`, `tokenizer`, `alphabet` or `vocabulary`, how windows roll (`stride`), what pads (`pad`),
    and what is `left_over`, `cut`, `empty`, between documents (`separators`), `unknown` or not `lossless`."""
    prompt: Tensor | None = None
    """Of sequences of symbols the places (N, L) bool that are given and never scored; none where None."""
    mask: Tensor | None = None
    """What is there and no padding, bool: of sequences of symbols the places (N, L), of others the positions (N, n) or
    the elements, of the shape of the data; all where None."""
    place_bytes: Tensor | None = None
    """UTF-8 bytes of the text that each place (N, L) stands for, integers, where they are known."""

    def __post_init__(self):
        lazy = hasattr(self.data, "dtype") and hasattr(self.data, "split")  # rows that are decoded on demand
        if not (lazy or isinstance(self.data, Tensor)) or getattr(self.data, "is_meta", False):
            what = "a tensor without values" if lazy else f"a {type(self.data).__name__}"
            raise UsageError(f"the data of Examples are {what}", "give a tensor: torch.as_tensor(array)")
        if self.bins is not None and self.bins < 2:
            raise UsageError(f"examples of bins={self.bins} codes", "give a whole number ≥ 2, or None")
        for name, kind in _OF_PLACES.items():
            rows = getattr(self, name)
            shapes = [tuple(self.data.shape), *([tuple(self.data.shape[:2])] if name == "mask" else [])]
            if rows is not None and (
                tuple(rows.shape) not in shapes or (rows.dtype == torch.bool) != (kind == "bools")
            ):
                raise UsageError(
                    f"examples of shape {tuple(self.data.shape)} with {name} of shape {tuple(rows.shape)}, "
                    f"{str(rows.dtype).removeprefix('torch.')}",
                    f"give {kind} of the shape {' or '.join(map(str, shapes))}",
                )
        if self.bins is None and self.data.dtype == torch.uint8:
            object.__setattr__(self, "bins", 256)

    def __len__(self) -> int:
        return len(self.data)

    def with_mask(self, mask: Any) -> Examples:
        """With what is there of them: bools (N, n) or of the shape of the data, for (N, n, …); None leaves them as they
        are. Errors: UsageError, ShapeError."""
        if mask is None:
            return self
        try:
            there = torch.as_tensor(mask)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"a mask of type {type(mask).__name__}", "give bools, True for what is there") from None
        if there.dtype != torch.bool:
            kind = str(there.dtype).removeprefix("torch.")
            raise UsageError(f"a mask of {kind}", "give bools, True for what is there")
        whole, positions = tuple(self.data.shape), tuple(self.data.shape[:2])
        if tuple(there.shape) not in (whole, positions):
            raise ShapeError(
                f"a mask of shape {tuple(there.shape)} for data of shape {whole}", f"give {positions} or {whole}"
            )
        return replace(self, mask=there)

    def observed(self, missing: str | None) -> Examples:
        """With NaN as what is not there, where missing is "marginal"; as they are where it is None. Errors:
        UnknownNameError."""
        if missing is None:
            return self
        if missing != "marginal":
            raise UnknownNameError.of("way with missing values", missing, ("marginal",))
        there = ~torch.isnan(torch.as_tensor(self.data))
        if self.mask is not None:
            there &= self.mask.reshape(*self.mask.shape, *(1,) * (there.ndim - self.mask.ndim))
        return replace(self, mask=there)

    @property
    def sizes(self) -> Tensor:
        """The numbers that every example has, (N,): all, but for those that are not there."""
        if self.mask is None:
            return torch.full((len(self),), math.prod(self.data.shape[1:]))
        there = self.mask.reshape(len(self), -1)
        return there.sum(1) * (math.prod(self.data.shape[1:]) // there.shape[1])

    def check_whole(self, what: str, reason: str) -> None:
        """Errors: UsageError where they are of different size; what: asks for them, and why not: reason."""
        if self.mask is not None and not bool(self.mask.all()):
            raise UsageError(
                f"{what} of {self.name}, examples of different size: {reason}",
                "give examples of one size, without a mask: those of every size by themselves, under a model of it",
            )

    @property
    def mapped(self) -> bool:
        """Whether the data are read from a file on demand."""
        return self.release is not _nothing

    @cached_property
    def representative(self) -> bool:
        """Whether their spread says something of their population: at least `REPRESENTATIVE`, and not all equal."""
        if len(self) < REPRESENTATIVE:
            return False
        return any(bool((chunk != self.data[:1]).any()) for chunk in self.chunks())

    def first(self, n: int | None) -> Examples:
        """The first n examples (all where n is None)."""
        return self if n is None or n >= len(self) else self.take(slice(n), f"{self.name}[:{n}]")

    def take(self, rows: slice | Tensor, name: str) -> Examples:
        """Some of the examples, in this order, called `name`; facts that are of all together do not go with them."""
        labels = None if self.labels is None else self.labels[rows]
        names = self.names
        if names:
            names = names[rows] if isinstance(rows, slice) else tuple(names[k] for k in rows.tolist())
        facts = {key: fact for key, fact in self.facts.items() if key not in _OF_ALL}
        some: Json = {"data": self.data[rows], "labels": labels, "names": names, "facts": facts}
        of_places = {key: getattr(self, key) for key in _OF_PLACES}
        some |= {key: None if v is None else v[rows] for key, v in of_places.items()}
        return replace(self, name=name, **some)

    def chunks(self) -> Iterator[Tensor]:
        """The data piece by piece; memory for one piece at a time."""
        for chunk in self.data.split(_CHUNK):
            yield chunk
            self.release()

    @cached_property
    def hashes(self) -> Tensor:
        """(N,) int64: 64 bits of BLAKE2b over each example's values in canonical form (int64 codes or float64), without
        the padding of a sequence, so that a document has one hash in sequences of any length."""
        real = self.data.is_floating_point()
        found = torch.empty(len(self), dtype=torch.int64)  # not a list: many small pieces keep freed memory apart
        for start, chunk in enumerate(self.chunks()):
            canonical = chunk.double() if real else chunk.long()
            rows = (
                canonical.reshape(len(canonical), -1)
                .cpu()
                .contiguous()
                .numpy()
                .astype("<f8" if real else "<i8", copy=False)
            )
            here = slice(start * _CHUNK, start * _CHUNK + len(rows))
            if self.mask is not None:
                there = self.mask[here].cpu().numpy().reshape(len(rows), -1)
                rows = [row.reshape(there.shape[1], -1)[kept] for row, kept in zip(rows, there, strict=True)]
            digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
            into = found[here]
            into.copy_(torch.from_numpy(np.frombuffer(digests, "<i8").astype(np.int64)))
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 over shape, kind and the examples' hashes, in order."""
        head = f"{tuple(self.data.shape)} {'real' if self.data.is_floating_point() else 'codes'} "
        return hashlib.sha256(head.encode() + self.hashes.numpy().astype("<i8").tobytes()).hexdigest()

"""`text:FILE`: a text as sequences of symbols, one after the other, each of the same length.

A symbol is a byte, or a character: then number k is the k-th of the characters that the file has, in the order of their
code points, and the facts of the examples hold this alphabet. The facts also count the UTF-8 bytes of the text that the
sequences hold, and the symbols behind the last whole one, which are in none.
"""

from __future__ import annotations

import numpy as np
import torch

from nelbo.data import places
from nelbo.data.places import Place
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples
from nelbo.typing import Json

PREFIX = "text:"
LENGTH = 128
"""Symbols of a sequence, where `#length` does not say it."""
TOKENIZERS = ("bytes", "chars")


def read_text(spec: str, limit: int | None) -> Examples:
    """The sequences of `FILE[#length=L][#tokenizer=bytes|chars]`, at most `limit`. Errors: DataError,
    UnknownNameError."""
    place = Place.of(spec)
    values = place.checked(("length", "tokenizer"))
    tokenizer = values.get("tokenizer", "bytes")
    if tokenizer not in TOKENIZERS:
        raise UnknownNameError.of("tokenizer of text", tokenizer, TOKENIZERS)
    length = values.get("length", str(LENGTH))
    if not length.isdecimal() or int(length) < 1:
        raise DataError(f"sequences of length={length}", f"give a whole number ≥ 1, such as #length={LENGTH}")
    L = int(length)
    with places.opened(place.path) as file:
        raw = file.read()
    facts: Json = {"tokenizer": tokenizer}
    if tokenizer == "bytes":
        symbols = np.frombuffer(raw, np.uint8)
    else:
        points = np.frombuffer(_decoded(raw, place).encode("utf-32-le"), np.uint32)
        alphabet, symbols = np.unique(points, return_inverse=True)
        facts["alphabet"] = "".join(map(chr, alphabet))
    whole = len(symbols) // L
    if not whole:
        raise DataError(
            f"{place.path} has {len(symbols)} symbols, less than a sequence of {L}", "give a smaller #length"
        )
    n = whole if limit is None else min(limit, whole)
    if n == whole and len(symbols) % L:
        facts["left_over"] = {"tokens": len(symbols) % L}
    kept = symbols[: n * L]
    facts["bytes"] = n * L if tokenizer == "bytes" else int(_widths(points[: n * L]).sum())
    data = torch.from_numpy(kept.astype(np.int32).reshape(n, L))
    return Examples(data, name=f"{PREFIX}{place.path}", facts=facts)


def _decoded(raw: bytes, place: Place) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place.path} is no UTF-8 text: byte {error.start} is {raw[error.start]:#04x}",
            "convert it, or read it as bytes: #tokenizer=bytes",
        ) from None


def _widths(points: np.ndarray) -> np.ndarray:
    """Bytes of each code point in UTF-8."""
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)

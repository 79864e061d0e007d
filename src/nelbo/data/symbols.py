"""How a text becomes symbols: its bytes, its characters, or the tokens of a tokenizer's file.

Each says how many UTF-8 bytes of the text every symbol stands for: they add up to those of the whole text, whatever a
tokenizer leaves out or changes, so that bits a byte never rest on a mean number of bytes a token.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nelbo.data import places
from nelbo.data.windows import Stream
from nelbo.errors import DataError, UsageError
from nelbo.typing import Json

NAMES = ("bytes", "chars")
FILE = "tokenizer.json"
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
"""What padding is called in files that do not say which symbol it is."""


class Symbols(ABC):
    """Abstract: a text as symbols. pad: the symbol that padding shows, None where it has none."""

    pad: int | None = None

    @abstractmethod
    def stream(self, raw: bytes, where: str) -> Stream:
        """The symbols of a piece of text. Errors: DataError for what is no text, or cannot be written in symbols."""

    @abstractmethod
    def text(self, symbols: np.ndarray) -> bytes:
        """The text (UTF-8, where symbols are bytes any bytes) of symbols (n,)."""

    @abstractmethod
    def facts(self) -> Json:
        """What a result states of it."""


class Bytes(Symbols):
    """Symbol k is the byte k."""

    pad = 0

    def stream(self, raw: bytes, where: str) -> Stream:
        symbols = np.frombuffer(raw, np.uint8)
        return Stream(symbols, np.broadcast_to(np.ones((), np.uint8), symbols.shape))

    def text(self, symbols: np.ndarray) -> bytes:
        return symbols.astype(np.uint8).tobytes()

    def facts(self) -> Json:
        return {"tokenizer": "bytes"}


class Characters(Symbols):
    """Symbol k is the k-th character of an alphabet, in the order of their code points."""

    def __init__(self, alphabet: str):
        self.alphabet = alphabet
        self._points = np.array(sorted(map(ord, set(alphabet))), np.uint32)
        self.pad = next((self._symbol(c) for c in "\n " if c in alphabet), 0)

    @classmethod
    def of(cls, pieces: list[bytes], where: str) -> Characters:
        """The characters that the pieces have."""
        return cls("".join(sorted(set().union(*(set(decoded(raw, where)) for raw in pieces)))))

    def _symbol(self, character: str) -> int:
        return int(np.searchsorted(self._points, ord(character)))

    def stream(self, raw: bytes, where: str) -> Stream:
        points = np.frombuffer(decoded(raw, where).encode("utf-32-le"), np.uint32)
        symbols = np.searchsorted(self._points, points)
        known = symbols < len(self._points)
        known[known] = self._points[symbols[known]] == points[known]
        if not known.all():
            bad = chr(points[~known][0])
            raise DataError(
                f"{where} has the character {bad!r}, which is not in the alphabet of {len(self._points)}",
                "give the alphabet that the model was trained with, or a text within it",
            )
        return Stream(symbols, widths(points))

    def text(self, symbols: np.ndarray) -> bytes:
        return self._points[symbols].astype("<u4").tobytes().decode("utf-32-le").encode()

    def facts(self) -> Json:
        return {"tokenizer": "chars", "alphabet": self.alphabet}


class TokenizerFile(Symbols):
    """The tokens of a file tokenizer.json, without special ones, truncation or padding.

    lossless: whether the text of all pieces so far came back from its tokens; unknown: tokens that stand for what the
    vocabulary does not have.
    """

    def __init__(self, path: Path):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UsageError("tokenizers is not installed", "pip install 'nelbo[text]'") from None
        with places.opened(path / FILE if places.is_folder(path) else path) as file:
            raw = file.read()
        try:
            self.tokenizer: Any = Tokenizer.from_str(raw.decode("utf-8"))
        except Exception as error:  # the library raises Exception itself
            reason = str(error).splitlines()[0][:200]
            raise DataError(
                f"{path} is no tokenizer's file: {reason}", f"give the {FILE} that `save_pretrained` writes"
            ) from None
        self.path, self.digest = path, hashlib.sha256(raw).hexdigest()
        padding = self.tokenizer.padding or {}
        names = (self.tokenizer.token_to_id(name) for name in _PADDING)
        self.pad = padding.get("pad_id", next((k for k in names if k is not None), None))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else self.tokenizer.token_to_id(unknown)
        self.lossless, self.unknown = True, 0

    def stream(self, raw: bytes, where: str) -> Stream:
        text = decoded(raw, where)
        found = self.tokenizer.encode(text, add_special_tokens=False)
        symbols = np.array(found.ids, np.int64)
        self.unknown += int((symbols == self._unknown).sum()) if self._unknown is not None else 0
        self.lossless &= self.tokenizer.decode(found.ids, skip_special_tokens=False) == text
        before = np.concatenate([[0], widths(np.frombuffer(text.encode("utf-32-le"), np.uint32)).cumsum()])
        ends = np.maximum.accumulate(np.array([end for _, end in found.offsets], np.int64))
        if len(ends):
            ends[-1] = len(text)  # what no token stands for belongs to the one before it
        return Stream(symbols, np.diff(before[ends], prepend=0))

    def text(self, symbols: np.ndarray) -> bytes:
        return self.tokenizer.decode(symbols.tolist(), skip_special_tokens=False).encode()

    def facts(self) -> Json:
        facts: Json = {"tokenizer": str(self.path), "tokenizer_fingerprint": self.digest}
        facts["vocabulary"] = self.tokenizer.get_vocab_size()
        facts |= {"unknown": self.unknown} if self.unknown else {}
        return facts if self.lossless else {**facts, "lossless": False}


def texts(data: Tensor, facts: Json) -> tuple[tuple[str, ...], ...]:
    """What each symbol of data (N, L) stands for by the facts of its examples: a character, the text of a token, a byte
    (of a character of several, the character at its first and nothing at the others); else its number."""
    name = facts.get("tokenizer")
    if name == "bytes":
        return tuple(_of_bytes(bytes(row.tolist())) for row in data)
    if "alphabet" in facts:
        alphabet = sorted(facts["alphabet"])
        return tuple(tuple(alphabet[k] if k < len(alphabet) else str(k) for k in row.tolist()) for row in data)
    path = None if name is None else places.path_of(str(name))
    if path is not None and path.exists():
        decode = TokenizerFile(path).tokenizer.decode
        return tuple(tuple(decode([k], skip_special_tokens=False) for k in row.tolist()) for row in data)
    return tuple(tuple(map(str, row.tolist())) for row in data)


def _of_bytes(raw: bytes) -> tuple[str, ...]:
    shown, at = [], 0
    while at < len(raw):
        first = raw[at]
        width = 1 if first < 0x80 else 2 if first >> 5 == 6 else 3 if first >> 4 == 14 else 4 if first >> 3 == 30 else 0
        try:
            shown += [raw[at : at + width].decode("utf-8"), *[""] * (width - 1)] if width else [f"\\x{first:02x}"]
            at += max(width, 1)
        except UnicodeDecodeError:  # cut off by the window
            shown.append(f"\\x{first:02x}")
            at += 1
    return tuple(shown)


def of_facts(facts: Json) -> Symbols | None:
    """The symbols that facts of data, or of what a model was trained on, speak of; None where these are no text.

    Errors: DataError where a tokenizer's file is no longer there, or another one."""
    name = facts.get("tokenizer")
    if not isinstance(name, str):
        return None
    if name == "bytes":
        return Bytes()
    if name == "chars":
        return Characters(str(facts.get("alphabet", "")))
    file = TokenizerFile(Path(name))
    if file.digest != facts.get("tokenizer_fingerprint"):
        raise DataError(f"{name} is not the tokenizer that the data were read by", "give the file as it was")
    return file


def decoded(raw: bytes, where: str) -> str:
    """UTF-8 as text. Errors: DataError with the first byte that is none."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is no UTF-8 text: byte {error.start} is {raw[error.start]:#04x}",
            "convert it, or read it as bytes: #tokenizer=bytes",
        ) from None


def widths(points: np.ndarray) -> np.ndarray:
    """Bytes of each code point in UTF-8."""
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)

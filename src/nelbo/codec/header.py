"""`Header`, the beginning of an archive: the model, how it was coded, what the images were."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

from nelbo.codec.bytestream import ByteReader, ByteWriter
from nelbo.codec.stack import Damaged
from nelbo.codec.tables import HIGH, LOW, OCTAVE
from nelbo.errors import ArchiveError
from nelbo.fields import fits, parse_json
from nelbo.typing import Json

MAGIC = b"NELB"
VERSION = 1
FORMS = ("array", "npy", "npz", "idx", "folder")
DTYPES = ("uint8", "int8", "int16", "int32", "int64")
MAX_GROUP = 4096
"""Images; limits like this one and the next bound what a damaged or malicious file can make a reader allocate."""
MAX_CHUNK = 1 << 20
"""Images."""
MAX_HEADER = 1 << 20
"""Bytes."""
TEXT: Any = dict[str, str | int]
OF_FILE = "file"
"""The tokenizer of a text whose symbols are the tokens of a file, which the header knows by its hash alone."""
MAX_CONDITIONS = 16
"""Keywords of the network; each has an integer an image in every chunk."""


@dataclass(frozen=True)
class Header:
    """What is needed to decode every chunk.

    fingerprint: the model's, 16 hex digits. r: bin width, in 64ths. tau: the guard band is 2^{−tau}. widths: w_1 … w_L
    of `LatticeChain`. images, chunk_size, group_size: how many there are, in a chunk, and in a group at most. shape,
    dtype, form, key: of the images as they were given. settings: flags by which the model differs from that of its
    folder. conditions: the network's keywords, for which every chunk has rows. identity: CRC-32 of the first chunk's
    codes, so that archives of different images have different headers.
    """

    fingerprint: str
    images: int
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: str = "uint8"
    r: int = 32
    tau: int = 26
    seed: int = 0
    chunk_size: int = 1000
    group_size: int = 64
    form: str = "array"
    key: str = ""
    settings: Json = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    identity: int = 0
    text: Json = field(default_factory=dict)

    @property
    def of_symbols(self) -> bool:
        """Whether the archive holds sequences of symbols."""
        return not self.widths

    @property
    def noun(self) -> str:
        """What it holds."""
        return "sequences" if self.of_symbols else "images"

    @property
    def unit(self) -> str:
        """The unit of a rate."""
        return "bits/token" if self.of_symbols else "bits/dim"

    @property
    def bin_width(self) -> float:
        """r, in standard deviations."""
        return self.r / 64

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-self.images // self.chunk_size)

    @property
    def dimensions(self) -> int:
        """Scalars of an image."""
        return math.prod(self.shape)

    def rows(self, index: int) -> tuple[int, int]:
        """First and past-the-last image of a chunk."""
        return index * self.chunk_size, min((index + 1) * self.chunk_size, self.images)

    def to_bytes(self) -> bytes:
        """As in the file, with magic, version, length and checksum."""
        usual = self._usual_width()
        widths = ByteWriter()
        for w in self.widths:
            widths.signed(w - usual)
        body = ByteWriter().raw(bytes.fromhex(self.fingerprint)).raw(self.identity.to_bytes(4, "little"))
        for n in (self.r, self.tau, self.seed, self.images, self.chunk_size, self.group_size):
            body.varint(n)
        body.varint(FORMS.index(self.form)).varint(DTYPES.index(self.dtype)).varint(len(self.shape))
        for n in self.shape:
            body.varint(n)
        body.varint(len(self.widths)).packed(bytes(widths.data)).block(self.key.encode())
        extra: Json = {"settings": self.settings, "conditions": list(self.conditions)}
        extra |= {"text": self.text} if self.text else {}
        body.packed(
            json.dumps(extra, sort_keys=True).encode() if self.settings or self.conditions or self.text else b""
        )
        head = MAGIC + bytes([VERSION]) + bytes(ByteWriter().block(bytes(body.data)).data)
        return head + zlib.crc32(head).to_bytes(4, "little")

    @classmethod
    def of(cls, data: bytes, path: str) -> tuple[Header, int]:
        """The header at the beginning of `data`, and its length. Errors: ArchiveError."""
        if data[: len(MAGIC)] != MAGIC:
            raise ArchiveError(
                f"{path} is no archive of nelbo: it begins with the bytes {data[:4].hex(' ') or '(none)'}",
                "give a file that `nelbo compress` wrote",
            )
        version = data[len(MAGIC)] if len(data) > len(MAGIC) else 0
        if version != VERSION:
            raise ArchiveError(
                f"{path} has version {version} of the format, and this nelbo reads version {VERSION}",
                "it was altered, or a later nelbo wrote it: install that one",
            )
        try:
            reader = ByteReader(data)
            reader.raw(len(MAGIC) + 1)
            inner = ByteReader(reader.block())
            end = reader.place
            if zlib.crc32(data[:end]) != int.from_bytes(reader.raw(4), "little"):
                raise Damaged("its checksum is wrong")
            return cls._parsed(inner), reader.place
        except Damaged as damage:
            raise ArchiveError(
                f"{path} has a damaged header: {damage}", "without it nothing can be read; fetch the file again"
            ) from None

    @classmethod
    def _parsed(cls, body: ByteReader) -> Header:
        fingerprint, identity = body.raw(8).hex(), int.from_bytes(body.raw(4), "little")
        r, tau, seed = body.varint(1024), body.varint(60), body.varint()
        images, chunk_size, group_size = body.varint(), body.varint(MAX_CHUNK), body.varint(MAX_GROUP)
        form, dtype = FORMS[body.varint(len(FORMS) - 1)], DTYPES[body.varint(len(DTYPES) - 1)]
        shape = tuple(body.varint(1 << 30) for _ in range(body.varint(16)))
        levels = body.varint(1 << 16)
        widths_data = ByteReader(body.packed(10 * levels))
        key = body.text()
        try:
            extra = parse_json(body.packed(MAX_HEADER) or b"{}")
            settings, conditions, text = extra.pop("settings", {}), extra.pop("conditions", []), extra.pop("text", {})
            named = fits(conditions, list[str]) and all(name.isidentifier() for name in conditions)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise Damaged("its settings cannot be read") from None
        if extra or not isinstance(settings, dict) or not named or len(set(conditions)) < len(conditions):
            raise Damaged("it has settings or conditions that mean nothing")
        if len(conditions) > MAX_CONDITIONS:
            raise Damaged(f"{len(conditions)} conditions")
        if not (r and images and chunk_size and group_size and shape and all(shape)):
            raise Damaged("a number is 0")
        if text and (levels or not fits(text, TEXT) or not _is_text(text, shape[0])):
            raise Damaged("it has a text that means nothing")
        header = cls(
            fingerprint, images, shape, (), dtype, r, tau, seed, chunk_size, group_size, form, key, settings,
            tuple(conditions), identity, text,
        )  # fmt: skip
        usual = header._usual_width()
        header = dataclasses.replace(header, widths=tuple(usual + widths_data.signed() for _ in range(levels)))
        if widths_data.remaining or body.remaining:
            raise Damaged("it is longer than what it declares")
        if not all(LOW <= w <= HIGH for w in header.widths):
            raise Damaged("a lattice of impossible width")
        return header

    def _usual_width(self) -> int:
        return round(OCTAVE * math.log2(64 / self.r))

    def describe(self) -> Json:
        """For a person or a program."""
        return {
            "version": VERSION,
            "model": {"fingerprint": self.fingerprint, "settings": self.settings},
            "images": self.images,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "form": self.form,
            **({"of": "symbols", **({"text": self.text} if self.text else {})} if self.of_symbols else {}),
            "levels": len(self.widths),
            "bin_width": self.bin_width,
            "guard_band": 2.0**-self.tau,
            "precision": "float64",
            "seed": self.seed,
            "images_per_chunk": self.chunk_size,
            "images_per_group": self.group_size,
            "conditions": list(self.conditions),
        }


def _is_text(text: Json, length: int) -> bool:
    """Whether a text has a known tokenizer, its alphabet, and a last sequence of no more than `length`."""
    own = {"bytes": set(), "chars": {"alphabet"}, OF_FILE: {"fingerprint"}}.get(text.get("tokenizer", ""))
    tail = text.get("tail")
    if own is None or set(text) != {"tokenizer", "tail", *own} or not isinstance(tail, int):
        return False
    return all(isinstance(text[name], str) for name in own) and 0 < tail <= length

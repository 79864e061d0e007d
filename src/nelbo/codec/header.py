"""`Header`: the beginning of an archive: whose it is, how it was coded, and what the images were."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from dataclasses import dataclass, field

from nelbo.codec.fields import Reader, Writer
from nelbo.codec.normal import HIGH, LOW, OCTAVE
from nelbo.codec.stack import Damaged
from nelbo.errors import ArchiveError
from nelbo.typing import Json

MAGIC = b"NELB"
VERSION = 1
FORMS = ("array", "npy", "npz", "idx", "folder")
DTYPES = ("uint8", "int8", "int16", "int32", "int64")
MOST_GROUP = 4096
MOST_CHUNK = 1 << 20
_LONGEST = 1 << 20
"""Bytes of the longest header that is read."""


@dataclass(frozen=True)
class Header:
    """What every chunk needs.

    fingerprint: 16 hex digits of the model's; r: bin width, in 64ths; tau: guard band 2^{−tau}; widths: w_1 … w_L of
    `Chain`; images, chunk, most: how many in all, in a chunk, in a group; shape, dtype, form, key: of the images as
    they were given; settings: flags by which the model differs from its folder's; conditions: names of the keywords
    that every chunk has rows for; identity: CRC-32 of the first chunk's codes.
    """

    fingerprint: str
    images: int
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: str = "uint8"
    r: int = 32
    tau: int = 26
    seed: int = 0
    chunk: int = 1000
    most: int = 64
    form: str = "array"
    key: str = ""
    settings: Json = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    identity: int = 0

    @property
    def bin_width(self) -> float:
        """r, in standard deviations."""
        return self.r / 64

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.images // self.chunk)

    @property
    def dimensions(self) -> int:
        """Scalars of an image."""
        return math.prod(self.shape)

    def rows(self, index: int) -> tuple[int, int]:
        """First and past-the-last image of a chunk."""
        return index * self.chunk, min((index + 1) * self.chunk, self.images)

    def to_bytes(self) -> bytes:
        """As in the file, with magic, version, length and checksum."""
        usual = self._usual()
        widths = Writer()
        for w in self.widths:
            widths.signed(w - usual)
        body = Writer().raw(bytes.fromhex(self.fingerprint)).raw(self.identity.to_bytes(4, "little"))
        body.varint(self.r).varint(self.tau).varint(self.seed).varint(self.images).varint(self.chunk).varint(self.most)
        body.varint(FORMS.index(self.form)).varint(DTYPES.index(self.dtype)).varint(len(self.shape))
        for n in self.shape:
            body.varint(n)
        body.varint(len(self.widths)).packed(bytes(widths.data)).block(self.key.encode())
        extra = {"settings": self.settings, "conditions": list(self.conditions)}
        said = json.dumps(extra, sort_keys=True).encode() if self.settings or self.conditions else b""
        body.packed(said)
        head = MAGIC + bytes([VERSION]) + bytes(Writer().block(bytes(body.data)).data)
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
            reader = Reader(data)
            reader.raw(len(MAGIC) + 1)
            inner = Reader(reader.block())
            end = reader.place
            if zlib.crc32(data[:end]) != int.from_bytes(reader.raw(4), "little"):
                raise Damaged("its checksum is wrong")
            return cls._parsed(inner), reader.place
        except Damaged as damage:
            raise ArchiveError(
                f"{path} has a damaged header: {damage}", "without it nothing can be read; fetch the file again"
            ) from None

    @classmethod
    def _parsed(cls, body: Reader) -> Header:
        fingerprint, identity = body.raw(8).hex(), int.from_bytes(body.raw(4), "little")
        r, tau, seed = body.varint(1024), body.varint(60), body.varint()
        images, chunk, most = body.varint(), body.varint(MOST_CHUNK), body.varint(MOST_GROUP)
        form, dtype = FORMS[body.varint(len(FORMS) - 1)], DTYPES[body.varint(len(DTYPES) - 1)]
        shape = tuple(body.varint(1 << 30) for _ in range(body.varint(16)))
        levels = body.varint(1 << 16)
        packed = Reader(body.packed(10 * levels))
        key = body.text()
        try:
            extra = json.loads(body.packed(_LONGEST) or b"{}")
            settings, conditions = dict(extra.get("settings", {})), tuple(map(str, extra.get("conditions", ())))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise Damaged("settings that are none") from None
        if not (r and images and chunk and most and levels and shape and all(shape)):
            raise Damaged("a number of 0")
        header = cls(
            fingerprint, images, shape, (), dtype, r, tau, seed, chunk, most, form, key, settings, conditions, identity
        )
        widths = tuple(header._usual() + packed.signed() for _ in range(levels))
        if not all(LOW <= w <= HIGH for w in widths):
            raise Damaged("a lattice of absurd width")
        return dataclasses.replace(header, widths=widths)

    def _usual(self) -> int:
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
            "levels": len(self.widths),
            "bin_width": self.bin_width,
            "guard_band": 2.0**-self.tau,
            "precision": "float64",
            "seed": self.seed,
            "images_per_chunk": self.chunk,
            "images_per_group": self.most,
            "conditions": list(self.conditions),
        }


LONGEST = _LONGEST

"""Archives taken apart and put together again with right checksums, for tests of what a decoder itself must notice."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from nelbo.codec import archive
from nelbo.codec.header import Header


class Piece(NamedTuple):
    """A chunk: its index, its body, and the checksum of its codes."""

    index: int
    body: bytes
    codes: int


def apart(file: bytes) -> tuple[Header, list[Piece]]:
    """The header and the chunks of an archive."""
    stream = io.BytesIO(file)
    header = archive.read_header(stream, "x")
    frames = archive.survey(stream, header).frames.values()
    return header, [Piece(frame.index, archive.body(stream, frame), frame.codes) for frame in frames]


def together(header: Header | bytes, pieces: Sequence[Piece], junk: Sequence[bytes] = ()) -> bytes:
    """An archive of these chunks, with all of its checksums made anew; `junk`: bytes before each of the chunks.

    A header of bytes is the content of the header's block, which need not mean anything.
    """
    if isinstance(header, Header):
        data, start = bytearray(header.to_bytes()), archive.checksum_start(header)
    else:
        from nelbo.codec.bytestream import ByteWriter
        from nelbo.codec.header import MAGIC, VERSION

        data = bytearray(MAGIC + bytes([VERSION]) + bytes(ByteWriter().block(header).data))
        start = zlib.crc32(data)
        data += start.to_bytes(4, "little")
    for place, piece in enumerate(pieces):
        data += junk[place] if place < len(junk) else b""
        data += archive.frame_bytes(start, piece.index, piece.body, piece.codes)
    return bytes(data + zlib.crc32(data).to_bytes(4, "little"))

"""An archive: header, chunks that decode without each other, each behind a mark, and a checksum of the whole.

A chunk is in a frame

    MARK | index | length of the body | CRC-32 of the codes | CRC-16 of these | body | CRC-32 of all after MARK

whose checksums start from that of the header, so that a chunk of another archive does not fit. Where bytes are
damaged, reading continues at the next MARK that begins an intact frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from nelbo.codec.header import MAX_HEADER, ByteReader, ByteWriter, Header
from nelbo.codec.stack import LEAST, Damaged
from nelbo.errors import ArchiveError
from nelbo.typing import Json

MARK = b"\x9cNc\xe2"
_HEAD = 4 + 10 + 10 + 4 + 2
"""The longest frame before its body, in bytes."""
_WINDOW = 1 << 16
"""Bytes searched at once for the next mark."""


@dataclass(frozen=True)
class Chunk:
    """The body of a chunk. words: the stack from its least height on; borrowed: how many of these lay below its
    beginning, all of them 0 after everything is popped; metadata: names and conditions of the images."""

    growth: int
    exceptions: tuple[tuple[int, int, int], ...]
    borrowed: int
    state: int
    words: np.ndarray
    metadata: bytes = b""
    net_bits: float = 0.0

    def to_bytes(self) -> bytes:
        """The body."""
        body = ByteWriter().varint(self.growth).varint(len(self.exceptions))
        last = 0
        for rounding, position, up in sorted(self.exceptions):
            body.varint(rounding - last).varint(2 * position + up)
            last = rounding
        body.varint(self.borrowed).block(self.metadata).raw(self.state.to_bytes(8, "little"))
        return bytes(body.raw(self.words.astype("<u4").tobytes()).data)

    @classmethod
    def of(cls, data: bytes) -> Chunk:
        """From a body. Errors: `Damaged`."""
        body = ByteReader(data)
        growth, count, rounding = body.varint(255), body.varint(len(data)), 0
        exceptions = []
        for _ in range(count):
            rounding += body.varint()
            position = body.varint()
            exceptions.append((rounding, position // 2, position % 2))
        borrowed, metadata = body.varint(len(data)), body.block()
        state = int.from_bytes(body.raw(8), "little")
        if body.remaining % 4 or borrowed > body.remaining // 4 or state < LEAST:
            raise Damaged("its stack is impossible")
        words = np.frombuffer(body.raw(body.remaining), "<u4")
        return cls(growth, tuple(exceptions), borrowed, state, words, metadata)


@dataclass(frozen=True)
class Frame:
    """An intact chunk in a file: its index, its body, and the checksum of its codes."""

    index: int
    body: bytes
    codes: int


def frame(header: Header, index: int, body: bytes, codes: int) -> bytes:
    """The bytes of the frame of a chunk's body; `codes`: the checksum of its codes."""
    head = bytes(ByteWriter().varint(index).varint(len(body)).raw(codes.to_bytes(4, "little")).data)
    start = checksum_start(header)
    head += (zlib.crc32(head, start) & 0xFFFF).to_bytes(2, "little")
    whole = zlib.crc32(body, zlib.crc32(head, start))
    return MARK + head + body + whole.to_bytes(4, "little")


def checksum_start(header: Header) -> int:
    """The value that the checksums of a header's frames start from."""
    return zlib.crc32(header.to_bytes()[:-4])  # with its own checksum behind it every CRC would be the same


def checksum(codes: Tensor) -> int:
    """CRC-32 of codes, two bytes each, least first."""
    return zlib.crc32(codes.numpy().astype("<u2").tobytes())


def opened(path: Path) -> BinaryIO:
    """The file. Errors: ArchiveError where there is none."""
    try:
        return path.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise ArchiveError(f"there is no file {path}", "check the path") from None


def read_header(file: BinaryIO, path: str) -> Header:
    """The header of an archive; `file` is then positioned behind it. Errors: ArchiveError."""
    file.seek(0)
    header, length = Header.of(file.read(MAX_HEADER), path)
    file.seek(length)
    return header


def frames(file: BinaryIO, header: Header) -> Iterator[Frame]:
    """Every intact chunk from the file's position on, each index once, damage skipped; one chunk in memory."""
    place = file.tell()
    size = file.seek(0, 2)
    seen: set[int] = set()
    start = checksum_start(header)
    while place < size - 4:
        frame = _frame_at(file, place, size, start, header.chunks)
        if frame is None:
            place = _next_mark(file, place + 1, size)
            continue
        place = file.tell()
        if frame.index not in seen:
            seen.add(frame.index)
            yield frame


def _frame_at(file: BinaryIO, place: int, size: int, start: int, chunks: int) -> Frame | None:
    """The frame at `place` if it is intact; `file` is then positioned behind it."""
    file.seek(place)
    head = file.read(_HEAD)
    if head[: len(MARK)] != MARK:
        return None
    try:
        reader = ByteReader(head[len(MARK) :])
        index, length = reader.varint(chunks - 1), reader.varint(size)
        codes = int.from_bytes(reader.raw(4), "little")
        fields = head[len(MARK) : len(MARK) + reader.place]
        check = reader.raw(2)
    except Damaged:
        return None
    if (zlib.crc32(fields, start) & 0xFFFF).to_bytes(2, "little") != check:
        return None
    begin = place + len(MARK) + len(fields) + 2
    if begin + length + 4 > size:
        return None
    file.seek(begin)
    body = file.read(length)
    whole = zlib.crc32(body, zlib.crc32(fields + check, start))
    return Frame(index, body, codes) if whole.to_bytes(4, "little") == file.read(4) else None


def _next_mark(file: BinaryIO, place: int, size: int) -> int:
    while place < size:
        file.seek(place)
        at = file.read(_WINDOW + len(MARK)).find(MARK)
        if at >= 0:
            return place + at
        place += _WINDOW
    return size


def checksum_of(file: BinaryIO, length: int) -> int:
    """CRC-32 of the first `length` bytes."""
    file.seek(0)
    value = 0
    while length > 0 and (piece := file.read(min(length, 1 << 20))):
        value = zlib.crc32(piece, value)
        length -= len(piece)
    return value


def intact(file: BinaryIO) -> bool:
    """Whether the last four bytes are the checksum of all before them."""
    size = file.seek(0, 2)
    if size < 4:
        return False
    file.seek(size - 4)
    stored = file.read(4)
    return checksum_of(file, size - 4).to_bytes(4, "little") == stored


def missing(header: Header, present: set[int]) -> tuple[tuple[int, int], ...]:
    """The images of all chunks that are not `present`, as ranges (first, past the last), neighbours joined."""
    ranges: list[tuple[int, int]] = []
    expected = 0
    for index in [*sorted(present), header.chunks]:
        if index > expected:
            ranges.append((header.rows(expected)[0], min(index * header.chunk_size, header.images)))
        expected = index + 1
    return tuple(ranges)


def inspect(path: str | Path) -> Json:
    """The header of the archive at `path`, its size, and which of its chunks are intact; no model is needed.

    Every byte is read and checked; nothing is decoded. Errors: ArchiveError where it has no readable header.
    """
    path = Path(path)
    with opened(path) as file:
        header = read_header(file, str(path))
        present = {frame.index for frame in frames(file, header)}
        lost = missing(header, present)
        size = file.seek(0, 2)
        return {
            **header.describe(),
            "bytes": size,
            "bits_per_dim": 8 * size / (header.images * header.dimensions),
            "chunks": header.chunks,
            "chunks_intact": len(present),
            "images_lost": [[a, b] for a, b in lost],
            "intact": not lost and intact(file),
        }

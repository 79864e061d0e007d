"""An archive: header, chunks each behind a mark that can be searched for, and a checksum of the whole.

A frame is

    MARK | index | length of the body | CRC-32 of the codes | CRC-16 of these | body | CRC-32 of all after MARK

whose checksums begin from that of the header, so that a chunk of another archive does not fit. Where bytes are
damaged, reading goes on at the next MARK behind which everything is right.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from nelbo.codec.chunk import Chunk
from nelbo.codec.fields import Reader, Writer
from nelbo.codec.header import LONGEST, Header
from nelbo.codec.stack import Damaged

MARK = b"\x9cNc\xe2"
_HEAD = 4 + 10 + 10 + 4 + 2
_WINDOW = 1 << 16


@dataclass(frozen=True)
class Frame:
    """A chunk in a file, intact: its index, its body, and the checksum of its codes."""

    index: int
    body: bytes
    codes: int


def frame(header: Header, index: int, chunk: Chunk, codes: int) -> bytes:
    """The bytes of a chunk's frame; `codes`: the checksum of its codes."""
    body = chunk.to_bytes()
    head = bytes(Writer().varint(index).varint(len(body)).raw(codes.to_bytes(4, "little")).data)
    begin = zlib.crc32(head, start(header))
    head += (begin & 0xFFFF).to_bytes(2, "little")
    whole = zlib.crc32(body, zlib.crc32(head, start(header)))
    return MARK + head + body + whole.to_bytes(4, "little")


def start(header: Header) -> int:
    """What the checksums of a header's frames begin from."""
    return zlib.crc32(header.to_bytes()[:-4])  # behind its own checksum every CRC is the same


def read_header(file: BinaryIO, path: str) -> Header:
    """The header of an archive, the file left behind it. Errors: ArchiveError."""
    file.seek(0)
    header, length = Header.of(file.read(LONGEST), path)
    file.seek(length)
    return header


def frames(file: BinaryIO, header: Header) -> Iterator[Frame]:
    """Every intact chunk from where the file stands, each index once; damage is passed over. One chunk in memory."""
    place = file.tell()
    size = file.seek(0, 2)
    seen: set[int] = set()
    begin = start(header)
    while place < size - 4:
        found = _frame_at(file, place, size, begin, header.chunks)
        if found is None:
            place = _next_mark(file, place + 1, size)
            continue
        frame, place = found
        if frame.index not in seen:
            seen.add(frame.index)
            yield frame


def _frame_at(file: BinaryIO, place: int, size: int, begin: int, chunks: int) -> tuple[Frame, int] | None:
    file.seek(place)
    head = file.read(_HEAD)
    if head[: len(MARK)] != MARK:
        return None
    try:
        reader = Reader(head[len(MARK) :])
        index, length = reader.varint(chunks - 1), reader.varint(size)
        codes = int.from_bytes(reader.raw(4), "little")
        said = head[len(MARK) : len(MARK) + reader.place]
        check = reader.raw(2)
    except Damaged:
        return None
    if (zlib.crc32(said, begin) & 0xFFFF).to_bytes(2, "little") != check:
        return None
    behind = place + len(MARK) + len(said) + 2
    if behind + length + 4 > size:
        return None
    file.seek(behind)
    body = file.read(length)
    whole = zlib.crc32(body, zlib.crc32(said + check, begin))
    if whole.to_bytes(4, "little") != file.read(4):
        return None
    return Frame(index, body, codes), behind + length + 4


def _next_mark(file: BinaryIO, place: int, size: int) -> int:
    while place < size:
        file.seek(place)
        window = file.read(_WINDOW + len(MARK))
        at = window.find(MARK)
        if at >= 0:
            return place + at
        place += _WINDOW
    return size


def checksum_of(file: BinaryIO, length: int) -> int:
    """CRC-32 of the first `length` bytes."""
    file.seek(0)
    found = 0
    while length > 0:
        piece = file.read(min(length, 1 << 20))
        if not piece:
            break
        found = zlib.crc32(piece, found)
        length -= len(piece)
    return found


def intact(file: BinaryIO) -> bool:
    """Whether the last four bytes are the checksum of all before them."""
    size = file.seek(0, 2)
    if size < 4:
        return False
    file.seek(size - 4)
    said = file.read(4)
    return checksum_of(file, size - 4).to_bytes(4, "little") == said


def missing(header: Header, found: set[int]) -> tuple[tuple[int, int], ...]:
    """The images of the chunks that were not found, as ranges (first, past the last), neighbours joined."""
    ranges: list[tuple[int, int]] = []
    expected = 0
    for index in [*sorted(found), header.chunks]:
        if index > expected:
            ranges.append((header.rows(expected)[0], min(index * header.chunk, header.images)))
        expected = index + 1
    return tuple(ranges)

"""An archive: header, chunks that decode without each other, each behind a mark, and a checksum of the whole.

A chunk is in a frame

    MARK | index | length of the body | CRC-32 of the codes | CRC-16 of these | body | CRC-32 of all after MARK

whose checksums start from that of the header, so that a chunk of another archive does not fit. Where bytes are
damaged, reading continues at the next MARK that begins an intact frame. Chunks are decoded in the order of their
indices, wherever they stand, and a file whose chunks are missing, repeated or displaced is never read as a whole one.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from nelbo.codec.bytestream import ByteReader, ByteWriter
from nelbo.codec.header import MAX_HEADER, Header
from nelbo.codec.stack import LEAST, Damaged
from nelbo.errors import ArchiveError
from nelbo.files import regular
from nelbo.typing import Json

MARK = b"\x9cNc\xe2"
_HEAD = 4 + 10 + 10 + 4 + 2
"""The longest frame before its body, in bytes."""
_BEGINNING = re.compile(re.escape(MARK) + rb"((?:[\x80-\xff]{0,9}[\x00-\x7f]){2}.{4})(..)", re.DOTALL)
"""A frame before its body: the mark, two varints and the checksum of the codes, the checksum of these."""
_WINDOW = 1 << 16
"""Bytes searched at once for marks."""
_PATIENCE = 4
"""Accidents do not make a reader check more than the length of the file in vain; false frames made on purpose may."""
_SHOWN = 20
"""Flaws that are listed."""


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
    """A chunk in a file: its index, the checksum of its codes, where its body begins, the length of the body, and the
    checksum of what stands between the mark and the body, from which that of the whole goes on."""

    index: int
    codes: int
    begin: int
    length: int
    check: int

    @property
    def end(self) -> int:
        """The place behind the frame."""
        return self.begin + self.length + 4


@dataclass(frozen=True)
class Survey:
    """The intact chunks of a file by their index, and how the file differs from one that was written so.

    flaws: sentences; none where the chunks follow each other in order, without a byte between them, up to the checksum
    of the whole, which is right. A chunk that is missing is no flaw but a loss (`missing`).
    """

    frames: dict[int, Frame]
    flaws: tuple[str, ...]


def frame(header: Header, index: int, body: bytes, codes: int) -> bytes:
    """The bytes of the frame of a chunk's body; `codes`: the checksum of its codes."""
    return frame_bytes(checksum_start(header), index, body, codes)


def frame_bytes(start: int, index: int, body: bytes, codes: int) -> bytes:
    """As `frame`, by the value that its checksums start from."""
    head = bytes(ByteWriter().varint(index).varint(len(body)).raw(codes.to_bytes(4, "little")).data)
    head += (zlib.crc32(head, start) & 0xFFFF).to_bytes(2, "little")
    whole = zlib.crc32(body, zlib.crc32(head, start))
    return MARK + head + body + whole.to_bytes(4, "little")


def checksum_start(header: Header) -> int:
    """The value that the checksums of a header's frames start from."""
    return zlib.crc32(header.to_bytes()[:-4])  # with its own checksum behind it every CRC would be the same


def checksum(codes: Tensor) -> int:
    """CRC-32 of codes, two bytes each, least first, or four where one needs more."""
    wide = codes.numel() > 0 and int(codes.max()) >> 16
    return zlib.crc32(codes.numpy().astype("<u4" if wide else "<u2").tobytes())


def opened(path: Path) -> BinaryIO:
    """The file. Errors: ArchiveError where there is none."""
    try:
        return regular(path).open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise ArchiveError(f"there is no file {path}", "check the path") from None


def read_header(file: BinaryIO, path: str) -> Header:
    """The header of an archive; `file` is then positioned behind it. Errors: ArchiveError."""
    file.seek(0)
    header, length = Header.of(file.read(MAX_HEADER), path)
    file.seek(length)
    return header


def survey(file: BinaryIO, header: Header) -> Survey:
    """Every intact chunk from the file's position on, in one pass; of two with one index the first.

    The time is linear in the file's length, whatever it holds: after `_PATIENCE` times that many bytes of frames that
    turned out to be damaged no more are looked at.
    """
    begin, size = file.tell(), file.seek(0, 2)
    frames: dict[int, Frame] = {}
    flaws: dict[str, None] = {}
    start, at, place, last, wasted = checksum_start(header), begin, begin, -1, 0
    while at < size - 4 and wasted <= _PATIENCE * size:
        file.seek(at)
        window = file.read(_WINDOW + _HEAD)
        i, after = 0, at + _WINDOW
        while (match := _BEGINNING.search(window, i)) and match.start() < _WINDOW and wasted <= _PATIENCE * size:
            i = match.start()
            frame = _frame(match, at, size, start, header.chunks)
            if frame is None or not _is_intact(file, frame):
                wasted += 0 if frame is None else frame.length
                i += len(MARK)
                continue
            if at + i != place:
                flaws[f"the {at + i - place} bytes from {place} on belong to no intact chunk"] = None
            if frame.index in frames:
                flaws[f"chunk {frame.index} is repeated"] = None
            elif frame.index < last:
                flaws[f"chunk {frame.index} stands behind chunk {last}"] = None
            frames.setdefault(frame.index, frame)
            place, last = frame.end, max(last, frame.index)
            if frame.end >= after:
                after = frame.end
                break
            i = frame.end - at
        at = after
    if place != size - 4:
        flaws[f"its last chunk ends at byte {place}, {abs(size - 4 - place)} from where its checksum begins"] = None
    elif not intact(file):
        flaws["its checksum at the end is wrong"] = None
    if 0 in frames and frames[0].codes != header.identity:
        flaws["its header is that of other images"] = None
    return Survey(dict(sorted(frames.items())), tuple(flaws)[:_SHOWN])


def _frame(match: re.Match[bytes], place: int, size: int, start: int, chunks: int) -> Frame | None:
    """The frame that begins as `match`, in a window at `place`, if its own checksum is right; its body is not read."""
    fields, check = match[1], match[2]
    if zlib.crc32(fields, start) & 0xFFFF != int.from_bytes(check, "little"):
        return None
    try:
        reader = ByteReader(fields)
        index, length = reader.varint(chunks - 1), reader.varint(size)
        codes = int.from_bytes(reader.raw(4), "little")
    except Damaged:
        return None
    begin = place + match.end()
    whole = zlib.crc32(fields + check, start)
    return Frame(index, codes, begin, length, whole) if begin + length + 4 <= size else None


def body(file: BinaryIO, frame: Frame) -> bytes:
    """The body of a frame. Errors: `Damaged` where it is not, or no longer, what its checksum says."""
    file.seek(frame.begin)
    data = file.read(frame.length)
    if zlib.crc32(data, frame.check).to_bytes(4, "little") != file.read(4):
        raise Damaged("its checksum is wrong")
    return data


def _is_intact(file: BinaryIO, frame: Frame) -> bool:
    try:
        body(file, frame)
    except Damaged:
        return False
    return True


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
        seen = survey(file, header)
        lost = missing(header, set(seen.frames))
        size = file.seek(0, 2)
        return {
            **header.describe(),
            "bytes": size,
            "bits_per_dim": 8 * size / (header.images * header.dimensions),
            "chunks": header.chunks,
            "chunks_intact": len(seen.frames),
            "images_lost": [[a, b] for a, b in lost],
            "flaws": list(seen.flaws),
            "intact": not lost and not seen.flaws,
        }

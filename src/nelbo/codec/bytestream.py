"""Integers, texts and deflated blocks as the bytes of a file, and back."""

from __future__ import annotations

import zlib

from nelbo.codec.stack import Damaged


class ByteWriter:
    """Integers and texts as bytes in `data`; `varint` is LEB128, seven bits a byte, least first."""

    def __init__(self):
        self.data = bytearray()

    def varint(self, value: int) -> ByteWriter:
        """An integer ≥ 0."""
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)
        return self

    def signed(self, value: int) -> ByteWriter:
        """An integer: 0, −1, 1, −2, … as 0, 1, 2, 3, …"""
        return self.varint(2 * value if value >= 0 else -2 * value - 1)

    def raw(self, data: bytes) -> ByteWriter:
        """Bytes as they are."""
        self.data += data
        return self

    def block(self, data: bytes) -> ByteWriter:
        """Bytes preceded by their number."""
        return self.varint(len(data)).raw(data)

    def packed(self, data: bytes) -> ByteWriter:
        """A block, deflated if that is shorter, preceded by its length before deflation."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        small = deflate.compress(data) + deflate.flush()
        deflated = len(small) < len(data)
        return self.varint(2 * len(data) + deflated).block(small if deflated else data)


class ByteReader:
    """The inverse of `ByteWriter`. Errors: `Damaged` wherever bytes are missing or a number is impossible."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    @property
    def remaining(self) -> int:
        """The number of bytes not read yet."""
        return len(self.data) - self.place

    def varint(self, largest: int = 2**63 - 1) -> int:
        """An integer from 0 to `largest`."""
        value, shift = 0, 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise Damaged("a number without end")
        if value > largest:
            raise Damaged(f"a number of {value}")
        return value

    def signed(self) -> int:
        """An integer of either sign."""
        value = self.varint()
        return value // 2 if value % 2 == 0 else -(value + 1) // 2

    def raw(self, n: int) -> bytes:
        """n bytes."""
        if n > self.remaining:
            raise Damaged("it ends too early")
        self.place += n
        return self.data[self.place - n : self.place]

    def block(self) -> bytes:
        """Bytes preceded by their number."""
        return self.raw(self.varint())

    def packed(self, largest: int) -> bytes:
        """A block of at most `largest` bytes before deflation."""
        length = self.varint(2 * largest + 1)
        data = self.block()
        if length % 2:
            try:
                data = zlib.decompressobj(-15).decompress(data, length // 2 + 1)
            except zlib.error:
                raise Damaged("a block does not inflate") from None
        if len(data) != length // 2:
            raise Damaged("a block has another length than it declares")
        return data

    def text(self, longest: int = 4096) -> str:
        """A short text."""
        data = self.block()
        if len(data) > longest:
            raise Damaged(f"a text of {len(data)} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Damaged("a text is not UTF-8") from None

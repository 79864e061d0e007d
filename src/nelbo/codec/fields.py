"""Whole numbers and texts as bytes, and back with every length checked before it is believed."""

from __future__ import annotations

import zlib

from nelbo.codec.stack import Damaged


class Writer:
    """Bytes that grow: `varint` is LEB128, seven bits a byte, least first."""

    def __init__(self):
        self.data = bytearray()

    def varint(self, value: int) -> Writer:
        """A whole number ≥ 0."""
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)
        return self

    def signed(self, value: int) -> Writer:
        """A whole number: 0, −1, 1, −2, … as 0, 1, 2, 3, …"""
        return self.varint(2 * value if value >= 0 else -2 * value - 1)

    def raw(self, data: bytes) -> Writer:
        """Bytes as they are."""
        self.data += data
        return self

    def block(self, data: bytes) -> Writer:
        """Bytes behind their number."""
        return self.varint(len(data)).raw(data)

    def packed(self, data: bytes) -> Writer:
        """A block that is deflated where that is shorter, behind the length it has when it is not."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        small = deflate.compress(data) + deflate.flush()
        deflated = len(small) < len(data)
        return self.varint(2 * len(data) + deflated).block(small if deflated else data)


class Reader:
    """The inverse of `Writer`. Errors: `Damaged` wherever the bytes are too few, or a number is absurd."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.place

    def varint(self, most: int = 2**63 - 1) -> int:
        """A whole number from 0 to `most`."""
        value, shift = 0, 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise Damaged("a number without end")
        if value > most:
            raise Damaged(f"a number of {value}")
        return value

    def signed(self) -> int:
        """A whole number of either sign."""
        value = self.varint()
        return value // 2 if value % 2 == 0 else -(value + 1) // 2

    def raw(self, n: int) -> bytes:
        """n bytes."""
        if n > self.left:
            raise Damaged("it ends too early")
        self.place += n
        return self.data[self.place - n : self.place]

    def block(self) -> bytes:
        """Bytes behind their number."""
        return self.raw(self.varint())

    def packed(self, most: int) -> bytes:
        """A block of at most `most` bytes when it is not deflated."""
        length = self.varint(2 * most + 1)
        data = self.block()
        if length % 2:
            try:
                data = zlib.decompressobj(-15).decompress(data, length // 2 + 1)
            except zlib.error:
                raise Damaged("a block that does not inflate") from None
        if len(data) != length // 2:
            raise Damaged("a block of another length than it says")
        return data

    def text(self, most: int = 4096) -> str:
        """A short text."""
        data = self.block()
        try:
            return data[:most].decode()
        except UnicodeDecodeError:
            raise Damaged("a text that is none") from None

"""Compression without loss: files whose size is the bound. `compress`, `decompress`, `inspect`."""

from nelbo.codec.archive import inspect
from nelbo.codec.compress import Compressed, compress
from nelbo.codec.decompress import Decompressed, decompress

__all__ = ["Compressed", "Decompressed", "compress", "decompress", "inspect"]

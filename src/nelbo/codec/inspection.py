"""`inspect`: what an archive says of itself, without its model."""

from __future__ import annotations

from pathlib import Path

from nelbo.codec import archive
from nelbo.codec.decompress import opened
from nelbo.codec.header import Header
from nelbo.typing import Json


def header_of(path: str | Path) -> Header:
    """The header of an archive. Errors: ArchiveError."""
    path = Path(path)
    with opened(path) as file:
        return archive.read_header(file, str(path))


def inspect(path: str | Path) -> Json:
    """The header of an archive, its size, and which of its chunks are intact; every byte is read and checked, nothing
    is decoded. Errors: ArchiveError where it has no readable header."""
    path = Path(path)
    with opened(path) as file:
        header = archive.read_header(file, str(path))
        found = {frame.index for frame in archive.frames(file, header)}
        lost = archive.missing(header, found)
        size = file.seek(0, 2)
        return {
            **header.describe(),
            "bytes": size,
            "bits_per_dim": 8 * size / (header.images * header.dimensions),
            "chunks": header.chunks,
            "chunks_intact": len(found),
            "images_lost": [[a, b] for a, b in lost],
            "intact": not lost and archive.intact(file),
        }

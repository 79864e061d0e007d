"""Pictures as codes, exactly as stored or refused with the remedy; `LazyRows`: many of them, decoded when needed."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from nelbo.data import arrays, places
from nelbo.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {"L": "gray", "RGB": "colour", "1": "black and white"}
STREAMED = 64 << 20
"""Bytes of codes from which on they stay on disk: keeping so many costs memory, and reading fewer again costs time."""
_AT_ONCE = 256
"""Rows decoded at once, at most, when all of the data are read piece by piece."""
_PIECE = 64 << 20
"""Bytes of codes decoded at once, at most, unless they are one picture."""
ENDINGS = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".apng", ".avif", ".dib", ".ico", ".j2k",
    ".jfif", ".jp2", ".jpe", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".qoi", ".sgi", ".tga",
)  # fmt: skip
"""Endings of files that are pictures or damaged; of other files Pillow says whether they are pictures."""
FOREIGN = (".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".hdr")
"""Endings of pictures that Pillow does not open alone; to pass them over would drop data."""
EXCLUDED = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "SPIDER", "WMF")
"""Formats of Pillow that it does not read alone: EPS runs another program, others have no signature or decoder."""
FIRST = ("PNG", "JPEG", "BMP", "PPM", "GIF")
"""Formats whose plugins Pillow has at hand; the others take half a second to load."""
MOST_PIXELS = 1 << 26
"""Of one picture: 8192×8192, decoded in less than 1 GB."""


def pillow(what: str) -> Any:
    """The module PIL.Image. Errors: DataError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"reading {what} needs Pillow, which is not installed", "pip install 'nelbo[data]'") from None
    return Image


def formats(image: Any) -> list[str]:
    """The formats that are read. image: the module PIL.Image."""
    image.init()
    return [name for name in image.ID if name not in EXCLUDED]


@contextlib.contextmanager
def opened(image: Any, stream: BinaryIO, what: str) -> Iterator[Image]:
    """A picture that is not decoded yet. image: the module PIL.Image. Errors: DataError."""
    _check_png(stream, what)
    try:
        try:
            picture = image.open(stream, formats=FIRST)
        except Exception:  # a picture of another format, or none
            stream.seek(0)
            picture = image.open(stream, formats=formats(image))
    except Exception as error:  # each of Pillow's plugins fails in its own way on foreign bytes
        raise DataError(f"{what} is not a readable picture: {error}", "remove it or fetch it again") from None
    with picture:
        yield picture


def _check_png(stream: BinaryIO, what: str) -> None:
    """Check the checksums of a PNG file's chunks, which Pillow does not do for pixels; the stream is at its beginning.

    Errors: DataError for a chunk that was altered or is not all there.
    """
    if stream.read(8) == b"\x89PNG\r\n\x1a\n":
        left = os.fstat(stream.fileno()).st_size - 8
        name = b""
        while left > 0 and name != b"IEND":
            head = stream.read(8)
            length, name = struct.unpack(">I4s", head) if len(head) == 8 else (left, b"")
            body = stream.read(length) if length + 12 <= left else b""
            if len(body) < length or stream.read(4) != zlib.crc32(name + body).to_bytes(4, "big"):
                raise DataError(
                    f"{what} is not a readable picture: a part of it does not match its checksum",
                    "the file is truncated or altered; fetch it again",
                )
            left -= length + 12
    stream.seek(0)


def recognised(path: Path) -> bool:
    """Whether Pillow opens the file as a picture. Errors: DataError where it cannot be read at all."""
    image = pillow(str(path))
    with places.opened(path) as stream:
        try:
            with image.open(stream, formats=[name for name in formats(image) if name != "TGA"]):  # it has no signature
                return True
        except Exception:  # no plugin knows it
            return False


def codes(image: Image, what: str) -> np.ndarray:
    """The codes of a picture, uint8: gray (H, W) in 0..255, RGB (3, H, W) in 0..255, black and white (H, W) in 0..1.

    Pixels are taken as stored: an orientation tag or colour profile is not applied.
    Errors: DataError for palettes, alpha, 16 bits, other colour spaces and several frames, all of which would have
    to be converted first, and for files that do not decode.
    """
    if image.width * image.height > MOST_PIXELS:
        raise DataError(
            f"{what} declares {image.width}×{image.height} pixels, more than {MOST_PIXELS}", "cut it into tiles first"
        )
    if image.mode not in MODES:
        raise DataError(
            f"{what} has the Pillow mode {image.mode!r}, which is neither 8-bit gray (L) nor RGB",
            f"convert it on purpose first, e.g. with Image.convert('L') or Image.convert('RGB'){_loss(image.mode)}",
        )
    if "transparency" in image.info:
        raise DataError(f"{what} has a transparent colour", "remove it on purpose, e.g. with ImageMagick's -alpha off")
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception as error:  # it is counted by looking through the file
        raise DataError(f"{what} is not a readable picture: {error}", "remove it or fetch it again") from None
    if frames > 1:
        raise DataError(f"{what} has {frames} frames", "save each frame as a picture of its own")
    raw = _raw_mode(image)
    if image.mode != "1" and ";" in raw and raw.split(";")[1][:1].isdigit():
        raise DataError(
            f"{what} does not store 8 bits a channel (Pillow's raw mode {raw!r}), so reading would rescale its codes",
            "write it with 8 bits a channel, or give the codes as an .npz file",
        )
    try:
        array = np.asarray(image)
    except Exception as error:  # each of Pillow's plugins fails in its own way on foreign bytes
        raise DataError(
            f"{what} cannot be decoded: {error}", "the file is truncated or altered; fetch it again"
        ) from None
    array = array.astype(np.uint8, copy=False)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array


def bins(mode: str) -> int:
    """Number of codes of a pixel in the Pillow mode `mode`: 2 for black and white, otherwise 256."""
    return 2 if mode == "1" else 256


def stacked(
    count: int, read: Callable[[list[int]], list[tuple[np.ndarray, str]]], name_of: Callable[[int], str], where: str
) -> tuple[Tensor, str]:
    """Pictures 0..count − 1 as data (N, H, W) or (N, 3, H, W), and their kind; `LazyRows` if they are many.

    read: codes and kind of some pictures. Errors: those of `read`; DataError naming the first picture whose size or
    kind differs from that of picture 0, as soon as it is read.
    """
    first, kind = read([0])[0]

    def decode(rows: list[int]) -> Tensor:
        pictures = read(rows)
        for row, (array, its_kind) in zip(rows, pictures, strict=True):
            if (array.shape, its_kind) != (first.shape, kind):
                raise DataError(
                    f"the pictures of {where} differ: {name_of(0)} is {_size(first)} {kind}, "
                    f"but {name_of(row)} is {_size(array)} {its_kind}",
                    "give pictures of one size and one mode; nothing is resized, cropped or converted",
                )
        return arrays.tensor(np.stack([array for array, _ in pictures]), where)

    if first.dtype == np.uint8 and first.nbytes * count >= STREAMED:
        return cast(Tensor, LazyRows(torch.arange(count), first.shape, decode)), kind
    return decode(list(range(count))), kind


class LazyRows:
    """Codes (N, *shape) uint8 behind a function that decodes some rows; it takes the place of a tensor in `Examples`.

    It has the part of a tensor's interface that data need: shape, dtype, length, `split`, and indexing by a tensor of
    rows, a slice or a number. Nothing is kept. Errors: those of decoding a row, for example if its file has vanished.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, rows: Tensor, shape: tuple[int, ...], decode: Callable[[list[int]], Tensor]):
        self.rows, self.inner, self.decode = rows, shape, decode

    @property
    def shape(self) -> torch.Size:
        """(N, *shape)."""
        return torch.Size((len(self.rows), *self.inner))

    @property
    def ndim(self) -> int:
        """Number of axes, including that of the examples."""
        return 1 + len(self.inner)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """The rows that a number, a slice or a tensor names, decoded."""
        if isinstance(index, int):
            return self.decode([int(self.rows[index])])[0]
        rows = self.rows[index].tolist()
        return self.decode(rows) if rows else torch.empty(0, *self.inner, dtype=self.dtype)

    def select(self, rows: Tensor) -> LazyRows:
        """Some of the rows, not decoded."""
        return LazyRows(self.rows[rows], self.inner, self.decode)

    def reshape(self, *shape: int) -> Tensor:
        """The same codes with an axis of one channel more or less: (N, …)."""
        inner = tuple(shape[1:])
        return cast(Tensor, LazyRows(self.rows, inner, lambda rows: self.decode(rows).reshape(-1, *inner)))

    def split(self, size: int) -> Iterator[Tensor]:
        """Pieces of at most `size` rows, decoded one after the other."""
        rows = max(1, min(size, _AT_ONCE, _PIECE // max(1, math.prod(self.inner))))
        for first in range(0, len(self), rows):
            yield self[first : first + rows]

    def is_floating_point(self) -> bool:
        """False: the rows are codes."""
        return False

    def is_complex(self) -> bool:
        """False."""
        return False


def _size(array: np.ndarray) -> str:
    return f"{array.shape[-1]}×{array.shape[-2]}" if array.ndim > 1 else f"of shape {array.shape}"


def _raw_mode(image: Image) -> str:
    """How the file stores pixels, in Pillow's words ("L;4", "RGB;16B"); empty if the image is already decoded."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _loss(mode: str) -> str:
    if mode.startswith("I") or mode == "F":
        return ", which keeps 8 of its bits; to keep them all, give the codes as an .npz file"
    return ", which drops transparency" if mode in ("RGBA", "LA", "PA", "RGBa", "La") else ""

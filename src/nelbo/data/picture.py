"""One picture: from a Pillow image to its codes, exactly as stored, or a refusal with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nelbo.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {"L": "gray", "RGB": "colour", "1": "black and white"}


def pillow(what: str) -> Any:
    """The module PIL.Image. Errors: DataError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"reading {what} needs Pillow, which is not installed", "pip install 'nelbo[data]'") from None
    return Image


def codes(image: Image, what: str) -> np.ndarray:
    """The codes of a picture, uint8: gray (H, W) in 0..255, RGB (3, H, W) in 0..255, black and white (H, W) in 0..1.

    Pixels are taken as stored: an orientation tag or colour profile is not applied.
    Errors: DataError for palettes, alpha, 16 bits, other colour spaces and several frames, all of which would have
    to be converted first, and for files that do not decode.
    """
    if image.mode not in MODES:
        raise DataError(
            f"{what} has the Pillow mode {image.mode!r}, which is neither 8-bit gray (L) nor RGB",
            f"convert it on purpose first, e.g. with Image.convert('L') or Image.convert('RGB'){_loss(image.mode)}",
        )
    if "transparency" in image.info:
        raise DataError(f"{what} has a transparent colour", "remove it on purpose, e.g. with ImageMagick's -alpha off")
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{what} has {image.n_frames} frames", "save each frame as a picture of its own")  # type: ignore
    raw = _raw_mode(image)
    if image.mode != "1" and ";" in raw and raw.split(";")[1][:1].isdigit():
        raise DataError(
            f"{what} does not store 8 bits a channel (Pillow's raw mode {raw!r}), so reading would rescale its codes",
            "write it with 8 bits a channel, or give the codes as an .npz file",
        )
    try:
        array = np.asarray(image)
    except Exception as error:  # each of Pillow's plugins has its own ways to fail on foreign bytes
        raise DataError(
            f"{what} cannot be decoded: {error}", "the file is truncated or altered; fetch it again"
        ) from None
    array = array.astype(np.uint8)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array


def bins(mode: str) -> int:
    """Number of codes that a pixel of Pillow mode `mode` may have: 2 for black and white, else 256."""
    return 2 if mode == "1" else 256


def _raw_mode(image: Image) -> str:
    """How the file stores pixels, as Pillow calls it ("L;4", "RGB;16B"); empty where the image is already decoded."""
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

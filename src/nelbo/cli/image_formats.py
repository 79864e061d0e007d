"""Lossless image formats for the same pictures: file sizes measured here, and references measured elsewhere.

All images are laid into one sheet, so that file headers do not count, and their codes are stored as they are (0..16 as
grey values or palette entries, without scaling): each file is read back and compared.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nelbo.typing import Json


REFERENCES = {"JPEG XL": (2.40, "reference, effort 9, measured elsewhere")}
"""Bits/dim of the 360 test images of the digits as one sheet, by tools that nelbo does not need."""
WITHOUT_PILLOW = {"WebP": (3.08, "reference, measured elsewhere"), "PNG": (3.31, "reference, measured elsewhere")}


def comparison(codes: Any) -> Json:
    """Rows {name, bits_per_dim, bytes, measured, note} for images (N, H, W) of integer codes < 256."""
    pictures = np.asarray(codes).astype(np.uint8)
    measured = _measured(sheet(pictures))
    rows = []
    for name, (reference, note) in {**REFERENCES, **WITHOUT_PILLOW}.items():
        if name in measured:
            size, how = measured[name]
            rows.append(_row(name, 8 * size / pictures.size, size, how))
        else:
            rows.append(_row(name, reference, None, note))
    return {"schema": "nelbo.comparison/1", "images": len(pictures), "unit": "bits/dim", "rows": rows}


def sheet(pictures: np.ndarray) -> np.ndarray:
    """Images (N, H, W) side by side in a full rectangle, as nearly square as N allows."""
    n, height, width = pictures.shape
    rows = max(r for r in range(1, int(n**0.5) + 1) if n % r == 0)
    return pictures.reshape(rows, n // rows, height, width).swapaxes(1, 2).reshape(rows * height, -1)


def _measured(codes: np.ndarray) -> dict[str, tuple[int, str]]:
    """Bytes, and a description, of every format that the installed Pillow can write; each file is read back."""
    try:
        from PIL import Image, __version__, features
    except ImportError:
        return {}
    grey = Image.fromarray(codes)
    palette = Image.frombytes("P", grey.size, codes.tobytes())
    palette.putpalette([k for k in range(int(codes.max()) + 1) for _ in range(3)])
    trials: list[tuple[str, Any, Json]] = [("PNG", picture, {"optimize": True}) for picture in (grey, palette)]
    if features.check("webp"):
        trials.append(("WebP", grey, {"lossless": True, "quality": 100, "method": 6, "exact": True}))
    best: dict[str, tuple[int, str]] = {}
    for name, picture, settings in trials:
        buffer = io.BytesIO()
        picture.save(buffer, name, **settings)
        back = Image.open(buffer)
        if not np.array_equal(np.asarray(back if back.mode == "P" else back.convert("L")), codes):
            continue
        how = f"measured in this run: one sheet, {'palette' if picture is palette else 'grey'}, Pillow {__version__}"
        if name not in best or buffer.tell() < best[name][0]:
            best[name] = (len(buffer.getvalue()), how)
    return best


def _row(name: str, bits_per_dim: float, size: int | None, note: str) -> Json:
    return {"name": name, "bits_per_dim": bits_per_dim, "bytes": size, "measured": size is not None, "note": note}

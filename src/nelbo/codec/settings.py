"""Settings of an archive: the flags by which its model differs from that of its folder; checked before their use."""

from __future__ import annotations

from typing import Any

from nelbo import fields
from nelbo.errors import ArchiveError
from nelbo.typing import Json


def check_settings(settings: Json, levels: int) -> None:
    """Errors: ArchiveError for a setting that no `nelbo compress` writes, or whose value cannot be of a chain of so
    many levels: `steps` is their number, or one less; 0 levels are those of a model of symbols."""
    for name, value in settings.items():
        allowed = None
        if name not in _HINTS:
            allowed = f"the settings are {', '.join(_HINTS)}"
        elif not fields.fits(value, _HINTS[name]):
            allowed = f"it is {fields.described(_HINTS[name])}"
        elif name == "steps" and levels and not max(1, levels - 1) <= value <= levels:
            allowed = f"a chain of {levels} levels has that many steps, or one less"
        if allowed is not None:
            raise ArchiveError(
                f"the archive has the setting {fields.shown(name)} = {fields.shown(value)}: {allowed}",
                "it was altered, or a later nelbo wrote it; fetch the file again",
            )


_HINTS: dict[str, Any] = {
    "steps": int,
    "variance": str,
    "decoder": str,
    "bins": int,
    "range": tuple[float, float],
    "clip": bool | tuple[float, float],
}

"""The folder of a site: written next to its place, moved there when complete, and never over other files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nelbo.errors import UsageError
from nelbo.files import replace_folder, temporary_folder

MARKER = ".nelbo-equations.json"
"""Lists the files of a built site, which the next build may replace."""

SCHEMA = "nelbo.site/1"


def check(out: Path) -> Path:
    """The folder that a site may be written to, resolved.

    Errors: UsageError where `out` is a file, the current folder or above it, or holds files that no build wrote.
    """
    place = out.resolve()
    if place.exists() and not place.is_dir():
        raise UsageError(f"the site cannot be written to {out}, which is a file", "name a folder that is new or empty")
    if Path.cwd().is_relative_to(place):
        raise UsageError(
            f"the site cannot be written to {out}, which is the folder you are in or one above it",
            f"name a folder within: {out / 'equations-site'}",
        )
    foreign = _foreign(place)
    if foreign is not None:
        raise UsageError(
            f"the folder {out} holds {foreign}, which no earlier build wrote",
            "name a folder that is new or empty, or remove what is in this one",
        )
    return place


def replace(out: Path, files: Mapping[str, bytes | str]) -> int:
    """Write a site of `files` (path below the folder -> content) in place of what is at `out`; its size in bytes.

    The pages are written into a new folder next to it, which then takes its name: a reader sees the old site or the
    whole new one. Errors: as `check`; OSError with the old site as it was.
    """
    place = check(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock, work = temporary_folder(place.parent)
    try:
        size = _write(work, files)
        check(out)  # what came since is not lost either
        replace_folder(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    return size


def _write(folder: Path, files: Mapping[str, bytes | str]) -> int:
    size = 0
    for name, content in {**files, MARKER: json.dumps({"schema": SCHEMA, "files": sorted(files)})}.items():
        data = content.encode() if isinstance(content, str) else content
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        size += len(data)
    return size


def _foreign(place: Path) -> str | None:
    """The first file in a folder that no build wrote, or None."""
    if not place.is_dir():
        return None
    ours = {MARKER, *_listed(place)}
    there = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_symlink() or not p.is_dir())
    return next((name for name in there if name not in ours), None)


def _listed(place: Path) -> list[str]:
    try:
        table = json.loads((place / MARKER).read_text(encoding="utf-8"))
        return [str(name) for name in table["files"]] if table["schema"] == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError):
        return []

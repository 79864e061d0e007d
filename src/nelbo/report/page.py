"""The page: the contents of a folder in one html file that needs no other file.

The template escapes every text; only drawings that this package made are inserted as they are. A content security
policy forbids the page to load anything.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nelbo._version import __version__
from nelbo.documents import html, plots, tables
from nelbo.errors import DataError, UsageError
from nelbo.files import write_atomic
from nelbo.report import diagnosed, figures, surprisals, tightened, words
from nelbo.report.contents import FolderContents, read_contents
from nelbo.report.pictures import grid
from nelbo.typing import Json

TEMPLATES = Path(__file__).parent / "templates"
COLUMNS = 12
"""Most moments of the reverse chain that are shown."""

_BUDGET = 600_000
"""Most numbers drawn in one picture: a page of a few such pictures stays below 3 MB."""


def write(folder: str | Path, out: str | Path, *, bound: str | Path | None = None) -> Path:
    """Write the report of `folder` (of `nelbo demo`, or a model folder) to the html file `out`, and return its path.

    bound: the JSON of its bound, where that is neither bound.json in the folder nor, of its model, beside it. Only what
    is there is shown. The same folder gives the same bytes. The file is written whole or not at all.
    Errors: DataError for a folder without anything to show or with a damaged file, UsageError where `out` is a folder,
    OSError where it cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.is_dir():
        raise UsageError(
            f"the report cannot be written to {out}, which is a folder", f"name a file: {out / 'report.html'}"
        )
    return write_atomic(out, render(read_contents(folder, None if bound is None else Path(bound))))


def render(contents: FolderContents) -> str:
    """The page as text."""
    return html.environment(TEMPLATES).get_template("report.html").render(view(contents))


def view(contents: FolderContents) -> Json:
    """Everything that the template shows; None or empty where a section has nothing to show."""
    bound = contents.bound
    data = (bound or {}).get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return {
        "title": str(name or contents.folder.resolve().name),
        "version": __version__,
        "headline": None if bound is None else words.headline(contents),
        "warnings": [] if bound is None else [str(w) for w in bound.get("warnings") or []],
        "terms": [] if bound is None else tables.terms(bound),
        "chain": _chain(bound),
        "loss": _loss(contents),
        "grids": _grids(contents),
        "strip": _strip(contents),
        "tightened": _tightened(contents),
        "diagnosed": _section(diagnosed.view, contents.diagnosis, contents, "diagnosis.json"),
        "surprisal": _section(surprisals.view, contents.surprisal, contents, "surprisal.json"),
        "unit": words.unit(bound or {}),
        "coders": words.coders(contents) if contents.comparison else [],
        "made_with": words.made_with(contents),
    }


def _drawing(svg: str) -> Any:
    """An svg element made by `figures`, marked as not to be escaped: it holds numbers and words of this package."""
    from markupsafe import Markup

    return Markup(svg)


def _chain(bound: Json | None) -> Json | None:
    if bound is None or not any(v["logsnr_s"] > v["logsnr_t"] for v in bound["levels"]):
        return None
    count = len(bound["levels"])
    return {
        "svg": _drawing(figures.chain(bound, words.unit(bound))),
        "strata": count,
        "joined": plots.STRATA if count > plots.STRATA else None,
        "latent": "pixels" in bound["terms"],
        "errors": any(v.get("standard_error") for v in bound["levels"]),
    }


def _tightened(contents: FolderContents) -> Json | None:
    section = _section(tightened.view, contents.certificate, contents, "certificate.json")
    if section is None or section["svg"] is None:
        return section
    return {**section, "svg": _drawing(section["svg"])}


def _section(view: Callable[[Any], Json | None], document: Any, contents: FolderContents, name: str) -> Json | None:
    """A section of a document. Errors: DataError where it lacks what the section shows."""
    try:
        return view(document)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"{name} in {contents.folder} lacks a field, or a field has another type: {error!r}",
            "write it again, or move it away",
        ) from None


def _loss(contents: FolderContents) -> Json | None:
    steps, values = figures.series(contents.log, "loss")
    if len(values) < 2:
        return None
    bits = None if contents.bound is None else contents.bound["bits_per_dim"]
    seconds = figures.series(contents.log, "seconds")[1]
    return {
        "svg": _drawing(figures.loss(contents.log, bits, words.unit(contents.bound or {}))),
        "steps": int(steps[-1]),
        "records": len(values),
        "seconds": round(float(seconds[-1])) if len(seconds) else None,
        "unreadable": contents.unreadable_lines,
    }


def _grids(contents: FolderContents) -> list[Json]:
    shown = []
    for key, caption in (("samples", "drawn from the model"), ("data", "from the data")):
        images = contents.pictures.get(key)
        if images is not None:
            low, high = _code_scale(contents, images)
            images = images[: _affordable(images)]
            shown.append(
                {"src": _png(images, low, high), "caption": f"{len(images)} {caption}", "low": low, "high": high}
            )
    return shown


def _strip(contents: FolderContents) -> Json | None:
    z, x = contents.pictures.get("trajectory"), contents.pictures.get("denoised")
    first = z if z is not None else x
    if first is None:
        return None
    logsnr = contents.pictures.get("trajectory_logsnr")
    order = np.arange(len(first)) if logsnr is None else np.argsort(logsnr, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, min(COLUMNS, len(order))).round().astype(int))]
    low, high = _real_scale(contents, first)
    rows = []
    for array, symbol, about in ((z, "z", "the chain"), (x, "x̂", "the prediction of the network")):
        if array is not None:
            count = min(5, _affordable(array[0]))
            # z spreads beyond the range of the data: its gray scale is half as wide again, the same in every column
            middle, half = (low + high) / 2, (high - low) / 2 * (1.5 if symbol == "z" else 1.0)
            cells = [_png(array[i, :count], middle - half, middle + half, columns=1) for i in order]
            rows.append({"symbol": symbol, "about": about, "cells": cells})
    labels = [] if logsnr is None else [f"{logsnr[i]:+.1f}".replace("-", "−") for i in order]
    return {"rows": rows, "labels": labels, "columns": len(order), "steps": len(first)}


def _affordable(images: np.ndarray) -> int:
    return int(max(1, min(64, len(images), _BUDGET // max(1, images[0].size))))


def _code_scale(contents: FolderContents, images: np.ndarray) -> tuple[float, float]:
    """The ends of the gray scale: 0 and K − 1 for codes; for real values those of the domain, or of the values."""
    bins = contents.domain.get("bins")
    if isinstance(bins, int) and bins > 1 and images.dtype.kind in "ui":
        return 0.0, float(bins - 1)
    return _real_scale(contents, images)


def _real_scale(contents: FolderContents, images: np.ndarray) -> tuple[float, float]:
    low, high = contents.domain.get("low"), contents.domain.get("high")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high and images.dtype.kind == "f":
        return float(low), float(high)
    finite = images[np.isfinite(images)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _png(images: np.ndarray, low: float, high: float, columns: int | None = None) -> str:
    return "data:image/png;base64," + base64.b64encode(grid(images, low, high, columns=columns)).decode()

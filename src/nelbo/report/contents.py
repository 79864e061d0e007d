"""The contents of a folder for a report: `bound.json`, the model's description and log, pictures, a comparison.

Every file is optional and is checked as far as the report uses it. A damaged file is refused by name and not left out,
because a page without it would look complete.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nelbo.data import numpy_files
from nelbo.documents.numbers import is_number
from nelbo.errors import DataError, NelboError
from nelbo.files import regular
from nelbo.model import folder as models
from nelbo.tightening import certificate as certificates
from nelbo.typing import Json

TERMS = ("prior", "diffusion", "reconstruction")
ODE_TERMS = ("prior", "flow", "dequantisation", "reconstruction", "importance")
FILES = (
    "bound.json",
    "model/certificate.json",
    "model/model.json",
    "model/log.jsonl",
    "pictures.npz",
    "comparison.json",
    "diagnosis.json",
    "surprisal.json",
)
PICTURES = ("samples", "data", "trajectory", "denoised", "trajectory_logsnr")


@dataclass(frozen=True, eq=False)
class FolderContents:
    """The contents of a folder; None or empty where a file is missing."""

    folder: Path
    bound: Json | None = None
    model: Json | None = None
    log: list[Json] = field(default_factory=list)
    unreadable_lines: int = 0
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    comparison: list[Json] = field(default_factory=list)
    certificate: Json | None = None
    diagnosis: Json | None = None
    surprisal: Json | None = None

    @property
    def domain(self) -> Json:
        """The data domain, from the bound or else from the model; {} where neither is there."""
        for source in (self.bound, self.model):
            domain = (source or {}).get("domain")
            if isinstance(domain, dict):
                return domain
        return {}


def read_contents(folder: Path, bound: Path | None = None) -> FolderContents:
    """Everything that a report of `folder` can show: a folder of `nelbo demo`, or a model folder; bound: the file with
    its bound, where it is another than bound.json in the folder, or beside it and of its model.

    Errors: DataError for a folder that is missing or has none of the files, and for a file that is damaged.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}", "give the folder that `nelbo demo` or `nelbo train` wrote")
    model = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    log, unreadable = _log(model / "log.jsonl")
    contents = FolderContents(
        folder,
        bound=_found_bound(folder, model) if bound is None else _given_bound(bound),
        model=_json(model / "model.json"),
        log=log,
        unreadable_lines=unreadable,
        pictures=_pictures(folder / "pictures.npz"),
        comparison=_comparison(folder / "comparison.json"),
        certificate=certificates.read(model / certificates.FILE),
        diagnosis=_of_schema(folder / "diagnosis.json", "nelbo.diagnosis/1", "nelbo diagnose MODEL --data DATA --out"),
        surprisal=_of_schema(
            folder / "surprisal.json", "nelbo.surprisal/1", "nelbo evaluate MODEL --data DATA --surprisal"
        ),
    )
    parts = contents.bound, contents.model, contents.log, contents.pictures, contents.comparison, contents.diagnosis
    if not any((*parts, contents.surprisal)):
        raise DataError(
            f"the folder {folder} holds nothing that a report shows",
            f"give a folder of `nelbo demo` or `nelbo train`; a report shows {', '.join(FILES)}",
        )
    return contents


def _json(path: Path) -> Json | None:
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON: {error}", "it is truncated or altered; write it again or move it away"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}, not an object", "move it away")
    return value


def _given_bound(path: Path) -> Json:
    bound = _bound(path)
    if bound is None:
        raise DataError(f"there is no file {path}", "give the file that `nelbo evaluate --out` wrote")
    return bound


def _found_bound(folder: Path, model: Path) -> Json | None:
    """bound.json in the folder; else the one beside it, if it says that it is of the model in the folder."""
    outside = folder.resolve().parent / "bound.json"
    bound = _bound(folder / "bound.json")
    if bound is not None or not outside.is_file() or not (model / "model.json").is_file():
        return bound
    with suppress(NelboError):  # of another kind, or a folder that is not opened without consent
        other = _given_bound(outside)
        if other.get("model", {}).get("fingerprint") == models.load(model).fingerprint():
            return other
    return None


def _bound(path: Path) -> Json | None:
    bound = _json(path)
    if bound is None:
        return None
    remedy = "write it again with `nelbo evaluate MODEL --data DATA --out bound.json`, or move it away"
    if bound.get("schema") != "nelbo.bound/1":
        raise DataError(f"{path} has the schema {bound.get('schema')!r}, not 'nelbo.bound/1'", remedy)
    missing = [name for name, valid in _required(bound) if not valid]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}, or holds something else there", remedy)
    return bound


def _of_schema(path: Path, schema: str, command: str) -> Json | None:
    """A document of a schema, which `command` writes; None where there is none. Errors: DataError."""
    document = _json(path)
    if document is not None and document.get("schema") != schema:
        raise DataError(
            f"{path} has the schema {document.get('schema')!r}, not {schema!r}",
            f"write it again with `{command} {path.name}`, or move it away",
        )
    return document


def _required(bound: Json) -> list[tuple[str, bool]]:
    """The fields that the page needs, and whether each is there and of its type."""

    def inner(value: Any, key: str) -> Any:
        return value.get(key) if isinstance(value, dict) else None

    checks = [("bits_per_dim", is_number(bound.get("bits_per_dim")))]
    checks += [(key, isinstance(bound.get(key), int) and bound[key] > 0) for key in ("examples", "dimensions")]
    checks += [("standard_error", isinstance(bound.get("standard_error"), dict))]
    for term in ODE_TERMS if bound.get("quantity") == "ode" else TERMS:
        value = inner(inner(bound.get("terms"), term), "bits_per_dim")
        checks.append((f"terms.{term}.bits_per_dim", is_number(value)))
    levels = bound.get("levels", [])
    keys = ("logsnr_t", "logsnr_s", "bits_per_dim")
    good = isinstance(levels, list) and all(is_number(inner(level, k)) for level in levels for k in keys)
    checks.append(("levels", good))
    domain = bound.get("domain")
    bins = inner(domain, "bins")
    checks.append(("domain", isinstance(domain, dict) and (bins is None or (isinstance(bins, int) and bins > 1))))
    return checks


def _log(path: Path) -> tuple[list[Json], int]:
    """The records that have a step, and the number of lines that are no JSON object (a crash can cut one off)."""
    try:
        lines = regular(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", "check its permissions, or move it away") from None
    records, unreadable = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            unreadable += 1
        elif is_number(record.get("step")):
            records.append(record)
    return records, unreadable


def _pictures(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    loaded = numpy_files.load(path)
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds a single array", f"save it with numpy.savez under {', '.join(PICTURES)}")
    pictures = {k: v for k, v in loaded.items() if k in PICTURES and v.size}
    for key, array in pictures.items():
        axes = {"trajectory_logsnr": (1,), "trajectory": (3, 4, 5), "denoised": (3, 4, 5)}.get(key, (2, 3, 4))
        if array.dtype.kind not in "uif" or array.ndim not in axes:
            raise DataError(
                f"{path}#{key} holds {array.dtype} of shape {array.shape}, which cannot be drawn",
                "samples and data are (n, *shape), trajectory and denoised (steps, m, *shape), "
                "trajectory_logsnr (steps,), all numbers",
            )
    steps = {k: len(pictures[k]) for k in ("trajectory", "denoised", "trajectory_logsnr") if k in pictures}
    if len(set(steps.values())) > 1:
        raise DataError(
            f"the arrays of the reverse chain in {path} differ in their number of steps: {steps}",
            "give trajectory, denoised and trajectory_logsnr the same first axis",
        )
    return pictures


def _comparison(path: Path) -> list[Json]:
    document = _json(path)
    if document is None:
        return []
    rows = document.get("rows")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) and is_number(row.get("bits_per_dim"))
        for row in rows
    ):
        raise DataError(
            f"{path} does not hold rows of coders",
            'write {"rows": [{"name": "PNG", "bits_per_dim": 3.31, "note": "…"}, …]}',
        )
    return rows

"""`nelbo info`: versions and devices; or the parts and provenance of a model; or the header of a compressed file."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo._version import __version__
from nelbo.cli import options
from nelbo.cli.output import session

if TYPE_CHECKING:
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.typing import Json


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL | FILE.nelbo]", help="A model, or a compressed file.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
) -> None:
    """Describe this installation, a model or a compressed file.

    Without an argument: versions and devices. For a model: its parts, steps, parameters, floating-point operations of
    an evaluation of one example, fingerprint and provenance. For a compressed file: its header, the model that wrote
    it, and the images that damage has lost.
    """
    with session(as_json) as output:
        if model is None:
            document = machine()
        elif is_file(model):
            from nelbo import codec

            document = {"schema": "nelbo.info/1", "path": model, "archive": codec.inspect(model)}
        else:
            from nelbo import api

            document = {"schema": "nelbo.info/1", "path": model, **describe(api.load(model, trust_code=trust_code))}
        output.document(document)
        output.text("\n".join(lines(document)))


def is_file(name: str) -> bool:
    """Whether this is a compressed file, or has the name of one."""
    path = Path(name)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".nelbo" or file.read(4) == b"NELB"


def machine() -> Json:
    """Versions, devices and threads."""
    import torch

    from nelbo.workers import devices

    return {
        "schema": "nelbo.info/1",
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
        "devices": devices(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def describe(model: DiffusionModel) -> Json:
    """The parts of a model, their size, and its provenance."""
    trained_on = model.trained_on
    return {
        **model.describe(),
        "steps": model.steps,
        "parameters": model.parameters,
        "flops_per_evaluation": _flops(model),
        "fingerprint": model.fingerprint() or "unknown",
        "trained_on": None if trained_on is None else len(trained_on),
        "provenance": model.provenance,
    }


def _flops(model: DiffusionModel) -> int | None:
    from nelbo.model.diffusion import flops_per_evaluation

    return flops_per_evaluation(model)


def lines(document: Json) -> list[str]:
    """The document for a person: a line an entry, a part as its kind and fields."""
    shown: list[str] = []
    for name, value in document.items():
        if name == "schema":
            continue
        if name == "archive" and isinstance(value, dict):
            shown += lines(value)
        elif name == "provenance" and isinstance(value, dict):
            shown += [f"  {inner:<14} {_text(entry)}" for inner, entry in value.items()]
            shown.insert(len(shown) - len(value), "provenance" + ("" if value else "       none"))
        else:
            shown.append(f"{name:<16} {_text(value)}")
    return shown


def _text(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{k} {_text(v)}" for k, v in value.items() if k != "kind")
        kind = value.get("kind")
        return inner if kind is None else f"{kind} ({inner})" if inner else str(kind)
    if isinstance(value, (list, tuple)):
        head = ", ".join(_text(v) for v in value[:12])
        return f"[{head}, … {len(value)} in all]" if len(value) > 12 else f"[{head}]"
    return "none" if value is None else str(value)

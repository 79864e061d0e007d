"""`nelbo info`: versions and devices; or the parts and provenance of a model; or the header of a compressed file."""

from __future__ import annotations

import platform
import shutil
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo._version import __version__
from nelbo.cli import options
from nelbo.cli.output import session

if TYPE_CHECKING:
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.latent.model import LatentModel
    from nelbo.model.tokens.model import TokenModel
    from nelbo.typing import Json


EXTRAS = {
    "train": (("accelerate", "tensorboard"), "several processes and GPUs, and the tracker tensorboard"),
    "diffusers": (("diffusers",), "folders and pipelines of diffusers, and its U-Net"),
    "codec": (("numba",), "compress and decompress"),
    "lightning": (("lightning",), "nelbo.monitoring.lightning_callback"),
    "torchmetrics": (("torchmetrics",), "nelbo.monitoring.torchmetrics_metric"),
    "transformers": (("transformers", "accelerate"), "nelbo.monitoring.transformers_callback"),
    "data": (("PIL", "datasets"), "folders of pictures, and data sets of Hugging Face"),
    "text": (("transformers", "lm_eval"), "language models of transformers, and nelbo as a model of lm-eval"),
}
"""The extras of the package: their modules, and what they are for."""


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
        "extras": {name: {"for": what, "missing": missing(name)} for name, (_, what) in EXTRAS.items()},
    }


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [module for module in EXTRAS[extra][0] if find_spec(module) is None]


def describe(model: DiffusionModel | TokenModel | LatentModel) -> Json:
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


def _flops(model: DiffusionModel | TokenModel | LatentModel) -> int | None:
    from nelbo.model.diffusion import DiffusionModel, flops_per_evaluation

    if not isinstance(model, DiffusionModel):
        return None

    return flops_per_evaluation(model)


def lines(document: Json) -> list[str]:
    """The document for a person: an entry after the other, a part as its kind and fields, as wide as the terminal."""
    shown: list[str] = []
    width = max(60, shutil.get_terminal_size().columns)

    def add(name: str, text: str) -> None:
        shown.extend(textwrap.wrap(f"{name:<15} {text}", width, subsequent_indent=16 * " ", break_long_words=False))

    for name, value in document.items():
        if name == "schema":
            continue
        if name == "archive" and isinstance(value, dict):
            shown += lines(value)
        elif name == "provenance" and isinstance(value, dict):
            shown.append("provenance" + ("" if value else "       none"))
            for inner, entry in value.items():
                add(f"  {inner}", _text(entry))
        elif name == "extras" and isinstance(value, dict):
            shown.append("extras")
            for extra, about in value.items():
                lacking = ", ".join(about["missing"])
                remedy = f" (missing: {lacking}; pip install 'nelbo[{extra}]')" if lacking else ""
                add(f"  {extra}", about["for"] + remedy)
        else:
            add(name, _text(value))
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

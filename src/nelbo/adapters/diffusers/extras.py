"""What nelbo writes beside a folder of diffusers, because its format has no place for it: `nelbo.json`.

Domain (bins and range of the data), grid, decoder, prior, provenance, and in `nelbo.safetensors` their tensors and the
hashes of the training examples. Schedule, variance, clipping and output are the scheduler's and are read from there.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nelbo._version import __version__
from nelbo.errors import ModelFolderError, NelboError
from nelbo.files import write_atomic
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import Prior
from nelbo.process.grid import Grid
from nelbo.typing import Json

SCHEMA = "nelbo.diffusers/1"
FILE, TENSORS = "nelbo.json", "nelbo.safetensors"


def write(model: DiffusionModel, folder: Path) -> None:
    """Write both files; the second only where there are tensors."""
    tensors: dict[str, Tensor] = {}
    for part in ("decoder", "prior"):
        tensors |= {f"{part}.{k}": v.contiguous() for k, v in getattr(model, part).to_tensors().items()}
    if model.trained_on is not None:
        tensors["trained_on"] = model.trained_on
    description: Json = {
        "schema": SCHEMA,
        "version": __version__,
        "domain": model.domain.to_config(),
        "grid": model.grid.to_config(),
        "decoder": model.decoder.to_config(),
        "prior": model.prior.to_config(),
        "provenance": model.provenance,
        "tensors": sorted(tensors),
    }
    write_atomic(folder / FILE, json.dumps(description, indent=1, allow_nan=False) + "\n")
    if tensors:
        write_atomic(folder / TENSORS, save(tensors))


def restored(model: DiffusionModel, folder: Path, keep_bins: bool, keep_decoder: bool) -> DiffusionModel:
    """`model` with what `write` left in `folder`; choices of the user stay as they are.

    Errors: ModelFolderError naming the file that is missing or wrong.
    """
    try:
        said = json.loads((folder / FILE).read_text())
        if said["schema"] != SCHEMA:
            raise ModelFolderError(f"{folder / FILE} has the schema {said['schema']!r}", "update nelbo")
        tensors = load_file(folder / TENSORS) if said["tensors"] else {}
        changes: Json = {"provenance": {**model.provenance, **said["provenance"]}}
        changes["grid"] = Grid.from_config(said["grid"], {})
        changes["prior"] = Prior.from_config(said["prior"], _under("prior.", tensors))
        if keep_bins:
            changes["domain"] = DataDomain.from_config(said["domain"], {})
        if keep_bins and keep_decoder:
            changes["decoder"] = Decoder.from_config(said["decoder"], _under("decoder.", tensors))
        changes["trained_on"] = tensors.get("trained_on")
        return dataclasses.replace(model, **changes)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"{folder / FILE} or {TENSORS} beside it is incomplete or altered: {type(error).__name__}: {error}",
            f"copy the whole folder again, or remove {FILE} to read it as any folder of diffusers",
        ) from None
    except NelboError as error:
        raise ModelFolderError(f"{folder / FILE}: {error.message}", error.hint) from None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

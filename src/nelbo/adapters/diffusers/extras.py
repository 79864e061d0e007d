"""nelbo.json and nelbo.safetensors: what a folder of diffusers has no place for.

Domain, grid, decoder, prior, provenance, and the hashes of the training examples. Schedule, variance, clipping and
output are in the scheduler's configuration. A hash of the weights and the scheduler's configuration say to which save
they belong, so that they are not applied to another model that was saved over it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nelbo._version import __version__
from nelbo.adapters.diffusers import weights
from nelbo.adapters.diffusers.folder import read
from nelbo.errors import ModelFolderError, NelboError
from nelbo.files import regular, write_atomic
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import Prior
from nelbo.process.grid import Grid
from nelbo.typing import Json

SCHEMA = "nelbo.diffusers/1"
EXTRAS, TENSORS = "nelbo.json", "nelbo.safetensors"


def write_extras(model: DiffusionModel, folder: Path) -> None:
    """Write nelbo.json, and nelbo.safetensors if there are tensors, next to the pipeline in `folder`."""
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
        "of": _belongs_to(folder, model),
        "tensors": sorted(tensors),
    }
    write_atomic(folder / EXTRAS, json.dumps(description, indent=1, allow_nan=False) + "\n")
    if tensors:
        write_atomic(folder / TENSORS, save(tensors))


def _belongs_to(folder: Path, model: DiffusionModel) -> Json:
    """By what nelbo.json knows the rest of the folder again: the scheduler's configuration, a hash of the weights."""
    config = read(folder / "scheduler" / "scheduler_config.json")
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    return {"scheduler": plain, "weights": weights.digest(model.denoiser)}


def with_extras(model: DiffusionModel, folder: Path, keep_bins: bool, keep_decoder: bool) -> DiffusionModel:
    """`model` with what `write_extras` wrote to `folder`; domain and decoder only if the user has not chosen others.

    Errors: ModelFolderError naming the file that is missing or wrong.
    """
    try:
        description = json.loads(regular(folder / EXTRAS).read_text())
        if description["schema"] != SCHEMA:
            raise ModelFolderError(f"{folder / EXTRAS} has the schema {description['schema']!r}", "update nelbo")
        if "of" in description and description["of"] != _belongs_to(folder, model):
            raise ModelFolderError(
                f"{folder / EXTRAS} is of another model than the weights and the scheduler next to it",
                f"it is left over from an earlier save: remove {EXTRAS} and {TENSORS} to read the folder as any of "
                "diffusers",
            )
        tensors = load_file(regular(folder / TENSORS)) if description["tensors"] else {}
        changes: Json = {"provenance": {**model.provenance, **description["provenance"]}}
        changes["grid"] = Grid.from_config(description["grid"], {})
        changes["prior"] = Prior.from_config(description["prior"], _of_part("prior.", tensors))
        if keep_bins:
            changes["domain"] = DataDomain.from_config(description["domain"], {})
        if keep_bins and keep_decoder:
            changes["decoder"] = Decoder.from_config(description["decoder"], _of_part("decoder.", tensors))
        changes["trained_on"] = tensors.get("trained_on")
        return dataclasses.replace(model, **changes)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{folder / EXTRAS} or {TENSORS} next to it is incomplete or altered: {type(error).__name__}: {error}",
            f"copy the whole folder again, or remove {EXTRAS} to read it as any folder of diffusers",
        ) from None
    except NelboError as error:
        raise ModelFolderError(f"{folder / EXTRAS}: {error.message}", error.hint) from None


def _of_part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

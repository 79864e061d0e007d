"""Folders of diffusers, local or on the hub: what they say of a model, and what in them can be evaluated.

model_index.json                     the pipeline's class, and library and class of each component
scheduler/scheduler_config.json
unet/ or transformer/                config.json, diffusion_pytorch_model.safetensors
nelbo.json, nelbo.safetensors        if nelbo wrote the folder: domain, decoder, prior, grid, provenance
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nelbo._version import __version__
from nelbo.adapters.diffusers.network import NAMES
from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.files import write_atomic
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.prior import Prior
from nelbo.nets.diffusers import library
from nelbo.process.grid import Grid
from nelbo.typing import Json

SCHEMA = "nelbo.diffusers/1"
EXTRAS, TENSORS = "nelbo.json", "nelbo.safetensors"

NETWORKS = ("unet", "transformer")
LATENT = ("vae", "vqvae", "movq", "vqgan", "vae_encoder", "vae_decoder")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder that diffusers' `save_pretrained` wrote, of a pipeline or of one of its parts."""
    path = Path(path)
    if (path / "model.json").exists():
        return False
    return any(
        (path / name).exists() for name in ("model_index.json", "scheduler", "scheduler_config.json", *NETWORKS)
    ) or ("_diffusers_version" in _optional(path / "config.json"))


def is_hub_id(text: str) -> bool:
    """Whether `text` is of the form org/name, and no folder `org` lies here."""
    return HUB_ID.fullmatch(text) is not None and not Path(text.split("/")[0]).exists()


def fetched(name: str, patterns: tuple[str, ...], *, subfolder: str | None, **options: Any) -> Path:
    """The folder of a model on the hub, from the network or the hub's cache, with the files of `patterns`.

    options: `revision`, `local_files_only`. Errors: ModelFolderError, one sentence, if it is not available: offline, no
    such model, no access.
    """
    library(f"the model {name!r} of the hub")
    import huggingface_hub

    patterns = tuple(f"{subfolder}/{pattern}" for pattern in patterns) if subfolder else patterns
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), **options))
    except Exception as error:  # whatever the hub, the network or the cache raise
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise ModelFolderError(
            f"there is no folder {name}, and the model {name!r} is not available from the hub or its cache: {reason}",
            "check the name and the connection; without a connection give the path of a folder",
        ) from None
    return folder / subfolder if subfolder else folder


DESCRIPTION = ("model_index.json", "nelbo.*", "scheduler/*.json", *(f"{place}/*.json" for place in NETWORKS))
"""The files that describe the model of a folder, without the weights."""


def weights_of(folder: Path) -> tuple[str, ...]:
    """Patterns of the weights of the network, safetensors only."""
    place = network_place(folder, _optional(folder / "model_index.json"))
    return (f"{place}/diffusion_pytorch_model*.safetensors",)


def described(folder: Path, latents: bool) -> tuple[str, Json, Json]:
    """(scheduler class, its configuration, facts for the provenance) of a folder on this machine.

    latents: whether the user declared real-valued data, so that the chain of a latent model may be evaluated alone.
    Errors: ModelFolderError naming the file that is missing or wrong; UsageError for a model without a likelihood.
    """
    index = _optional(folder / "model_index.json")
    facts: Json = {"pipeline": index.get("_class_name")}
    latent = next((name for name in LATENT if name in _components(index)), None)
    if latent is not None and not latents:
        raise UsageError(latent_reason(facts["pipeline"], latent), LATENT_HINT)
    cls = _read(folder / network_place(folder, index) / "config.json").get("_class_name")
    if cls not in NAMES:
        raise UsageError(
            f"the network {cls} in {folder} is none of {', '.join(NAMES)}",
            "load it yourself and wrap it: nelbo.from_callable(lambda z, t: net(z, t).sample, …)",
        )
    path = folder / "scheduler" / "scheduler_config.json"
    config = _read(path)
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ModelFolderError(f"{path} names no scheduler (_class_name)", "write it with scheduler.save_pretrained")
    return name, config, facts


def network_place(folder: Path, index: Json) -> str:
    """The name of the network's sub-folder. Errors: ModelFolderError if there is none."""
    place = next((name for name in NETWORKS if name in _components(index) or (folder / name).is_dir()), None)
    if place is None:
        what = f"the pipeline {index.get('_class_name')}" if index else f"the folder {folder}"
        raise ModelFolderError(
            f"{what} has no network named {' or '.join(NETWORKS)} next to a scheduler",
            "give the whole folder of a pipeline; a network alone goes with its scheduler: "
            "nelbo.from_diffusers((network, scheduler))",
        )
    return place


def _components(index: Json) -> Json:
    return {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0] is not None}


LATENT_HINT = (
    "to evaluate the latents themselves, as a density, give scaled latents as data and choose "
    "from_diffusers(…, bins=None), or --decoder continuous_gaussian"
)


def latent_reason(pipeline: str | None, component: str) -> str:
    """Why a latent model is refused."""
    return (
        f"{pipeline or 'the pipeline'} is a latent model: its chain runs over what its {component!r} makes of an "
        "image, and the bound of the image itself needs that part too, which is not evaluated here"
    )


def network_of(folder: Path) -> Any:
    """The network of a folder with its weights; the file must contain exactly its weights."""
    folder = folder / network_place(folder, _optional(folder / "model_index.json"))
    cls = _read(folder / "config.json")["_class_name"]
    diffusers = library(f"the folder {folder}")
    try:
        net, report = getattr(diffusers, cls).from_pretrained(
            str(folder), local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # whatever diffusers, safetensors or torch raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFolderError(
            f"{folder} cannot be loaded as a {cls}: {reason.strip()[:250]}",
            "it is incomplete, truncated or altered; copy the whole folder again",
        ) from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            raise ModelFolderError(
                f"the weights in {folder} do not fit its config.json: {problem.replace('_', ' ')} "
                f"{list(report[problem])[:3]}",
                "it is incomplete or altered; copy the whole folder again",
            )
    return net.eval()


def write_extras(model: DiffusionModel, folder: Path) -> None:
    """Write nelbo.json, and nelbo.safetensors if there are tensors.

    They hold what the format of diffusers has no place for: domain, grid, decoder, prior, provenance, and the hashes of
    the training examples. Schedule, variance, clipping and output are in the scheduler's configuration.
    """
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
    write_atomic(folder / EXTRAS, json.dumps(description, indent=1, allow_nan=False) + "\n")
    if tensors:
        write_atomic(folder / TENSORS, save(tensors))


def with_extras(model: DiffusionModel, folder: Path, keep_bins: bool, keep_decoder: bool) -> DiffusionModel:
    """`model` with what `write_extras` wrote to `folder`; domain and decoder only if the user has not chosen others.

    Errors: ModelFolderError naming the file that is missing or wrong.
    """
    try:
        description = json.loads((folder / EXTRAS).read_text())
        if description["schema"] != SCHEMA:
            raise ModelFolderError(f"{folder / EXTRAS} has the schema {description['schema']!r}", "update nelbo")
        tensors = load_file(folder / TENSORS) if description["tensors"] else {}
        changes: Json = {"provenance": {**model.provenance, **description["provenance"]}}
        changes["grid"] = Grid.from_config(description["grid"], {})
        changes["prior"] = Prior.from_config(description["prior"], _of_part("prior.", tensors))
        if keep_bins:
            changes["domain"] = DataDomain.from_config(description["domain"], {})
        if keep_bins and keep_decoder:
            changes["decoder"] = Decoder.from_config(description["decoder"], _of_part("decoder.", tensors))
        changes["trained_on"] = tensors.get("trained_on")
        return dataclasses.replace(model, **changes)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"{folder / EXTRAS} or {TENSORS} next to it is incomplete or altered: {type(error).__name__}: {error}",
            f"copy the whole folder again, or remove {EXTRAS} to read it as any folder of diffusers",
        ) from None
    except NelboError as error:
        raise ModelFolderError(f"{folder / EXTRAS}: {error.message}", error.hint) from None


def _of_part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optional(path: Path) -> Json:
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> Json:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "give the whole folder that save_pretrained wrote") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}", "copy the folder again") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds a {type(content).__name__}, not a table", "copy the folder again")
    return content

"""Folders of diffusers, local or on the hub: what they say of a model, and what in them can be evaluated.

model_index.json                     the pipeline's class, and library and class of each component
scheduler/scheduler_config.json
unet/ or transformer/                config.json, diffusion_pytorch_model.safetensors
nelbo.json, nelbo.safetensors        if nelbo wrote the folder: domain, decoder, prior, grid, provenance
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from nelbo.adapters.diffusers import network, pipeline, scheduler, weights
from nelbo.adapters.diffusers.pipeline import AUTOENCODERS, NETWORKS
from nelbo.bound import checks
from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.files import regular
from nelbo.nets.diffusers import library
from nelbo.typing import Json

EMA = re.compile(r"(?:^|[_-])ema(?:[_-]|$)")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder that diffusers' `save_pretrained` wrote, of a pipeline or of one of its parts."""
    path = Path(path)
    if (path / "model.json").exists():
        return False
    return any(
        (path / name).exists() for name in ("model_index.json", "scheduler", "scheduler_config.json", *NETWORKS)
    ) or ("_diffusers_version" in optional(path / "config.json"))


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


def uploaded(folder: Path, name: str, *, private: bool | None, message: str) -> str:
    """Upload a folder to the model `name` of the hub, which is made where it is missing; the address of the commit.

    Errors: UsageError, one sentence, if it is refused: offline, no token, no such organisation.
    """
    library(f"uploading to the model {name!r} of the hub")
    import huggingface_hub

    try:
        huggingface_hub.create_repo(name, private=private, exist_ok=True)
        done = huggingface_hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    except Exception as error:  # whatever the hub or the network raise
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise UsageError(
            f"the model {name!r} was not uploaded to the hub: {reason}",
            "log in with `hf auth login`, and check the name and the connection",
        ) from None
    return str(done)


DESCRIPTION = ("model_index.json", "nelbo.*", "scheduler/*.json", "*/config.json", f"*/{weights.STEM}*.json")
"""The files that describe the model of a folder, without the weights."""


def weights_of(folder: Path, kind: str = "safetensors") -> tuple[str, ...]:
    """Patterns of the weights of the network, in files of one kind."""
    place = network_place(folder, optional(folder / "model_index.json"))
    return (f"{place}/{weights.STEM}*.{kind}",)


def fetched_weights(name: str, folder: Path, **options: Any) -> Path:
    """The folder of a model on the hub with its weights: those of safetensors, or .bin where there are none."""
    place = network_place(folder, optional(folder / "model_index.json"))
    for kind in ("safetensors", "bin"):
        folder = fetched(name, weights_of(folder, kind), **options)
        if weights.sources(folder / place):
            break
    return folder


def described(folder: Path, latents: bool) -> tuple[str, Json, Json]:
    """(scheduler class, its configuration, facts for the provenance) of a folder on this machine.

    latents: whether the user declared real-valued data, so that the chain of a latent model may be evaluated alone.
    Warns of averaged weights next to those that are read, and of defaults that stand for missing keys.
    Errors: ModelFolderError naming the file that is missing or wrong; UsageError for a model without a likelihood.
    """
    index = optional(folder / "model_index.json")
    facts: Json = {"pipeline": index.get("_class_name")}
    parts = pipeline.listed(index)
    if not latents:
        pipeline.check_latent(facts["pipeline"], parts)
    place = network_place(folder, index)
    written = read(folder / place / "config.json")
    cls = network.class_of(written)
    if cls not in network.NAMES:
        raise network.unknown(cls, f" in {folder}")
    if parts.get(place) not in (None, cls, written.get("_class_name")):
        raise ModelFolderError(
            f"model_index.json names the network {parts[place]}, and {folder / place / 'config.json'} is of a {cls}",
            "they are of two models; copy the whole folder again",
        )
    path = folder / "scheduler" / "scheduler_config.json"
    config = read(path)
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ModelFolderError(f"{path} names no scheduler (_class_name)", "write it with scheduler.save_pretrained")
    notes = scheduler.check_file(name, config, path, parts.get("scheduler"))
    averaged = _averaged(folder)
    averaged += [f"{place}/{s.path.name}" for s in weights.sources(folder / place) if s.variant == "ema"]
    if averaged:
        notes.append(
            f"{folder} also holds averaged weights ({', '.join(averaged)}), which are not evaluated: {place} is; for "
            "the averaged ones load that network and give nelbo.from_diffusers((network, scheduler))"
        )
    checks.warn(notes)
    return name, config, facts


def network_place(folder: Path, index: Json) -> str:
    """The name of the network's sub-folder: unet, transformer, or the only component of a class that is known here.

    Errors: ModelFolderError where there is none; UsageError where there are two networks.
    """
    place = pipeline.network(pipeline.listed(index), str(folder))
    if place is None:
        place = pipeline.network({name: "" for name in NETWORKS if (folder / name).is_dir()}, str(folder))
    if place is None:
        raise _no_network(folder, index)
    return place


def _no_network(folder: Path, index: Json) -> NelboError:
    """The error of a folder without a network and a scheduler, with the folder that is meant where it is near."""
    alone = optional(folder / "config.json").get("_class_name")
    what = f"the pipeline {index.get('_class_name')}" if index else f"the folder {folder}"
    hint = (
        "give the whole folder of a pipeline; a network alone goes with its scheduler: "
        "nelbo.from_diffusers((network, scheduler))"
    )
    if alone is not None:
        what = f"the folder {folder} is a {alone} alone and"
    if (folder.parent / "model_index.json").is_file():
        hint = f"give the folder of its pipeline: {folder.parent}"
    elif str(alone).startswith(AUTOENCODERS):
        hint = "an autoencoder has no chain: give the folder of its pipeline, with bins=None for the latents alone"
    averaged = _averaged(folder)
    if averaged:
        what += f" holds averaged weights ({', '.join(averaged)}) and"
        hint = "load that network and give it with its scheduler: nelbo.from_diffusers((network, scheduler))"
    return ModelFolderError(f"{what} has no network named {' or '.join(NETWORKS)} next to a scheduler", hint)


def _averaged(folder: Path) -> list[str]:
    """Sub-folders of averaged weights, by their names: unet_ema, ema_model."""
    return [path.name for path in sorted(folder.glob("*")) if path.is_dir() and EMA.search(path.name)]


def network_of(folder: Path) -> Any:
    """The network of a folder with its weights, which are exactly those that its configuration asks for."""
    folder = folder / network_place(folder, optional(folder / "model_index.json"))
    config = read(folder / "config.json")
    with torch.device("meta"):  # without memory, until it has the size of its weights
        expected = network.made(config, folder).state_dict()
    _, tensors = weights.fitting(expected, folder)
    net = network.made(config, folder)
    net.load_state_dict(tensors)
    return net.eval()


def optional(path: Path) -> Json:
    """The table in a JSON file, empty where there is no file. Errors: ModelFolderError."""
    return read(path) if path.is_file() else {}


def read(path: Path) -> Json:
    """The table in a JSON file. Errors: ModelFolderError."""
    try:
        content = json.loads(regular(path).read_text())
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "give the whole folder that save_pretrained wrote") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}", "copy the folder again") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} holds a {type(content).__name__}, not a table", "copy the folder again")
    return content

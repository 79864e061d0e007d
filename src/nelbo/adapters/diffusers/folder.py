"""Folders of diffusers: what `save_pretrained` wrote, here or on the hub, and what in them can be scored.

model_index.json                     the pipeline's class, and library and class of each component
scheduler/scheduler_config.json
unet/ or transformer/                config.json, diffusion_pytorch_model.safetensors
nelbo.json, nelbo.safetensors        where nelbo wrote the folder: domain, decoder, prior, grid, provenance
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nelbo.adapters.diffusers.network import NAMES
from nelbo.errors import ModelFolderError, UsageError
from nelbo.nets.diffusers import library
from nelbo.typing import Json

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

    options: `revision`, `local_files_only`. Errors: ModelFolderError, one sentence, where it cannot be had: offline, no
    such model, no access.
    """
    library(f"the model {name!r} of the hub")
    import huggingface_hub

    wanted = [f"{subfolder}/{pattern}" for pattern in patterns] if subfolder else list(patterns)
    try:
        found = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted, **options))
    except Exception as error:  # whatever the hub, the network or the cache raise
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise ModelFolderError(
            f"there is no folder {name}, and the model {name!r} cannot be had from the hub or its cache: {reason}",
            "check the name and the connection; without a connection give the path of a folder",
        ) from None
    return found / subfolder if subfolder else found


DESCRIPTION = ("model_index.json", "nelbo.*", "scheduler/*.json", *(f"{place}/*.json" for place in NETWORKS))
"""What a folder says of its model, without the weights."""


def weights_of(folder: Path) -> tuple[str, ...]:
    """Patterns of the weights that belong to a description: safetensors, of the network alone."""
    place = network_place(folder, _optional(folder / "model_index.json"))
    return (f"{place}/diffusion_pytorch_model*.safetensors",)


def described(folder: Path, latents: bool) -> tuple[str, Json, Json]:
    """(scheduler class, its configuration, what is said of the model) of a folder on this machine.

    latents: whether the user declared real-valued data, so that a latent model may be scored as it is.
    Errors: ModelFolderError naming the file that is missing or wrong; UsageError for what has no likelihood here.
    """
    index = _optional(folder / "model_index.json")
    said: Json = {"pipeline": index.get("_class_name")}
    latent = next((name for name in LATENT if name in _components(index)), None)
    if latent is not None and not latents:
        raise UsageError(latent_reason(said["pipeline"], latent), LATENT_HINT)
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
    return name, config, said


def network_place(folder: Path, index: Json) -> str:
    """The name of the network's own folder. Errors: ModelFolderError where there is none."""
    place = next((name for name in NETWORKS if name in _components(index) or (folder / name).is_dir()), None)
    if place is None:
        what = f"the pipeline {index.get('_class_name')}" if index else f"the folder {folder}"
        raise ModelFolderError(
            f"{what} has no network named {' or '.join(NETWORKS)} with a scheduler beside it",
            "give the whole folder of a pipeline; a network alone goes with its scheduler: "
            "nelbo.from_diffusers((network, scheduler))",
        )
    return place


def _components(index: Json) -> Json:
    return {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0] is not None}


LATENT_HINT = (
    "to score the latents themselves, as a density, give scaled latents as data and say "
    "from_diffusers(…, bins=None), or --decoder continuous_gaussian"
)


def latent_reason(pipeline: str | None, component: str) -> str:
    """Why a latent model is refused."""
    return (
        f"{pipeline or 'the pipeline'} is a latent model: its chain runs over what its {component!r} makes of an "
        "image, and the bound of the image itself needs that part too, which is not scored here"
    )


def network_of(folder: Path) -> Any:
    """The network of a folder with its weights; every weight must be in the file, and nothing else."""
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


def _optional(path: Path) -> Json:
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "give the whole folder that save_pretrained wrote") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}", "copy the folder again") from None
    if not isinstance(found, dict):
        raise ModelFolderError(f"{path} holds a {type(found).__name__}, not a table", "copy the folder again")
    return found

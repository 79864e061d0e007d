"""A model as a folder: `model.json` (its parts) and `model.safetensors` (its tensors). Nothing is pickled.

`model.json` holds the SHA-256 of the weights, so that a folder that is incomplete, truncated or altered is refused by
name of the file that is wrong. Overwriting survives a crash at any moment: the new weights are written beside the old
ones, then model.json, then the new weights take their name; `load` finishes the last step where it was cut off.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from nelbo._version import __version__
from nelbo.errors import ModelFolderError, NelboError, UsageError
from nelbo.files import write_atomic
from nelbo.model import fitted as _fitted  # noqa: F401  its kinds may stand in a folder
from nelbo.model import plugin
from nelbo.model.decoder import Decoder
from nelbo.model.denoiser import CategoricalDenoiser, Denoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.mixture import MixtureDenoiser
from nelbo.model.opened import plain
from nelbo.model.prior import Prior
from nelbo.model.reverse import Reverse
from nelbo.nets import build
from nelbo.process.every_grid import Grid
from nelbo.process.schedule import Schedule
from nelbo.typing import Json

SCHEMA = "nelbo.model/1"
WEIGHTS = "model.safetensors"
PENDING = "model.safetensors.new"
PARTS = ("schedule", "reverse", "decoder", "prior")


def save(model: DiffusionModel, folder: str | Path) -> Path:
    """Write `model` to `folder` (made if missing).

    Of a model that came from package.module:function the folder holds that name and the parts, and not its weights.
    Errors: UsageError where the network is neither one of nelbo's own nor from such a function, and those of
    `check_target`.
    """
    folder = Path(folder)
    check_target(folder)
    denoiser = check_keepable(model)
    elsewhere = model.denoiser.state_dict() if model.denoiser.reference is not None else {}
    kept = {name: value for name, value in model.tensors().items() if name not in elsewhere}
    tensors = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
    tensors |= {name: value.clone() for name, value in tensors.items() if name.startswith(PARTS)}  # parts may share
    if model.trained_on is not None:
        tensors["trained_on"] = model.trained_on
    weights = save_tensors(tensors)
    description = {
        "schema": SCHEMA,
        "version": __version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "domain": model.domain.to_config(),
        "grid": model.grid.to_config(),
        **{part: getattr(model, part).to_config() for part in PARTS},
        "denoiser": denoiser,
        "provenance": model.provenance,
    }
    write_atomic(folder / PENDING, weights)
    write_atomic(folder / "model.json", json.dumps(description, indent=1, allow_nan=False))
    (folder / PENDING).replace(folder / WEIGHTS)
    return folder


def check_target(folder: Path) -> None:
    """Errors: UsageError where a model cannot be written: a file, or a folder with a pipeline of diffusers."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the folder {folder} is a file", "give the name of a folder; it is made where it is missing")
    if (folder / "model_index.json").exists():
        raise UsageError(f"{folder} holds a pipeline of diffusers, of another model", "give another folder")


def check_keepable(model: DiffusionModel) -> Json:
    """What `model.json` says of the denoiser. Errors: UsageError where a folder cannot hold it."""
    denoiser = model.denoiser
    net = getattr(denoiser, "net", None)
    recipe = getattr(net, "recipe", None)
    if denoiser.reference is not None:
        model.known_fingerprint("a folder that refers to the function, whose weights must not change")
        return {"kind": "plugin", "reference": denoiser.reference, "sha256": plugin.weights(denoiser)}
    if recipe is None:
        raise UsageError(
            f"the network {type(denoiser if net is None else plain(net)).__name__} is a callable that a folder cannot "
            "hold",
            "keep it as a function in a module and name it package.module:function wherever a MODEL is asked for",
        )
    return _denoiser_config(denoiser, recipe)


def load(folder: str | Path) -> DiffusionModel:
    """The model that `save` wrote to `folder`. Errors: ModelFolderError naming the file that is missing or wrong."""
    folder = Path(folder)
    description = read_description(folder)
    weights = b""
    for name in (PENDING, WEIGHTS):
        if name == WEIGHTS or (folder / name).exists():
            weights = _read(folder / name)
            if hashlib.sha256(weights).hexdigest() == description.get("sha256"):
                break
    else:
        raise ModelFolderError(
            f"{folder / WEIGHTS} is not the file that model.json was written with "
            f"({len(weights)} bytes, other SHA-256)",
            "it is truncated, altered or from another model; copy the whole folder again",
        )
    try:
        tensors = load_tensors(weights)
        return _assemble(description, tensors)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ModelFolderError(
            f"{folder} does not describe a model: {type(error).__name__}: {str(error)[:300]}",
            "model.json was altered or written by another version; write the folder again with this version",
        ) from None
    except NelboError as error:
        raise ModelFolderError(f"{folder / 'model.json'}: {error.message}", error.hint) from None


def read_description(folder: Path) -> Json:
    """The parsed `model.json`. Errors: ModelFolderError where it is missing, not JSON, or not of nelbo."""
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder {folder}", "give a folder written by `nelbo train`")
    text = _read(folder / "model.json")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{folder / 'model.json'} is not JSON: {error}", "copy the folder again") from None
    schema = description.get("schema") if isinstance(description, dict) else None
    if schema != SCHEMA:
        raise ModelFolderError(
            f"{folder / 'model.json'} has the schema {schema!r}, not {SCHEMA!r}",
            "give a folder written by `nelbo train`; another program's model.json cannot be read",
        )
    return description


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing", "a model folder holds model.json and model.safetensors") from None
    except OSError as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from None


def _denoiser_config(denoiser: Denoiser, recipe: Json) -> Json:
    if isinstance(denoiser, CategoricalDenoiser):
        return {"kind": "categorical", "time": denoiser.time.value, "net": recipe}
    if isinstance(denoiser, MixtureDenoiser):
        return {"kind": "mixture", "time": denoiser.time.value, "net": recipe, **denoiser.settings()}
    if isinstance(denoiser, NetworkDenoiser):
        said = {"kind": "network", "output": denoiser.output.value, "time": denoiser.time.value, "net": recipe}
        return {**said, **denoiser.settings()}
    raise UsageError(f"a {type(denoiser).__name__} cannot be saved", "save a model with one of nelbo's own networks")


def make_denoiser(config: Json, domain: DataDomain) -> Denoiser:
    """A denoiser with fresh weights from its configuration, as `model.json` holds it."""
    recipe = config["net"]
    categorical = config["kind"] == "categorical"
    net: nn.Module = build(
        recipe["name"],
        recipe["settings"],
        shape=domain.shape,
        codes=domain.bins if categorical else None,
        logsnr_max=recipe["logsnr_max"],
        logsnr_min=recipe["logsnr_min"],
    )
    if categorical:
        return CategoricalDenoiser(net, domain, config["time"])
    if config["kind"] == "mixture":
        return MixtureDenoiser(net, domain, config["components"], config["time"], config.get("output"))
    settings = {k: config[k] for k in ("sigma_data", "learned_variance") if k in config}
    return NetworkDenoiser(net, config["output"], config["time"], **settings)


def _assemble(description: Json, tensors: dict[str, torch.Tensor]) -> DiffusionModel:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    domain = DataDomain.from_config(description["domain"], under("domain."))
    said = description["denoiser"]
    if said["kind"] == "plugin":
        denoiser = _referred(said)
    else:
        denoiser = make_denoiser(said, domain)
        denoiser.load_state_dict({k: v for k, v in tensors.items() if k.startswith("net.")})
    denoiser.eval()
    families = {"schedule": Schedule, "reverse": Reverse, "decoder": Decoder, "prior": Prior}
    parts = {name: families[name].from_config(description[name], under(f"{name}.")) for name in PARTS}
    return DiffusionModel(
        domain=domain,
        grid=Grid.from_config(description["grid"], {}),
        denoiser=denoiser,
        provenance=description["provenance"],
        trained_on=tensors.get("trained_on"),
        **parts,  # type: ignore[arg-type]
    )


def _referred(said: Json) -> Denoiser:
    """The denoiser of a plug-in. Errors: those of `plugin.call`, and ModelFolderError where its weights are others."""
    denoiser = plugin.call(said["reference"]).denoiser
    if plugin.weights(denoiser) != said["sha256"]:
        raise ModelFolderError(
            f"{said['reference']} has other weights now than those that this folder was fitted to",
            "tighten the model again, or give the function its old weights",
        )
    return denoiser

"""What `model.json` says, as a model: every entry is checked before it is used, and a network before it is built."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nelbo import fields
from nelbo.errors import ModelFolderError, UsageError
from nelbo.model import fitted as _fitted  # noqa: F401  its kinds may stand in a folder
from nelbo.model import plugin
from nelbo.model.decoder import Decoder
from nelbo.model.denoiser import CategoricalDenoiser, Denoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.mixture import MixtureDenoiser
from nelbo.model.prior import Prior
from nelbo.model.reverse import Reverse
from nelbo.nets import build
from nelbo.process.every_grid import Grid
from nelbo.process.schedule import Schedule
from nelbo.typing import Json

PARTS = ("schedule", "reverse", "decoder", "prior")
MEANINGLESS = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, ArithmeticError, IndexError)
"""What a description whose entries have the right types, and no meaning together, may raise."""
_REMEDY = "the folder was altered, or another version wrote it: copy it again, or write it again with this version"


@dataclass(frozen=True)
class Optional:
    """The type of an entry that may be missing."""

    hint: Any


_TIMED: dict[str, Any] = {"kind": str, "time": str, "net": dict}
DENOISERS: dict[str, dict[str, Any]] = {
    "categorical": _TIMED,
    "mixture": {**_TIMED, "components": int, "output": Optional(str)},
    "network": {
        **_TIMED,
        "output": str,
        "sigma_data": Optional(float),
        "learned_variance": Optional(bool),
        "stochastic": Optional(bool),
    },
    "plugin": {"kind": str, "reference": str, "sha256": str, "code": Optional(str)},
}
"""The entries of a denoiser by its kind."""
RECIPE: dict[str, Any] = {"name": str, "settings": dict, "logsnr_max": float | None, "logsnr_min": float | None}


def check_entries(given: Json, hints: Mapping[str, Any], what: str) -> None:
    """Errors: ModelFolderError naming an entry that is missing, foreign or of another type than its hint."""
    for name in given:
        if name not in hints:
            raise ModelFolderError(
                f"{what} has the entry {fields.shown(name)}, which no version writes",
                f"its entries are {', '.join(hints)}; {_REMEDY}",
            )
    for name, hint in hints.items():
        inner = hint.hint if isinstance(hint, Optional) else hint
        if name not in given:
            if inner is hint:
                raise ModelFolderError(f"{what} lacks the entry {name!r}", _REMEDY)
        elif not fields.fits(given[name], inner):
            raise ModelFolderError(
                f"{what} has {name} = {fields.shown(given[name])}", f"{name} is {fields.described(inner)}; {_REMEDY}"
            )


def denoiser_config(denoiser: Denoiser, recipe: Json) -> Json:
    """What `model.json` says of a denoiser whose network has a recipe. Errors: UsageError."""
    if isinstance(denoiser, CategoricalDenoiser):
        return {"kind": "categorical", "time": denoiser.time.value, "net": recipe}
    if isinstance(denoiser, MixtureDenoiser):
        return {"kind": "mixture", "time": denoiser.time.value, "net": recipe, **denoiser.settings()}
    if isinstance(denoiser, NetworkDenoiser):
        entries = {"kind": "network", "output": denoiser.output.value, "time": denoiser.time.value, "net": recipe}
        return {**entries, **denoiser.settings()}
    raise UsageError(f"a {type(denoiser).__name__} cannot be saved", "save a model with one of nelbo's own networks")


def make_denoiser(config: Json, domain: DataDomain) -> Denoiser:
    """A denoiser with fresh weights from its configuration, as `model.json` holds it. Errors: ModelFolderError for
    entries that do not fit, UnknownNameError, UsageError."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in DENOISERS or kind == "plugin":
        raise ModelFolderError(f"a denoiser of the kind {fields.shown(kind)}", f"it is one of {', '.join(DENOISERS)}")
    check_entries(config, DENOISERS[kind], f"the denoiser {kind!r}")
    net = make_net(config, domain)
    if kind == "categorical":
        return CategoricalDenoiser(net, domain, config["time"])
    if kind == "mixture":
        return MixtureDenoiser(net, domain, config["components"], config["time"], config.get("output"))
    settings = {k: config[k] for k in ("sigma_data", "learned_variance", "stochastic") if k in config}
    return NetworkDenoiser(net, config["output"], config["time"], **settings)


def make_net(config: Json, domain: DataDomain) -> nn.Module:
    """The network of a denoiser's configuration, with fresh weights."""
    recipe = config["net"]
    check_entries(recipe, RECIPE, "the network")
    return build(
        recipe["name"],
        recipe["settings"],
        shape=domain.shape,
        codes=domain.bins if config["kind"] == "categorical" else None,
        logsnr_max=recipe["logsnr_max"],
        logsnr_min=recipe["logsnr_min"],
    )


def assembled(description: Json, tensors: dict[str, Tensor], trust_code: bool) -> DiffusionModel:
    """The model of a description and its tensors, which all have a role. Errors: NelboError, those of `MEANINGLESS`."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    roles = ("net.", "domain.", *(f"{part}." for part in PARTS))
    for name in tensors:
        if name != "trained_on" and not name.startswith(roles):
            raise ModelFolderError(
                f"the tensor {fields.shown(name)} has no role", f"the weights were altered; {_REMEDY}"
            )
    domain = DataDomain.from_config(description["domain"], under("domain."))
    denoiser = _denoiser(description["denoiser"], domain, {f"net.{k}": v for k, v in under("net.").items()}, trust_code)
    families = {"schedule": Schedule, "reverse": Reverse, "decoder": Decoder, "prior": Prior}
    parts = {name: families[name].from_config(description[name], under(f"{name}.")) for name in PARTS}
    trained_on = tensors.get("trained_on")
    if trained_on is not None and (trained_on.ndim != 1 or trained_on.dtype != torch.int64):
        raise ModelFolderError(
            f"the hashes of the training examples are {trained_on.dtype} of shape {tuple(trained_on.shape)}",
            f"they are int64 (N,); {_REMEDY}",
        )
    return DiffusionModel(
        domain=domain,
        grid=Grid.from_config(description["grid"], {}),
        denoiser=denoiser,
        provenance=description["provenance"],
        trained_on=trained_on,
        **parts,  # type: ignore[arg-type]
    )


def _denoiser(config: Json, domain: DataDomain, weights: dict[str, Tensor], trust_code: bool) -> Denoiser:
    if config.get("kind") == "plugin":
        check_entries(config, DENOISERS["plugin"], "the denoiser 'plugin'")
        if weights:
            raise ModelFolderError("there are weights of a network that the folder only refers to", _REMEDY)
        return _referred(config, trust_code)
    check_size(config, domain, weights)
    denoiser = make_denoiser(config, domain)
    denoiser.load_state_dict(weights)
    return denoiser.eval()


def check_size(config: Json, domain: DataDomain, weights: Mapping[str, Tensor]) -> None:
    """Build the network without memory, and compare it with its weights, so that a description of one that is larger
    than they are takes none. Errors: ModelFolderError, and those of `make_denoiser`."""
    with torch.device("meta"), _at_most(2 * len(weights) + 8, 2 * sum(v.numel() for v in weights.values()) + 8):
        shapes = {name: tuple(v.shape) for name, v in make_denoiser(config, domain).state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        made, held = shapes.get(name), tuple(weights[name].shape) if name in weights else None
        if made != held:
            raise ModelFolderError(
                f"the network that it describes has {_tensor(made)} {name!r}, and the weights have {_tensor(held)}",
                f"model.json and the weights are of two models; {_REMEDY}",
            )


def _tensor(shape: tuple[int, ...] | None) -> str:
    return "no tensor" if shape is None else f"a tensor of shape {shape}"


@contextmanager
def _at_most(count: int, elements: int) -> Iterator[None]:
    """Within the block, this thread makes modules with at most so many parameters. Errors: ModelFolderError."""
    thread, made = threading.get_ident(), [0, 0]

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        made[0] += 1
        made[1] += parameter.numel()
        if made[0] > count or made[1] > elements:
            raise ModelFolderError("the network that it describes is larger than its weights", _REMEDY)

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _referred(config: Json, trust_code: bool) -> Denoiser:
    """The denoiser of a plug-in. Errors: those of `plugin.call`; ModelFolderError without consent, or where its code or
    its weights are others than those that the folder was written with."""
    reference = config["reference"]
    plugin.check_reference(reference)
    if not trust_code:
        raise ModelFolderError(
            f"it refers to the function {reference!r}, which opening the model would import and call",
            "read that module, and if you trust it give trust_code=True",
        )
    if "code" in config and plugin.code(reference) != config["code"]:
        raise ModelFolderError(
            f"the module of {reference!r} is not the one that the folder was written with: "
            f"{', '.join(map(str, plugin.files(reference)))} changed",
            "bring the old file back, or tighten the model again; nothing was run",
        )
    denoiser = plugin.call(reference).denoiser
    if not isinstance(denoiser, Denoiser):
        raise ModelFolderError(f"{reference} is a model of symbols now", "bring the old file back")
    if plugin.weights(denoiser) != config["sha256"]:
        raise ModelFolderError(
            f"{reference} has other weights now than those that this folder was fitted to",
            "tighten the model again, or give the function its old weights",
        )
    return denoiser

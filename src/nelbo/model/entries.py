"""Entries of `model.json`, of every kind of model: each is checked before it is used, and a network before it is
built."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nelbo import fields
from nelbo.errors import ModelFolderError
from nelbo.model import plugin
from nelbo.model.predictor import Predictor
from nelbo.typing import Json

MEANINGLESS = (KeyError, TypeError, AttributeError, ValueError, RuntimeError, ArithmeticError, IndexError)
"""What a description whose entries have the right types, and no meaning together, may raise."""
REMEDY = "the folder was altered, or another version wrote it: copy it again, or write it again with this version"
_Kind = TypeVar("_Kind", bound=Predictor)


@dataclass(frozen=True)
class Optional:
    """The type of an entry that may be missing."""

    hint: Any


@dataclass(frozen=True)
class Form:
    """How a kind of model stands in a folder: the schema of its model.json, its entries with their types, the parts of
    the model that are entries, and the functions that write and read it."""

    schema: str
    kind: type
    entries: Mapping[str, Any]
    parts: tuple[str, ...]
    denoiser: Callable[[Any, Json], Json]
    """(denoiser, recipe of its network) → its entry."""
    assembled: Callable[[Json, dict[str, Tensor], bool], Any]
    """(description, tensors, trust_code) → the model."""


COMMON: dict[str, Any] = {
    "schema": str,
    "version": str,
    "sha256": str,
    "domain": dict,
    "grid": dict,
    "denoiser": dict,
    "provenance": dict,
    "digest": Optional(str),
}
"""The entries of every model; folders of version 0.1 have no digest."""
PLUGIN: dict[str, Any] = {"kind": str, "reference": str, "sha256": str, "code": Optional(str)}
"""The entries of a denoiser that a function of the user's makes."""


def check_entries(given: Json, hints: Mapping[str, Any], what: str) -> None:
    """Errors: ModelFolderError naming an entry that is missing, foreign or of another type than its hint."""
    for name in given:
        if name not in hints:
            raise ModelFolderError(
                f"{what} has the entry {fields.shown(name)}, which no version writes",
                f"its entries are {', '.join(hints)}; {REMEDY}",
            )
    for name, hint in hints.items():
        inner = hint.hint if isinstance(hint, Optional) else hint
        if name not in given:
            if inner is hint:
                raise ModelFolderError(f"{what} lacks the entry {name!r}", REMEDY)
        elif not fields.fits(given[name], inner):
            raise ModelFolderError(
                f"{what} has {name} = {fields.shown(given[name])}", f"{name} is {fields.described(inner)}; {REMEDY}"
            )


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def trained_on(tensors: Mapping[str, Tensor], roles: tuple[str, ...]) -> Tensor | None:
    """The hashes of the training examples among the tensors. Errors: ModelFolderError for hashes of another type, and
    for a tensor whose name begins with none of `roles`."""
    for name in tensors:
        if name != "trained_on" and not name.startswith(roles):
            raise ModelFolderError(
                f"the tensor {fields.shown(name)} has no role", f"the weights were altered; {REMEDY}"
            )
    hashes = tensors.get("trained_on")
    if hashes is not None and (hashes.ndim != 1 or hashes.dtype != torch.int64):
        raise ModelFolderError(
            f"the hashes of the training examples are {hashes.dtype} of shape {tuple(hashes.shape)}",
            f"they are int64 (N,); {REMEDY}",
        )
    return hashes


def denoiser_of(
    config: Json, make: Callable[[], _Kind], kind: type[_Kind], weights: dict[str, Tensor], trust_code: bool
) -> _Kind:
    """The denoiser of a class `kind` that `make` makes with fresh weights, with these, or that of a plug-in. Errors:
    ModelFolderError, and those of `make`."""
    if config.get("kind") == "plugin":
        check_entries(config, PLUGIN, "the denoiser 'plugin'")
        if weights:
            raise ModelFolderError("there are weights of a network that the folder only refers to", REMEDY)
        return _referred(config, kind, trust_code)
    check_size(make, weights)
    denoiser = make()
    denoiser.load_state_dict(weights)
    return denoiser.eval()


def check_size(make: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Build the network without memory, and compare it with its weights, so that a description of one that is larger
    than they are takes none. Errors: ModelFolderError, and those of `make`."""
    with torch.device("meta"), _at_most(2 * len(weights) + 8, 2 * sum(v.numel() for v in weights.values()) + 8):
        shapes = {name: tuple(v.shape) for name, v in make().state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        made, held = shapes.get(name), tuple(weights[name].shape) if name in weights else None
        if made != held:
            raise ModelFolderError(
                f"the network that it describes has {_tensor(made)} {name!r}, and the weights have {_tensor(held)}",
                f"model.json and the weights are of two models; {REMEDY}",
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
            raise ModelFolderError("the network that it describes is larger than its weights", REMEDY)

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def _referred(config: Json, kind: type[_Kind], trust_code: bool) -> _Kind:
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
            "bring the old file back, or write the folder again; nothing was run",
        )
    denoiser = plugin.call(reference).denoiser
    if not isinstance(denoiser, kind):
        raise ModelFolderError(f"{reference} is a model of another kind of data now", "bring the old file back")
    if plugin.weights(denoiser) != config["sha256"]:
        raise ModelFolderError(
            f"{reference} has other weights now than those that this folder was fitted to",
            "write the folder again, or give the function its old weights",
        )
    return denoiser

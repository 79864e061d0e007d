"""Parts of a model that can be written to a folder and read back: schedules, grids, decoders, ...

A part is a frozen dataclass with a `family` ("schedule") and a `kind` ("table"). Its plain fields go to JSON,
its tensors to safetensors, its nested parts recurse; nothing is pickled. A new part is saved and loaded by
declaring it: `class Mine(Schedule, kind="mine")`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo.errors import ModelFolderError, UnknownNameError
from nelbo.typing import Json

_KINDS: dict[str, dict[str, type[Part]]] = {}


class Part(ABC):
    """Base class of all parts of a `DiffusionModel`, except for network weights."""

    family: ClassVar[str]
    kind: ClassVar[str]
    nested: ClassVar[dict[str, str]] = {}
    """Families of fields that are parts themselves and whose name is not that of their family."""

    def __init_subclass__(cls, family: str | None = None, kind: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family = family
            _KINDS.setdefault(family, {})
        if kind is not None:
            cls.kind = kind
            _KINDS[cls.family][kind] = cls

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]

    def to_config(self) -> Json:
        """JSON-able description: `kind` and every field that is not a tensor (see `to_tensors`)."""
        config: Json = {"kind": self.kind}
        for name, value in self._fields().items():
            if isinstance(value, Part):
                config[name] = value.to_config()
            elif not isinstance(value, Tensor):
                config[name] = list(value) if isinstance(value, tuple) else value
        return config

    def to_tensors(self) -> dict[str, Tensor]:
        """Every tensor field, nested ones under `field.name`."""
        tensors: dict[str, Tensor] = {}
        for name, value in self._fields().items():
            if isinstance(value, Part):
                tensors |= {f"{name}.{k}": v for k, v in value.to_tensors().items()}
            elif isinstance(value, Tensor):
                tensors[name] = value
        return tensors

    @classmethod
    def from_config(cls, config: Json, tensors: dict[str, Tensor]) -> Self:
        """The part of this family that `config` and `tensors` describe.

        Errors: UnknownNameError for a kind this version does not know, ModelFolderError for missing or foreign fields.
        """
        kind = config.get("kind")
        if kind not in _KINDS[cls.family]:
            raise UnknownNameError.of(cls.family, kind, _KINDS[cls.family])
        return _KINDS[cls.family][kind]._build(config, tensors)  # type: ignore[return-value]

    @classmethod
    def _build(cls, config: Json, tensors: dict[str, Tensor]) -> Part:
        values: dict[str, Any] = {}
        for name, value in config.items():
            if name == "kind":
                continue
            if isinstance(value, dict) and "kind" in value:
                prefix = f"{name}."
                inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                known = _KINDS.get(cls.nested.get(name, name), {})
                if value["kind"] not in known:
                    raise UnknownNameError.of(name, value["kind"], known)
                values[name] = known[value["kind"]]._build(value, inner)
            else:
                values[name] = tuple(value) if isinstance(value, list) else value
        values |= {k: v for k, v in tensors.items() if "." not in k}
        try:
            return cls(**values)
        except TypeError as error:
            raise ModelFolderError(
                f"the {cls.family} {cls.kind!r} cannot be built from the fields {sorted(values)}: {error}",
                "the folder was written by another version or altered; write it again with this version",
            ) from None


def kinds(family: str) -> dict[str, type[Part]]:
    """The known kinds of a family of parts, by name."""
    return dict(_KINDS[family])


def hash_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    """Add names, types, shapes and bytes of tensors to a digest, in the order of their names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # expanded tensors repeat in place
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())

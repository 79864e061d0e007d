"""Parts of a model that can be written to a folder and read back: schedules, grids, decoders, ...

A part is a frozen dataclass with a `family` ("schedule") and a `kind` ("table"). Its plain fields go to JSON,
its tensors to safetensors, its nested parts recurse; nothing is pickled. A new part is saved and loaded by
declaring it: `class Mine(Schedule, kind="mine")`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import typing
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nelbo import fields
from nelbo.errors import ModelFolderError, UnknownNameError
from nelbo.typing import Json

_KINDS: dict[str, dict[str, type[Part]]] = {}


class Part(ABC):
    """Base class of all parts of a `DiffusionModel`, except for network weights."""

    family: ClassVar[str]
    kind: ClassVar[str]
    limits: ClassVar[dict[str, int]] = {}
    """The largest value of whole numbers that a file may say, by their field: of a list that of their product. What is
    larger would take memory that no use of nelbo has."""

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

        Errors: UnknownNameError for a kind this version does not know, ModelFolderError for fields that are missing,
        foreign or of another type than the class declares.
        """
        kind = config.get("kind") if isinstance(config, dict) else None
        if not isinstance(kind, str) or kind not in _KINDS[cls.family]:
            raise UnknownNameError.of(cls.family, kind, _KINDS[cls.family])
        return _KINDS[cls.family][kind]._build(config, tensors)  # type: ignore[return-value]

    @classmethod
    def _build(cls, config: Json, tensors: dict[str, Tensor]) -> Part:
        """The part of this class. Errors: ModelFolderError naming a field, its value, and what is allowed."""
        what = f"the {cls.family} {cls.kind!r}"
        hints = _hints(cls)
        given = {name: value for name, value in config.items() if name != "kind"}
        own = {name: value for name, value in tensors.items() if "." not in name}
        inner = {name.partition(".")[0] for name in tensors if "." in name}
        for name in (*given, *own, *inner):
            if name not in hints:
                fields_of = f"its fields are {', '.join(hints)}" if hints else "it has none"
                raise ModelFolderError(f"{what} has no field {fields.shown(name)}", f"{fields_of}; {_REMEDY}")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            name, hint = field.name, hints.get(field.name)
            if name in own:
                if not _has(hint, Tensor) or given.get(name) is not None:
                    raise ModelFolderError(f"{what} has a tensor as its field {name!r}", f"it is {_allowed(hint)}")
                values[name] = own[name]
            elif name in given:
                below = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
                values[name] = cls._value(what, name, hint, given[name], below)
            elif name in inner:
                raise ModelFolderError(f"{what} has tensors of {name!r}, and no such part", _REMEDY)
            elif field.init and field.default is dataclasses.MISSING:
                raise ModelFolderError(f"{what} lacks its field {name!r}, which is {_allowed(hint)}", _REMEDY)
        return cls(**values)

    @classmethod
    def _value(cls, what: str, name: str, hint: Any, value: Any, tensors: dict[str, Tensor]) -> Any:
        """The value of a field from JSON: a part, or a plain value of the type `hint`."""
        part = _part_of(hint)
        if part is not None and isinstance(value, dict):
            made = part.from_config(value, tensors)
            if isinstance(made, part):
                return made
            raise ModelFolderError(f"{what} has {name} = {made.kind!r}", f"{name} is a {part.__name__}; {_REMEDY}")
        if tensors or not fields.fits(value, hint):
            raise ModelFolderError(
                f"{what} has {name} = {fields.shown(value)}", f"{name} is {_allowed(hint)}; {_REMEDY}"
            )
        largest = cls.limits.get(name)
        if (
            largest is not None
            and value is not None
            and math.prod(value if isinstance(value, list) else [value]) > largest
        ):
            raise ModelFolderError(f"{what} has {name} = {fields.shown(value)}", f"at most {largest} can be read")
        return tuple(value) if isinstance(value, list) else value


_REMEDY = "the folder was altered, or another version wrote it: copy it again, or write it again with this version"


@functools.cache
def _hints(cls: type[Part]) -> dict[str, Any]:
    """The types of the fields of a class of parts."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _has(hint: Any, kind: type) -> bool:
    return kind in _members(hint)


def _part_of(hint: Any) -> type[Part] | None:
    return next((one for one in _members(hint) if isinstance(one, type) and issubclass(one, Part)), None)


def _allowed(hint: Any) -> str:
    part = _part_of(hint)
    words = [f"a {part.__name__}, an object with its kind"] if part is not None else []
    words += ["a tensor"] if _has(hint, Tensor) else []
    if not words:
        return fields.described(hint)
    return " or ".join([*words, *(["null"] if _has(hint, type(None)) else [])])


def kinds(family: str) -> dict[str, type[Part]]:
    """The known kinds of a family of parts, by name."""
    return dict(_KINDS[family])


def hash_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    """Add names, types, shapes and bytes of tensors to a digest, in the order of their names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # expanded tensors repeat in place
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())

"""The inside of a network that is a function: the modules, tensors and plain values on which its answers depend.

A closure, partial, bound method or object that calls a network is opened: closure cells, defaults, attributes, the
elements of lists and dicts and the globals that its code names are followed, wrappers included. Modules and tensors
found there count as the network's own; code and plain values go into a digest. What cannot be followed (a file that is
read in the call, an object of a compiled library) is named, and the digest is then unknown.

Code counts by its bytes where it is the user's, and by its name where it belongs to an installed library.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nelbo.model.python_code import installed, library_of, names_in, stable, written_in_python

READS = {"open", "load", "load_file", "load_model", "from_pretrained", "from_file", "import_module", "__import__"}
READS |= {"exec", "eval", "urlopen", "hf_hub_download", "InferenceSession"}
"""Calls that bring in what no walk through objects can see."""
MOST = 200_000
"""Objects that are looked at: a network's closure holds a few dozen, and a walk that needs more has gone astray."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, PurePath, range, slice, type(Ellipsis))
_PLAIN += (torch.dtype, torch.Size, torch.layout, torch.memory_format, np.generic)
_OF_TORCH = set(vars(nn.Module()))
"""Attributes of every module: registries, hooks, and the mode, which is no part of what it computes."""
_ONCE = ("__init__", "__new__", "__post_init__", "__setstate__")
"""Methods that have run before a network is called."""


@dataclass(frozen=True, eq=False)
class Inside:
    """modules, tensors: each once, by its path from the function. digest: SHA-256 of code and plain values, None where
    it is unknown. opaque: the paths of what could not be followed. slots: where each tensor is kept, where it can be
    replaced there."""

    modules: dict[str, nn.Module]
    tensors: dict[str, Tensor]
    digest: str | None
    opaque: tuple[str, ...]
    slots: dict[str, list[tuple[Any, Any]]] = field(default_factory=dict)


def look(network: Callable[..., Any]) -> Inside:
    """What is inside `network`, a function, module or any object that can be called."""
    walk = _Walk()
    walk.visit("network", network, None)
    digest = None if walk.opaque else walk.digest.hexdigest()
    return Inside(walk.modules, walk.tensors, digest, tuple(walk.opaque), walk.slots)


class _Walk:
    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.slots: dict[str, list[tuple[Any, Any]]] = {}
        self.opaque: list[str] = []
        self.digest = hashlib.sha256()
        self._seen: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no id is used twice
        self._strict = True  # whether what cannot be followed makes the digest unknown: not inside of libraries
        self._silent = False  # whether nothing is noted in the digest: inside of libraries' modules

    # ------------------------------------------------------------ one object
    def visit(self, path: str, value: Any, slot: tuple[Any, Any] | None) -> None:
        """Follow `value`, found at `path`; slot: the container and key where it may be replaced."""
        if isinstance(value, torch.device):
            self._note(path, "a device")  # where a network computes is no part of what it computes
            return
        if isinstance(value, _PLAIN):
            self._note(path, repr(value))
            return
        if id(value) in self._seen:
            self._note(path, "as " + self._seen[id(value)])
            if isinstance(value, Tensor) and slot is not None and self._seen[id(value)] in self.slots:
                self.slots[self._seen[id(value)]].append(slot)
            return
        if len(self._seen) >= MOST:
            self._unknown(f"{path}, more than {MOST} objects", value)
            return
        self._seen[id(value)] = path
        self._kept.append(value)
        self._follow(path, value, slot)

    def _follow(self, path: str, value: Any, slot: tuple[Any, Any] | None) -> None:
        if isinstance(value, nn.Module):
            self._module(path, value)
        elif isinstance(value, Tensor):
            self._tensor(path, value, slot)
        elif isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                self.visit(f"{path}.tolist()", value.tolist(), None)
            else:
                self._note(path, f"{value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes())
        elif isinstance(value, types.FunctionType):
            self._function(path, value)
        elif isinstance(value, types.MethodType):
            self.visit(f"{path}.__func__", value.__func__, None)
            self.visit(f"{path}.__self__", value.__self__, None)
        elif isinstance(value, functools.partial):
            for name in ("func", "args", "keywords"):
                self.visit(f"{path}.{name}", getattr(value, name), None)
        elif isinstance(value, Mapping):
            self._note(path, type(value).__qualname__)
            for i, (key, item) in enumerate(list(value.items())):
                name = repr(key) if isinstance(key, _PLAIN) else f"{i}: {type(key).__qualname__}"
                self.visit(f"{path}[{name}]", item, (value, key) if isinstance(value, dict) else None)
        elif isinstance(value, list | tuple | set | frozenset):
            self._elements(path, value)
        elif isinstance(value, type):
            self._class(path, value)
        elif isinstance(value, types.ModuleType):
            self._note(path, value.__name__)
        else:
            self._object(path, value)

    def _elements(self, path: str, value: Iterable[Any]) -> None:
        self._note(path, type(value).__qualname__)
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        for i, item in enumerate(items):
            self.visit(f"{path}[{i}]", item, (value, i) if isinstance(value, list) else None)

    def _module(self, path: str, module: nn.Module) -> None:
        """The module itself, without what only wraps it; then what its parts hold outside of torch's registries."""
        compiled = getattr(module, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            self.visit(f"{path}._orig_mod", compiled, None)
            return
        self.modules[path] = module
        for name, part in module.named_modules(prefix=path):
            self._seen.setdefault(id(part), name)
            self._kept.append(part)
            kind = type(part)
            self._note(name, f"{kind.__module__}.{kind.__qualname__}")
            with self._inside(strict=False, silent=library_of(kind) not in (None, "torch")):
                self._code_of_class(name, kind)
                for key, value in list(vars(part).items()):
                    if key not in _OF_TORCH:
                        self.visit(f"{name}.{key}", value, (vars(part), key))

    @contextmanager
    def _inside(self, *, strict: bool, silent: bool = False) -> Iterator[None]:
        before = self._strict, self._silent
        self._strict, self._silent = strict, silent or self._silent
        try:
            yield
        finally:
            self._strict, self._silent = before

    def _tensor(self, path: str, tensor: Tensor, slot: tuple[Any, Any] | None) -> None:
        self.tensors[path] = tensor
        self.slots[path] = [] if slot is None else [slot]
        self._note(path, "a tensor")

    # ------------------------------------------------------------ code
    def _function(self, path: str, function: types.FunctionType) -> None:
        compiled = getattr(function, "_torchdynamo_orig_callable", None)
        if compiled is not None:
            self.visit(f"{path}._torchdynamo_orig_callable", compiled, None)
            return
        users = not installed(function.__code__.co_filename, function.__module__)
        if users:
            self._code(path, function.__code__)
        else:
            self._note(path, f"{function.__module__}.{function.__qualname__}")
        with self._inside(strict=users):
            for i, value in enumerate(function.__defaults__ or ()):
                self.visit(f"{path}.__defaults__[{i}]", value, None)
            for name, value in (function.__kwdefaults__ or {}).items():
                self.visit(f"{path}.{name}", value, (function.__kwdefaults__, name))
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                try:
                    self.visit(f"{path}.{name}", cell.cell_contents, (cell, None))
                except ValueError:
                    self._note(f"{path}.{name}", "not assigned yet")
            for name, value in list(vars(function).items()):
                if name != "__wrapped__" or not function.__closure__:
                    self.visit(f"{path}.{name}", value, (vars(function), name))
            if users:
                self._globals(path, function)

    def _globals(self, path: str, function: types.FunctionType) -> None:
        """The globals that the code reads; of a module of the user's, its attributes of the names that the code has."""
        names, attributes = names_in(function.__code__)
        for name in sorted(names & set(function.__globals__)):
            value, where = function.__globals__[name], f"{function.__module__}.{name}"
            self.visit(where, value, (function.__globals__, name))
            if isinstance(value, types.ModuleType) and not installed(getattr(value, "__file__", None), value.__name__):
                for attribute in sorted(attributes & set(vars(value))):
                    self.visit(f"{where}.{attribute}", vars(value)[attribute], (vars(value), attribute))
        if self._strict and function.__name__ not in _ONCE:
            self.opaque += [f"{path}, which calls {name}(…)" for name in sorted(READS & (names | attributes))]

    def _code(self, path: str, code: types.CodeType) -> None:
        constants = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
        self._note(path, repr((code.co_names, code.co_varnames, stable(constants))), code.co_code)
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                self._code(path, inner)

    def _class(self, path: str, kind: type) -> None:
        self._note(path, f"{kind.__module__}.{kind.__qualname__}")
        self._code_of_class(path, kind)

    def _code_of_class(self, path: str, kind: type) -> None:
        """The methods and attributes of the user's classes among `kind` and its bases."""
        for base in kind.__mro__:
            if library_of(base) is not None or id(base) in self._seen:
                continue
            self._seen[id(base)] = f"{base.__module__}.{base.__qualname__}"
            self._kept.append(base)
            for name, value in sorted(vars(base).items()):
                inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
                if isinstance(inner, types.FunctionType) or (
                    not name.startswith("__")
                    and isinstance(inner, nn.Module | Tensor | list | dict | tuple | float | int)
                ):
                    self.visit(f"{path}.{name}", inner, None)

    # ------------------------------------------------------------ other objects
    def _object(self, path: str, value: Any) -> None:
        kind = type(value)
        if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType | types.MethodDescriptorType):
            self._note(path, f"{getattr(value, '__module__', '')}.{value.__qualname__}")
            owner = getattr(value, "__self__", None)
            if owner is not None and not isinstance(owner, types.ModuleType):
                self.visit(f"{path}.__self__", owner, None)
            return
        wrapped = getattr(value, "__wrapped__", None)
        if callable(wrapped) and not hasattr(value, "__dict__"):
            self.visit(f"{path}.__wrapped__", wrapped, None)
            return
        graph = getattr(value, "graph", None)
        if isinstance(value, torch.jit.ScriptFunction):
            self._note(path, str(graph))
            return
        attributes = dict(_attributes(value))
        if not all(written_in_python(base) for base in kind.__mro__):
            self._unknown(path, value)  # the attributes of a compiled class need not be all that it holds
        self._class(path, kind)
        holder = vars(value) if hasattr(value, "__dict__") else None
        for name, attribute in attributes.items():
            self.visit(f"{path}.{name}", attribute, (holder, name) if holder is not None and name in holder else None)
        if "__wrapped__" in attributes and callable(wrapped):
            self.visit(f"{path}.__wrapped__", wrapped, None)

    def _unknown(self, path: str, value: Any) -> None:
        if self._strict:
            self.opaque.append(f"{path}, a {type(value).__module__}.{type(value).__qualname__}")

    def _note(self, path: str, text: str, data: bytes = b"") -> None:
        if self._silent:
            return
        self.digest.update(f"{path}: {text}: {len(data)};".encode(errors="surrogatepass"))
        self.digest.update(data)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from vars(value).items() if hasattr(value, "__dict__") else ()
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)

"""A network that is a function as a module: what `closure.look` finds inside is its own, in copies too."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import UsageError
from nelbo.model.closure import Inside, look
from nelbo.model.python_code import library_of
from nelbo.typing import Json

_CALLS = threading.RLock()
"""Held while a function is called with other modules in the place of its own, which no other thread may see."""


class OpenedFunction(nn.Module):
    """A function as a module: what was found inside is its own, so that it is counted, cast, moved and saved.

    A copy (in another precision, on another device) calls the same function with the copies of its modules and tensors
    in the place of the originals for the time of the call.
    """

    def __init__(self, function: Callable[..., Any], inside: Inside, modules: Iterable[nn.Module] = ()):
        super().__init__()
        self.function = function
        self.inside = inside
        named = list(modules)
        self.named = bool(named)
        every = list({id(m): m for m in [*inside.modules.values(), *named]}.values())
        within = {id(part) for m in every for part in m.modules() if part is not m}
        self.originals = tuple(every)
        self.sources = nn.ModuleList(m for m in every if id(m) not in within)
        owned = {id(p) for m in every for p in [*m.parameters(), *m.buffers()]}
        loose = [path for path, tensor in inside.tensors.items() if id(tensor) not in owned]
        self.loose = {f"tensor{i}": path for i, path in enumerate(loose)}
        for name, path in self.loose.items():
            self._register(name, inside.tensors[path])
        self.replaced: tuple[tuple[nn.Module, nn.Module], ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenedFunction:
        other = OpenedFunction.__new__(OpenedFunction)
        nn.Module.__init__(other)
        memo[id(self)] = other
        for name in ("function", "inside", "named", "originals", "loose"):
            setattr(other, name, getattr(self, name))
        other.sources = copy.deepcopy(self.sources, memo)
        current = dict(self.replaced)
        pairs = [(module, current.get(module, module)) for module in self.originals]
        other.replaced = tuple((module, copy.deepcopy(now, memo)) for module, now in pairs)
        for name in self.loose:
            tensor = getattr(self, name)
            copied = tensor.detach().clone()
            kept = isinstance(tensor, nn.Parameter)
            other._register(name, nn.Parameter(copied, requires_grad=tensor.requires_grad) if kept else copied)
        return other

    def _register(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    @property
    def opaque(self) -> tuple[str, ...]:
        """What could not be followed, by path; nothing where its modules were named instead."""
        return () if self.named else self.inside.opaque

    @property
    def held(self) -> torch.dtype | None:
        """The precision of the weights among the tensors that it holds by itself; float64 tables are none."""
        kinds = (getattr(self, name).dtype for name in self.loose)
        return next((kind for kind in kinds if kind.is_floating_point and kind != torch.float64), None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OpenedFunction:
        """As of every module, but that no table in float64 loses digits with the weights: a function that holds one
        computes with it in float64."""
        kept = {name: getattr(self, name) for name in self.loose}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = getattr(self, name)
            if before.dtype == torch.float64 and now.dtype != before.dtype and name in self._buffers:
                self._buffers[name] = before.to(now.device)
        return self

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's value."""
        with self.entered() as function:
            return function(*arguments, **keywords)

    @contextmanager
    def entered(self) -> Iterator[Callable[..., Any]]:
        """The function, while no other thread calls it with other modules in the place of these."""
        with _CALLS, self._in_place():
            yield self.function

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The copies in the place of the originals, where this is one."""
        states = [(module, module.__dict__) for module, _ in self.replaced]
        moved = [(n, path) for n, path in self.loose.items() if getattr(self, n) is not self.inside.tensors[path]]
        places = [(name, path, slot) for name, path in moved for slot in self.inside.slots[path]]
        try:
            for module, now in self.replaced:
                object.__setattr__(module, "__dict__", now.__dict__)
            for name, _, slot in places:
                _put(slot, getattr(self, name))
            yield
        finally:
            for module, state in states:
                object.__setattr__(module, "__dict__", state)
            for _, path, slot in places:
                _put(slot, self.inside.tensors[path])


def _put(slot: tuple[Any, Any], value: Any) -> None:
    container, key = slot
    if isinstance(container, types.CellType):
        container.cell_contents = value
    else:
        container[key] = value


def opened(network: Callable[..., Any], modules: Iterable[nn.Module] = ()) -> nn.Module:
    """`network` as a module: itself where it is one that hides no other, else an `OpenedFunction`.

    modules: those that cannot be found by looking. Errors: UsageError where one of them is none.
    """
    modules = list(modules)
    for module in modules:
        if not isinstance(module, nn.Module):
            raise UsageError(
                f"modules holds a {type(module).__name__}",
                "give the torch modules that the function calls: modules=[net]",
            )
    inside = look(network)
    if isinstance(network, nn.Module):
        own = {id(part) for part in network.modules()}
        hidden = [m for m in [*inside.modules.values(), *modules] if id(m) not in own]
        if not hidden:
            return network
    return OpenedFunction(network, inside, modules)


def plain(network: Callable[..., Any]) -> Callable[..., Any]:
    """The function or module as it was given."""
    return network.function if isinstance(network, OpenedFunction) else network


def home(network: Callable[..., Any]) -> str:
    """The name of the Python module that a function comes from, or the class of a network; "" of a function that `exec`
    made in a namespace without a name."""
    function = plain(network)
    return (function if hasattr(function, "__qualname__") else type(function)).__module__ or ""


def entered(network: Callable[..., Any]) -> AbstractContextManager[Callable[..., Any]]:
    """What to call for a value of the network."""
    return network.entered() if isinstance(network, OpenedFunction) else nullcontext(network)


def name_of(network: nn.Module) -> Json:
    """The recipe of one of nelbo's networks; of another the name of its function or class and, unless its library says
    by that name and its weights what it computes, the digest of what is inside."""
    function = plain(network)
    if hasattr(function, "recipe"):
        return {"net": function.recipe}
    identity: Callable[[], Json] | None = getattr(function, "identity", None)
    if identity is not None and home(network).startswith("nelbo."):
        return identity()  # one of nelbo's that holds another library's
    named = function if hasattr(function, "__qualname__") else type(function)
    name = {"net": f"{home(network)}.{named.__qualname__}"}
    if not isinstance(network, OpenedFunction) and library_of(type(function)) not in (None, "torch"):
        return name
    return {**name, "inside": look(function).digest}

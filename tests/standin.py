"""A device that is none: tensors of the CPU that say they are elsewhere, so that mixing devices fails as on a GPU.

    with standin.present() as device:
        nelbo.evaluate(model, data, device=device)           # the numbers of the CPU, or the error of a GPU

Every operation runs on the CPU, hence gives its numbers to the last bit. What a GPU refuses is refused:

- operands on two devices, but for scalars on the CPU in elementwise operations, and for indices on the CPU;
- writing into a tensor of the other device, other than by a copy;
- `.numpy()` and whatever else reads the memory of a tensor on the device.

It is a wrapper subclass, below autograd, so that gradients and optimisers work as they do anywhere. A dispatch mode
makes the tensors that are asked for on the device; a function mode makes the few that torch makes in one go from
Python's numbers, and stands before the readers of memory. The device is called "meta", which torch knows without a
backend and whose own tensors hold no numbers: a result that slipped past the modes could not be read.

What it does not do: autocast, streams, several devices, and the rounding of a GPU.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from nelbo import workers

DEVICE = torch.device("meta")
aten = torch.ops.aten

COPIES = {aten._to_copy, aten.copy_, aten.copy}
"""Operations that go from one device to another."""
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operations that take indices on the CPU for a tensor on the device, and not the other way round."""
TAKES_SCALARS = {aten.fill_, aten.masked_fill, aten.masked_fill_, aten.index_put, aten.index_put_}
"""Operations that take a scalar on the CPU, besides the elementwise ones."""
MAKERS = {torch.tensor, torch.as_tensor, torch.asarray}
"""Functions that make a tensor of Python's numbers in one go."""
RESHAPE = {aten.squeeze_, aten.unsqueeze_, aten.transpose_, aten.t_}
"""Operations that change the shape of a tensor in its place."""


class Elsewhere(Tensor):
    """A tensor on the device; `held`, a tensor on the CPU, has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "layout": held.layout}
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=DEVICE, **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the stand-in for a device, outside of `standin.present()`")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # saved as what `torch.load(…, map_location="cpu")` reads


@contextlib.contextmanager
def present() -> Iterator[torch.device]:
    """Within this context there is one device more, which is yielded."""
    asked = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    fused = [*torch.utils._foreach_utils._get_fused_kernels_supported_devices(), DEVICE.type]
    here = [*workers.devices(), DEVICE.type]
    listed = mock.patch.object(workers, "devices", lambda: here)
    with mock.patch(asked, lambda: fused), listed, _Functions(), _Operations():
        yield DEVICE


class _Operations(TorchDispatchMode):
    """Every operation: refused as by a GPU, or done on the CPU, and its results put where they belong."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and shielding each operation from a compiler takes as long as most do

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given, asked = Elsewhere in types, kwargs.get("device")
        if not given and asked != DEVICE:
            return func(*args, **kwargs)
        if _is_of_others(func):
            with self:  # in inference mode operations arrive that are made of others, such as `to`
                return func.decompose(*args, **kwargs)
        if given:
            _check(func, args, kwargs)
        there = given if asked is None else asked == DEVICE
        result = func(*map(_held, args), **{name: _held(value) for name, value in kwargs.items()})
        written = _written(func, args, kwargs)
        if func.overloadpacket in RESHAPE:
            with no_dispatch():
                func(*args, **kwargs)
        if any(isinstance(t, Elsewhere) and t.shape != t.held.shape for t in written):
            raise NotImplementedError(f"{func} on the stand-in for a device")
        if written and func._schema.returns and all(_writes(returned) for returned in func._schema.returns):
            return written[0] if len(func._schema.returns) == 1 else tuple(written)
        return _placed(result) if there else result


class _Functions(TorchFunctionMode):
    """What never becomes an operation: tensors made of Python's numbers, and memory that is read."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS and _is_there(kwargs.get("device")):
            return func(*args, **{name: value for name, value in kwargs.items() if name != "device"}).to(DEVICE)
        if not args or not isinstance(args[0], Elsewhere):
            if func is torch._has_compatible_shallow_copy_type and any(isinstance(a, Elsewhere) for a in args):
                return False  # so that a module which moves gets new parameters
            return func(*args, **kwargs)
        if func is torch._has_compatible_shallow_copy_type:
            return False
        if func in (Tensor.numpy, Tensor.__array__):
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")
        if func in (Tensor.data_ptr, Tensor.untyped_storage):
            raise RuntimeError(f"the memory of a tensor on {DEVICE} was read")
        if func == Tensor.is_meta.__get__:
            return False
        if func == Tensor.data.__set__:
            raise NotImplementedError("an assignment to .data of a tensor of the stand-in for a device")
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func is Tensor.tolist:
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _index(args[1]), *args[2:])
        return func(*args, **kwargs)


def _check(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raise RuntimeError where a GPU would refuse these operands, at least one of which is on the device."""
    name = func.overloadpacket
    if all(isinstance(t, Elsewhere) for t in _tensors(args, kwargs)):
        return
    if any(t.device == DEVICE for t in _tensors(args, kwargs) if not isinstance(t, Elsewhere)):
        raise RuntimeError(f"{func}: a tensor was made on {DEVICE} behind the stand-in's back")
    if name in COPIES:
        return
    operands = list(args)
    if name in INDEXED:
        indices = operands.pop(1)
        if not isinstance(args[0], Elsewhere) and any(isinstance(i, Elsewhere) for i in indices):
            raise RuntimeError(f"{func}: indices should be either on cpu or on the same device as the indexed tensor")
    scalars = name in TAKES_SCALARS or torch.Tag.pointwise in func.tags
    tensors = _tensors(operands, kwargs)
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and not (scalars and t.ndim == 0)]
    strangers += [t for t in _written(func, args, kwargs) if isinstance(t, Tensor) and not isinstance(t, Elsewhere)]
    if strangers and any(isinstance(t, Elsewhere) for t in tensors):
        places = [(tuple(t.shape), t.device.type) for t in tensors]
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {places}")


@functools.cache
def _where_it_writes(func: Any) -> list[tuple[int, str]]:
    """Places and names of the arguments that an operation writes into: itself of `add_`, `out`."""
    return [(place, a.name) for place, a in enumerate(func._schema.arguments) if _writes(a)]


def _written(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operation writes into."""
    return [
        args[place] if place < len(args) else kwargs[name]
        for place, name in _where_it_writes(func)
        if place < len(args) or name in kwargs
    ]


def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _tensors(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among all arguments, and those in lists and tuples."""
    found = []
    for leaf in (*args, *kwargs.values()):
        if isinstance(leaf, list | tuple):
            found += [t for t in leaf if isinstance(t, Tensor)]
        elif isinstance(leaf, Tensor):
            found.append(leaf)
    return found


@functools.cache
def _is_of_others(func: Any) -> bool:
    """Whether an operation is made of others and has no kernel of its own on the CPU."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return has(func.name(), "CompositeImplicitAutograd") and not has(func.name(), "CPU")


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _held(leaf: Any) -> Any:
    """What an operation on the CPU takes in the place of an argument."""
    if isinstance(leaf, Elsewhere):
        return leaf.held
    if isinstance(leaf, list | tuple):
        return [_held(item) for item in leaf]
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _placed(result: Any) -> Any:
    """A result of an operation on the CPU, on the device."""
    if isinstance(result, Tensor):
        return Elsewhere(result)
    return type(result)(map(_placed, result)) if isinstance(result, list | tuple) else result


def _index(index: Any) -> Any:
    """Sequences of numbers in an index as tensors on the CPU: torch would make them on the device in one go."""
    if isinstance(index, tuple):
        return tuple(torch.tensor(i) if isinstance(i, list | tuple) else i for i in index)
    return torch.tensor(index) if isinstance(index, list) else index

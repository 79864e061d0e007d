"""Why a network refuses what it is called with: from the error that it raises to the argument and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.typing import Condition

_SIDES = (2, 4, 8, 16, 32, 64)
"""Multiples that networks which halve an image want its sides to be."""


_LOOKED_AT = 64
"""Examples of a refused batch that are tried one by one."""


def condition_rows(condition: Mapping[str, Any] | None, n: int | None = None, what: str = "examples") -> Condition:
    """Keywords of a network as tensors, n rows each. Errors: UsageError for what is no tensor, ShapeError, DomainError
    for nan and infinity."""
    if condition is not None and not isinstance(condition, Mapping):
        raise UsageError(
            f"the condition is a {type(condition).__name__} without the name of the network's argument",
            "give the keyword with its rows, one an example: condition={'y': rows}",
        )
    rows: dict[str, Tensor] = {}
    for name, values in (condition or {}).items():
        if values is None:
            raise UsageError(
                f"the condition {name!r} is None", "leave it out, or give one row an example: the network takes tensors"
            )
        try:
            rows[name] = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"the condition {name!r} is a {type(values).__name__} of which no tensor can be made: {error}",
                "give numbers, one row an example; names of classes become numbers in the order of the training",
            ) from None
        if rows[name].is_meta:
            raise UsageError(f"the condition {name!r} is on the device meta and has no values", "give its values")
        if n is not None and (rows[name].dim() == 0 or len(rows[name]) != n):
            given = "is one number" if rows[name].dim() == 0 else f"has {len(rows[name])} rows"
            raise ShapeError(f"the condition {name!r} {given} for {n} {what}", "give one row each")
        if rows[name].is_floating_point() and not bool(torch.isfinite(rows[name]).all()):
            raise DomainError(f"the condition {name!r} has values that are nan or infinite", "give finite numbers")
    return rows


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def explained(
    error: Exception, network: Callable[..., Any], arguments: tuple[Tensor, Tensor], rows: Condition, time: str
) -> UsageError:
    """The error of network(z, time, **rows) as one that names the argument at fault. time: the convention declared.

    The network is asked again, on one example and with one argument changed, to find out which change it accepts.
    """
    r = _first_refused(network, arguments, rows)
    z, t = (a[r : r + 1] for a in arguments)
    one = {name: values[r : r + 1] for name, values in rows.items()}
    called = f"called with z {_kind(arguments[0])}, time {_kind(arguments[1])} (declared: {time})"
    called += "".join(f", {name} {_kind(values)}" for name, values in rows.items())
    misfit = _signature(network, (z, t), one)
    if misfit is not None:
        return misfit
    if _accepts(network, (t, z), one, z):
        return UsageError(
            f"the network takes its arguments in the order (time, z), and it is {called}",
            "wrap it: lambda z, t: net(t, z)",
        )
    table = t.is_floating_point() and _accepts(network, (z, t.round().long()), one, z)
    if table and time == "index":
        return UsageError(
            "the network looks its time up in a table by a whole number, and it is asked between the steps: it is "
            f"{called}",
            "the bound of a finite chain asks at its steps alone; an ODE or a continuous grid takes a network of real "
            "times",
        )
    if table:
        return UsageError(
            f"the network looks its time up in a table by a whole number, and it is {called}",
            "declare time='index', or convert in a function of your own",
        )
    if _accepts(network, (z, torch.zeros_like(t)), one, z):
        return UsageError(
            f"the network's table of times ends before {float(t):g}: {first_line(error)}",
            "the schedule has more steps than the network was trained with, or counts from 1 where it counts from 0: "
            "give the schedule of its training, or shift the index in a function of your own",
        )
    if not t.is_floating_point() and _accepts(network, (z, t.to(z.dtype)), one, z):
        return UsageError(
            f"the network wants a time of real numbers, and it is {called}",
            "declare time='unit', 'logsnr', 'sigma' or 'c_noise', or convert in a function of your own",
        )
    for side in _SIDES if z.dim() > 2 else ():
        shape = [side * -(-n // side) for n in z.shape[2:]]
        if shape != list(z.shape[2:]) and _accepts(network, (z.new_zeros(*z.shape[:2], *shape), t), one, None):
            return UsageError(
                f"the network takes images whose sides are multiples of {side}, and these are "
                f"{' × '.join(map(str, z.shape[2:]))}: {first_line(error)}",
                f"score it on images of the size it was trained on, such as {' × '.join(map(str, shape))}; padding "
                "here would be another model",
            )
    for name, values in one.items():
        if not values.is_floating_point() and _accepts(network, (z, t), {**one, name: torch.zeros_like(values)}, z):
            return UsageError(
                f"the network's table of the condition {name!r} ends before {int(values.max())} or begins after "
                f"it: {first_line(error)}",
                f"give {name} as it was trained with: classes count from 0, one whole number an example",
            )
        if not values.is_floating_point() and _accepts(network, (z, t), {**one, name: values.to(z.dtype)}, z):
            return UsageError(
                f"the network wants real numbers as its condition {name!r}, and it is {called}",
                f"give real numbers: condition={{{name!r}: rows.float()}}",
            )
        if values.is_floating_point() and _accepts(network, (z, t), {**one, name: values.round().long()}, z):
            return UsageError(
                f"the network wants whole numbers as its condition {name!r}, and it is {called}",
                f"give integer labels: condition={{{name!r}: labels.long()}}",
            )
    if one and _accepts(network, (z, t), {}, z):
        return UsageError(
            f"the network does not take the condition {', '.join(one)}: {first_line(error)}; it is {called}",
            "give a condition of the shape and type that it was trained with, one row an example, or none",
        )
    others = _not_given(network, rows)
    if others and not one:
        return UsageError(
            f"the network raised {first_line(error)}; it was {called}, without {', '.join(others)}",
            f"if it needs one of them, give one row of it an example: condition={{{others[0]!r}: rows}}; "
            "NELBO_TRACEBACK=1 shows where it happened",
        )
    given = ["the shape of the domain", "the time it is declared to take"] + [f"the condition {name!r}" for name in one]
    return UsageError(
        f"the network raised {first_line(error)}; it was {called}",
        f"check {', '.join(given)}; NELBO_TRACEBACK=1 shows where it happened",
    )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _first_refused(network: Callable[..., Any], arguments: tuple[Tensor, Tensor], rows: Condition) -> int:
    """The first of the batch's examples that the network refuses alone; 0 where it takes each of them."""
    n = min(len(arguments[0]), _LOOKED_AT)
    parts = ((i, tuple(a[i : i + 1] for a in arguments), {k: v[i : i + 1] for k, v in rows.items()}) for i in range(n))
    return next((i for i, (z, t), one in parts if not _accepts(network, (z, t), one, z)), 0)


def _not_given(network: Callable[..., Any], rows: Condition) -> list[str]:
    """Names of the network's further arguments, which have defaults and were not given."""
    try:
        parameters = inspect.signature(network.forward if isinstance(network, nn.Module) else network).parameters
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [name for name, p in parameters.items() if p.kind in kinds]
    return [name for name in names[2:] if name not in rows]


def _accepts(
    network: Callable[..., Any], arguments: tuple[Tensor, Tensor], rows: Condition, like: Tensor | None
) -> bool:
    """Whether the network returns a tensor for these arguments, of the spatial shape of `like` where that is given."""
    try:
        with torch.no_grad():
            value = network(*(a.clone() for a in arguments), **rows)
    except Exception:
        return False
    return isinstance(value, Tensor) and (
        like is None or (value.shape[2:] == like.shape[2:] and len(value) == len(like))
    )


def _signature(network: Callable[..., Any], arguments: tuple[Tensor, Tensor], rows: Condition) -> UsageError | None:
    """The error where the network's signature has no place for the arguments."""
    try:
        inspect.signature(network.forward if isinstance(network, nn.Module) else network).bind(*arguments, **rows)
    except TypeError as error:
        given = f"condition {', '.join(map(repr, rows))}" if rows else "no condition"
        return UsageError(
            f"the network cannot be called with (z, time) and {given}: {error}",
            "a condition is a keyword of the network with one row an example: condition={'y': labels}, "
            "or condition='y' for the labels of the data",
        )
    except ValueError:
        pass  # a network that does not tell its arguments
    return None

"""Examples of different size as one array and a mask, in the one form in which they are scored.

The first axis of the domain is the most positions that an example has. However long the user's padding is, and whatever
it holds, examples come to that length with zeros where nothing is: padding longer changes no bit of a result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model.domain import DataDomain


def is_ragged(data: Any) -> bool:
    """Whether `data` is a list of arrays of different shapes."""
    if not isinstance(data, (list, tuple)) or not data or not all(hasattr(one, "shape") for one in data):
        return False
    return len({tuple(one.shape) for one in data}) > 1


def stacked(data: Any) -> tuple[Tensor, Tensor]:
    """A list of arrays (n_i, …) as (N, n, …), zeros behind each, and the mask (N, n). Errors: ShapeError."""
    rows = [torch.as_tensor(one) for one in data]
    if any(row.ndim == 0 or row.shape[1:] != rows[0].shape[1:] for row in rows):
        shapes = sorted({tuple(row.shape) for row in rows})[:4]
        raise ShapeError(
            f"arrays of shapes {', '.join(map(str, shapes))}", "only the first axis, that of the points, may differ"
        )
    longest = max(len(row) for row in rows)
    dtype = rows[0].dtype
    for row in rows[1:]:
        dtype = torch.promote_types(dtype, row.dtype)
    whole = torch.zeros(len(rows), longest, *rows[0].shape[1:], dtype=dtype)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        whole[i, : len(row)], mask[i, : len(row)] = row.to(dtype), True
    return whole, mask


def aligned(data: Tensor, mask: Any, domain: DataDomain) -> tuple[Tensor, Tensor, bool]:
    """(data (N, *shape) with zeros where nothing is, elements that are there (N, *shape), whether the mask is one of
    positions), of data (N, n, …) with any n.

    mask: bools (N, n), or of the shape of the data. Errors: ShapeError; UsageError for a mask that is no array of bools
    or leaves an example empty; DomainError for an example of more positions than the domain has.
    """
    there = torch.as_tensor(mask)
    if there.dtype != torch.bool:
        raise UsageError(f"a mask of {str(there.dtype).removeprefix('torch.')}", "give bools, True for what is there")
    whole, positions = tuple(data.shape), tuple(data.shape[:2])
    if tuple(there.shape) not in (whole, positions):
        raise ShapeError(
            f"a mask of shape {tuple(there.shape)} for data of shape {whole}", f"give {positions} or {whole}"
        )
    if whole[2:] != domain.shape[1:]:
        raise ShapeError(
            f"data of shape {whole}, but the model scores examples of shape {domain.shape}",
            f"all axes but the first of an example must be {domain.shape[1:]}",
        )
    of_positions = there.ndim == 2 and data.ndim != 2
    elements = there.reshape(*there.shape, *(1,) * (data.ndim - there.ndim)).expand(data.shape)
    if not bool(elements.flatten(1).any(1).all()):
        bad = int((~elements.flatten(1).any(1)).nonzero()[0, 0])
        raise UsageError(f"example {bad} has nothing that is there", "leave such examples out")
    P, n = domain.shape[0], data.shape[1]
    used = int(elements.reshape(*positions, -1).any(2).any(0).nonzero().max()) + 1
    if used > P:
        raise DomainError(
            f"an example with {used} positions, and the domain has {P}",
            f"declare DataDomain(({used}, …)): the most positions that an example has; nothing is dropped",
        )
    keep = min(n, P)
    values = torch.zeros(len(data), *domain.shape, dtype=data.dtype)
    filled = torch.zeros(values.shape, dtype=torch.bool)
    values[:, :keep] = torch.where(elements[:, :keep], data[:, :keep], torch.zeros((), dtype=data.dtype))
    filled[:, :keep] = elements[:, :keep]
    return values, filled, of_positions

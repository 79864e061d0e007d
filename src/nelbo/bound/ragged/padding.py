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
from nelbo.model.examples import Examples


def of_samples(mask: Any, n: int, domain: DataDomain) -> tuple[Tensor, Tensor]:
    """(elements that are to be there of n samples (n, *shape), the mask in the form in which it is given), of bools
    (n, positions) or (n, positions, …). Errors: as of `aligned`, and ShapeError for another number of samples."""
    there = torch.as_tensor(mask)
    if there.ndim < 2 or len(there) != n:
        raise ShapeError(f"a mask of shape {tuple(there.shape)} for {n} samples", "give a row of bools for each")
    nothing = torch.zeros(n, there.shape[1], *domain.shape[1:])
    mask_of = Examples(nothing).with_mask(there).mask
    assert mask_of is not None  # as given
    _, there, shown = aligned(nothing, mask_of, domain)
    return there, shown


def aligned(data: Tensor, mask: Tensor, domain: DataDomain) -> tuple[Tensor, Tensor, Tensor]:
    """(data (N, *shape) with zeros where nothing is, elements that are there (N, *shape), the mask in the form in which
    it is given), of data (N, n, …) with any n.

    mask: bools (N, n), or of the shape of the data, as of `Examples`. Errors: ShapeError; UsageError where an example
    is empty; DomainError for an example of more positions than the domain has.
    """
    there, whole, positions = mask, tuple(data.shape), tuple(data.shape[:2])
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
    return values, filled, filled.reshape(*filled.shape[:2], -1)[..., 0] if of_positions else filled

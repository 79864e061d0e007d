"""Masked places revealed step by step: from the model's own law, or the surest first, which is another law."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nelbo.model.tokens.revealing import prior_law, reveals
from nelbo.process.tokens import counts
from nelbo.sampling.tokens.laws import Laws, drawn


def ancestral(laws: Laws, z: Tensor, free: Tensor, v: Tensor, u: Tensor, tick: Callable[[int], None]) -> Tensor:
    """Draws (B, L) from the model's law: z (B, L) with its `free` places (B, L) drawn, by uniform v and u (B, L).

    v is the order (`revealing`), u the symbols. tick: called after each evaluation with the sequences it was for.
    """
    z = z.clone()
    for step in reveals(laws.model, v, free):
        places = step.places
        if step.by_prior:
            p = prior_law(laws.model).to(z.device).expand(int(places.sum()), -1)
        else:
            p = laws.at(z, step.hidden, step.at, places).exp()
            tick(len(z))
        z[places] = drawn(p, u[places])
    return z


def by_confidence(laws: Laws, z: Tensor, free: Tensor, u: Tensor, tick: Callable[[int], None]) -> Tensor:
    """Draws (B, L) whose places are revealed in the order of the network's confidence, max_k p_i(k | z): each step
    reveals as many as the model's chain does, but those of which the network is surest.

    Not the model's law, whose places come in a random order: a bound says nothing of these draws. Source: Chang et al.
    2022, "MaskGIT", §3.2, without its temperature.
    """
    z, hidden = z.clone(), free
    symbols = z.clone()
    for step in reveals(laws.model, torch.zeros_like(u), free):  # of which only the counts are used
        p = laws.at(z, hidden, None, hidden).exp()
        tick(len(z))
        symbols[hidden] = drawn(p, u[hidden])
        sure = torch.full_like(u, 2.0)
        sure[hidden] = p.amax(-1)
        keep = step.after.sum(1)
        sure = counts.later_blocks_first(sure, free, laws.model.reverse.block)
        rank = sure.masked_fill(~hidden, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        after = hidden & (rank < keep[:, None])
        now = hidden & ~after
        z[now], hidden = symbols[now], after
    return z

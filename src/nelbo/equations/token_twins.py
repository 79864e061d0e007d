"""The library's models of symbols for the oracles of `oracles/tokens.py`, and its terms over every subset of places."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from nelbo.bound.tokens import terms
from nelbo.equations.oracles.tokens import Masked, State, subsets
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import TokenDomain
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Full, Grid
from nelbo.process.tokens.kernel import Absorbing
from nelbo.process.tokens.survival import Survival


def model_of(oracle: Masked, schedule: Survival | None = None, grid: Grid | None = None) -> TokenModel:
    """The library's model of the same laws; with a schedule as a network that is told the time, and ignores it."""

    def logits(z: Tensor, t: Tensor | None = None) -> Tensor:
        return torch.from_numpy(np.stack([np.log(oracle.law(tuple(row))) for row in z.tolist()]))

    return TokenModel(
        domain=TokenDomain(oracle.V, oracle.L),
        kernel=Absorbing(oracle.V),
        denoiser=NetworkTokenDenoiser(logits, oracle.V, None if schedule is None else "unit"),
        schedule=schedule,
        grid=grid or Full(),
    )


def revealing(model: TokenModel, x: State, places: list[tuple[int, ...]], number: Tensor) -> Tensor:
    """What it costs to reveal `number` (n,) of each of the sets of hidden places, (n,)."""
    rows = torch.tensor([x]).expand(len(places), -1)
    masked = torch.zeros(rows.shape, dtype=torch.bool)
    for row, M in zip(masked, places, strict=True):
        row[list(M)] = True
    at = None if model.counted else model.levels()[0][torch.zeros(len(rows), dtype=torch.long)]
    assert isinstance(model.kernel, Absorbing)
    each = model.costs(rows, rows.masked_fill(masked, model.kernel.mask), masked, at)
    return terms.revealed(model, each, masked, torch.ones_like(masked), number)


def of_count(model: TokenModel, x: State, size: int) -> float:
    """The library's term of a step that reveals one of `size` hidden places: its mean over all subsets."""
    every = subsets(len(x), size)
    return float(revealing(model, x, every, torch.ones(len(every), dtype=torch.float64)).mean())


def over_counts(model: TokenModel, x: State) -> float:
    """The library's bound of x over the counts of the model's grid."""
    counts = [0, *model.counts(len(x))]
    return sum((high - low) * of_count(model, x, high) for low, high in itertools.pairwise(counts))


def around(model: TokenModel, x: State, rate: float, weight: float) -> float:
    """The library's term of weight `weight` at a mask rate: its mean over a uniform place and the others by rate."""
    L = len(x)
    every, chance = subsets(L), []
    for M in every:
        others = rate ** (len(M) - 1) * (1 - rate) ** (L - len(M))
        chance.append(len(M) / L * others)  # any of them may be the place that is hidden for certain
    terms_ = revealing(model, x, every, torch.full((len(every),), weight, dtype=torch.float64))
    return float((torch.tensor(chance, dtype=torch.float64) * terms_).sum())


def double(values: object) -> Tensor:
    """As float64."""
    return torch.as_tensor(values, dtype=torch.float64)

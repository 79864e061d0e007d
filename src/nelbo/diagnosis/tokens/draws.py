"""Draws that all declarations of a network over symbols share, and what one declaration makes of them.

    masks        u uniform in strata of (0, 1], one scored place and each other one hidden with probability u:
                 y = mean cost of a hidden place, whose mean is the bound a place of every chain to its end
    blocks       the share u of the places hidden, block by block: y = mean cost of a hidden place of its block
    noise        a cell of the chain and a place in it, of the declared chain: y = number of cells × its term / places

in nats a scored place. The first level of a chain of noise is left out: it is the same for all but what the network
says there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.problem import Draws
from nelbo.bound.tokens import terms
from nelbo.bound.tokens.blocks import BlockChain
from nelbo.bound.tokens.noised import NoisedChain
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Absorbing
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Subject:
    """Sequences data (N, L), the places that are scored, and the network's keywords; seed, device and rows of a
    call."""

    data: Tensor
    scored: Tensor
    condition: Condition
    seed: int
    device: torch.device
    batch: int


@dataclass(frozen=True, eq=False)
class Stage:
    """So many draws: their numbers, examples, and places u ∈ [0, 1] in strata."""

    numbers: Tensor
    examples: Tensor
    u: Tensor

    @classmethod
    def of(cls, seed: int, count: int, start: int, size: int, examples: int) -> Stage:
        """Stage number `count`, whose draws are numbered from `start` on."""
        numbers = start + torch.arange(size)
        order = Purpose.DIAGNOSIS_EXAMPLES.permutation(seed, examples, 1 + count)
        inside = Purpose.DIAGNOSIS_PLACE.uniform(seed, 0, 0, numbers)
        return cls(numbers, order[torch.arange(size) % examples], (torch.arange(size) + inside) / size)


def values(model: TokenModel, subject: Subject, stage: Stage) -> Tensor:
    """y of every draw of a stage, (n,) float64. Errors: whatever the network raises."""
    ask = _of_masks if isinstance(model.kernel, Absorbing) else _of_noise
    with torch.no_grad():
        rows = torch.arange(len(stage.numbers)).split(subject.batch)
        return torch.cat([ask(model, subject, Stage(*(v[r] for v in vars(stage).values()))) for r in rows])


def _of_masks(model: TokenModel, subject: Subject, stage: Stage) -> Tensor:
    assert isinstance(model.kernel, Absorbing)
    x, scored = (v[stage.examples].to(subject.device) for v in (subject.data, subject.scored))
    v = Purpose.DIAGNOSIS_NOISE.uniform(
        subject.seed, stage.examples, 1, stage.numbers, (x.shape[1] + 1,), device=subject.device
    )
    condition = {name: rows[stage.examples].to(subject.device) for name, rows in subject.condition.items()}
    share = scored.sum(1) / subject.scored.sum(1).double().mean().to(subject.device)
    if model.reverse.block is not None:
        chain = BlockChain(model, subject.data, subject.scored)
        count = torch.ceil(stage.u.to(subject.device) * scored.sum(1)).long().clamp(min=1)
        return (share * chain.mean_cost(x, scored, count, v[:, :-1], condition)).cpu()
    hidden = counts.around_a_place(v[:, :-1], v[:, -1], scored, stage.u.to(subject.device))
    at = None if model.schedule is None else model.schedule.at(model.schedule.time_of(stage.u)).to(subject.device)
    z = x.masked_fill(hidden, model.kernel.mask)
    each = model.costs(x, z, hidden, at, condition, hidden)
    return (share * terms.mean_over(each, hidden)).cpu()


def _of_noise(model: TokenModel, subject: Subject, stage: Stage) -> Tensor:
    chain = NoisedChain(model, subject.data, subject.scored, subject.condition, subject.seed, subject.device)
    place = stage.u * len(chain.cells)
    cells = place.long().clamp(max=len(chain.cells) - 1)
    keys, numbers = cells + 1, Purpose.DIAGNOSIS_NOISE.draw + stage.numbers
    draws = Draws(stage.examples, keys, numbers, cells, (place - cells).float())
    cost = chain.columns(draws, None, torch.arange(len(keys)))[:, 0]
    return len(chain.cells) * cost / subject.scored.sum(1).double().mean()

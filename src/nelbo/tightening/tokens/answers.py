"""What a network over symbols says at draws of its chain, asked once: the bound under every calibration follows.

The terms of a draw depend on the network's answer, and a calibration is a formula of that answer alone. So many
calibrations are tried at the price of one, all at the same draws: their differences are sharp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.problem import Draws
from nelbo.bound.tokens.chain import TokenChain
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.bound.tokens.noised import NoisedChain, NoisedDraws
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.calibration import Calibration, NGramTable, Surroundings
from nelbo.model.tokens.model import TokenModel, surprise
from nelbo.process.tokens.kernel import Kernel

DRAWS = 4
"""Of a sequence, one in every quarter of the chain."""
PLACES = 16
"""Hidden places of a draw whose costs are looked at, at most."""
NUMBERS = 1 << 23
"""Most log probabilities that are kept."""
_BATCH = 64
_CHOICE = 1 << 20
"""Of the purpose of places, draw numbers from here on choose which hidden places are looked at."""


class Answers(ABC):
    """Answers at draws of `sequences` sequences."""

    sequences: int
    places: int
    """Places that were looked at."""
    nfe: int
    dimensions: int
    """Scored places of a sequence."""

    @abstractmethod
    def costs(self, model: TokenModel, calibration: Calibration | None) -> Tensor:
        """Of every sequence (N,) an estimate of its bound, less the terms that no calibration changes, under the
        network's law with this calibration, read as `model` reads it."""


@dataclass(frozen=True, eq=False)
class MaskedAnswers(Answers):
    """log p (m, V) at hidden places with their surroundings, log p̂ (m, V) by n-grams where there are any, symbols,
    weights, draws and sequences (m,); of every draw the number of hidden places (d,)."""

    sequences: int
    places: int
    nfe: int
    dimensions: int
    log_p: Tensor
    near: Surroundings
    foretold: Tensor | None
    symbols: Tensor
    weights: Tensor
    draws: Tensor
    of: Tensor
    counts: Tensor

    def costs(self, model: TokenModel, calibration: Calibration | None) -> Tensor:
        nats = self.surprises(calibration) * self.weights
        return torch.zeros(self.sequences, dtype=torch.float64).index_add(0, self.of, nats)

    def surprises(self, calibration: Calibration | None) -> Tensor:
        """−log p of every place, (m,)."""
        log_p = self.log_p.double()
        if calibration is not None:
            log_p = calibration.combined(log_p, self.near, self.foretold)
        return surprise(log_p, self.symbols)

    def mean_costs(self, calibration: Calibration | None) -> Tensor:
        """The mean cost of a hidden place of every draw, (d,)."""
        total, number = (torch.zeros(len(self.counts), dtype=torch.float64) for _ in range(2))
        total.index_add_(0, self.draws, self.surprises(calibration))
        return total / number.index_add_(0, self.draws, torch.ones(len(self.draws), dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class NoisedAnswers(Answers):
    """In batches the draws of a kernel without a mask, log p (b, L, V), their surroundings (b·L,), weights (b,) and
    sequences (b,)."""

    sequences: int
    places: int
    nfe: int
    dimensions: int
    kernel: Kernel
    batches: list[tuple[NoisedDraws, Tensor, Surroundings, Tensor, Tensor]]

    def costs(self, model: TokenModel, calibration: Calibration | None) -> Tensor:
        value = torch.zeros(self.sequences, dtype=torch.float64)
        for drawn, log_p, near, weights, of in self.batches:
            law = log_p.double()
            if calibration is not None:
                law = calibration.combined(law.flatten(0, 1), near, None).reshape(law.shape)
            value = value.index_add(0, of, weights * drawn.cost(model, self.kernel, law))
        return value


def ask(chain: TokenChain, batch: int | None = None, ngrams: NGramTable | None = None) -> Answers:
    """The answers of the chain's network at `DRAWS` draws of every sequence, without the model's own calibration; of a
    large vocabulary of fewer sequences, the first. Errors: UsageError for a chain in blocks."""
    if isinstance(chain, MaskedChain):
        return _masked(chain, batch or _BATCH, ngrams)
    if isinstance(chain, NoisedChain):
        return _noised(chain, batch or _BATCH)
    raise UsageError(
        "tightening a model that reveals block by block",
        "tighten the same network with block=None, in which every place may come first",
    )


def bare(model: TokenModel) -> TokenModel:
    """The model without its calibration."""
    return model if model.calibration is None else replace(model, calibration=None)


def _masked(chain: MaskedChain, batch: int, ngrams: NGramTable | None) -> MaskedAnswers:
    V, L, model = chain.model.domain.vocabulary, chain.data.shape[1], bare(chain.model)
    P = min(L, PLACES, max(4, NUMBERS // (chain.examples * DRAWS * V)))
    N = min(chain.examples, max(16, NUMBERS // (P * DRAWS * V)))
    around = Calibration(torch.ones(1), None, None if ngrams is None else torch.zeros(16), ngrams)
    parts: list[tuple[Any, ...]] = []
    sizes, offset = [], 0
    for draws, each in _draws(chain, N):
        for rows in torch.arange(len(draws)).split(batch):
            hidden, weight, _, at = chain.drawn(draws, rows)
            examples, hidden = draws.examples[rows], hidden.cpu()
            number = draws.numbers[rows] - Purpose.CALIBRATION_NOISE.draw + _CHOICE
            key = Purpose.CALIBRATION_PLACE.uniform(chain.seed, examples, 0, number, (L,))
            looked = key.masked_fill(~hidden, 2.0).argsort(dim=1).argsort(dim=1) < P
            looked &= hidden
            x, where = chain.data[examples], looked.to(chain.device)
            z = x.masked_fill(hidden, chain.mask)
            at = None if at is None else at.to(chain.device)
            with torch.no_grad():
                there = hidden.to(chain.device)
                log_p = model.law_at(z.to(chain.device), there, at, where, chain.condition_of(examples)).cpu()
            share = model.share(there, at).cpu()
            row = looked.nonzero()[:, 0]
            near = around.around(z, hidden, share, looked)
            foretold = around.foretold(near)
            scale = weight.cpu() * each[rows] / looked.sum(1)
            of_places = near.pattern, near.neighbours, None if foretold is None else foretold.float()
            parts.append((log_p.float(), near.share, *of_places, x[looked], scale[row], row + offset, examples[row]))
            sizes.append(hidden.sum(1))
            offset += len(rows)
    columns: list[Any] = [None if c[0] is None else torch.cat(c) for c in zip(*parts, strict=True)]
    log_p, share, pattern, neighbours, foretold, symbols, weights, of_draw, of = columns
    return MaskedAnswers(
        sequences=N,
        places=len(of),
        nfe=offset,
        dimensions=chain.dimensions,
        log_p=log_p,
        near=Surroundings(share, pattern, neighbours),
        foretold=foretold,
        symbols=symbols,
        weights=weights,
        draws=of_draw,
        of=of,
        counts=torch.cat(sizes),
    )


def _noised(chain: NoisedChain, batch: int) -> NoisedAnswers:
    V, L, model = chain.model.domain.vocabulary, chain.data.shape[1], bare(chain.model)
    N = min(chain.examples, max(16, NUMBERS // (2 * DRAWS * L * V)))
    around, batches, nfe = Calibration(torch.ones(1)), [], 0
    for draws, each in _draws(chain, N):
        for rows in torch.arange(len(draws)).split(batch):
            drawn = chain.drawn(draws, rows)
            examples, hidden = draws.examples[rows], torch.zeros_like(drawn.scored)
            with torch.no_grad():
                log_p = model.predict(drawn.z, hidden, drawn.t, chain.condition_of(examples)).cpu().float()
            drawn = drawn.to("cpu")
            hidden = hidden.cpu()
            near = around.around(drawn.z, hidden, model.share(hidden, drawn.t), torch.ones_like(hidden))
            batches.append((drawn, log_p, near, each[rows], examples))
            nfe += len(rows)
    return NoisedAnswers(N, nfe * L, nfe, chain.dimensions, chain.kernel, batches)


def _draws(chain: TokenChain, N: int) -> list[tuple[Draws, Tensor]]:
    """Draws of the first N sequences, and the weight of each (n,) in its sequence's bound: one in every part of the
    chain, and as many of the first level where that asks the network."""
    examples, number = torch.arange(N).repeat_interleave(DRAWS), torch.arange(DRAWS).repeat(N)
    numbers, made = Purpose.CALIBRATION_NOISE.draw + number, []
    if len(chain.cells):
        u = (number + Purpose.CALIBRATION_PLACE.uniform(chain.seed, examples, 0, number)) / DRAWS
        even = CellDensity.of(chain.cells.scale)
        cells, inner = even.place(u)
        along = Draws(examples, torch.ones_like(examples), numbers, cells, inner)
        made.append((along, 1 / (DRAWS * even.p[cells])))
    if chain.first_cost:
        made.append((Draws.first_level(examples, numbers), torch.full((len(numbers),), 1 / DRAWS).double()))
    return made

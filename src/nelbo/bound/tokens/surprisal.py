"""Where in a sequence the bits are: the share of every place in the bound of a chain over counts, with its error.

    s_i = (1/n) Σ_{l=1..n} E[ −log p_i(x_i | x outside of M) ],    i ∈ M, |M| = l,    Σ_i s_i = bound(x)

the mean cost of revealing place i over random orders of the n scored places. In each of R repeats and K strata of the
counts, l is drawn in the stratum, and a random order of the places is cut into ⌈n/l⌉ sets of l, the last filled up from
the beginning, so that every place is hidden at least once: 2 log(n) evaluations a stratum and less. The standard error
of a place is that of its R repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.prepare import Prepared
from nelbo.bound.tokens.chain import TokenChain
from nelbo.errors import NumericalError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Full
from nelbo.process.tokens.kernel import Absorbing
from nelbo.typing import Json

SCHEMA = "nelbo.surprisal/1"
STRATA = 8
REPEATS = 4
SEQUENCES = 8
"""Sequences that are looked at, unless one asks for more."""
AT_ONCE = 1 << 22
"""Logits of one call of the network, at most, where no batch size is given."""


@dataclass(frozen=True, eq=False)
class Surprisal:
    """symbols, nats, standard_error, scored (n, L): what a place cost in nats; 0 where it is not scored. text: what
    each symbol stands for, where the data say it, else its number. evaluations: of the network."""

    symbols: Tensor
    nats: Tensor
    standard_error: Tensor
    scored: Tensor
    text: tuple[tuple[str, ...], ...]
    evaluations: int
    data: Json
    model: Json
    seed: int
    version: str

    def to_dict(self) -> Json:
        """The documented JSON form: a list of sequences, each a list of places."""
        rows = zip(self.symbols.tolist(), self.text, self.nats.tolist(), self.standard_error.tolist(),
                   self.scored.tolist(), strict=True)  # fmt: skip
        sequences = [
            [
                {"symbol": k, "text": t, "nats": v if s else None, "standard_error": e if s else None}
                for k, t, v, e, s in zip(*row, strict=True)
            ]
            for row in rows
        ]
        return {
            "schema": SCHEMA,
            "sequences": sequences,
            "nfe_total": self.evaluations,
            "data": self.data,
            "model": self.model,
            "seed": self.seed,
            "version": self.version,
        }


def surprisal(
    prepared: Prepared[TokenModel, TokenChain],
    text: tuple[tuple[str, ...], ...],
    strata: int = STRATA,
    repeats: int = REPEATS,
) -> Surprisal:
    """The surprisals of all sequences of a prepared chain, whose symbols stand for `text`.

    Errors: UsageError for a chain that is not over single counts, and for fewer than 2 repeats; NumericalError.
    """
    chain, model = prepared.chain, prepared.model
    reverse = model.reverse
    whole = model.counted and isinstance(model.grid, Full) and reverse.block is None and reverse.carry_over
    if not whole:
        raise UsageError(
            "the surprisal of single places of a chain that is not over single counts of masked places",
            "it is defined for a network with a mask that is not told the time, on its full grid",
        )
    if strata < 1 or repeats < 2:
        raise UsageError(f"{strata} strata and {repeats} repeats", "give at least 1 stratum and 2 repeats")
    nats, errors, spent = [], [], 0
    with chain.model.denoiser.inference():
        for example in range(chain.examples):
            values, n = _of_sequence(chain, example, strata, repeats, prepared.run.batch_size)
            nats.append(values.mean(0))
            errors.append(values.std(0) / math.sqrt(repeats))
            spent += n
    claims = prepared.claims()
    return Surprisal(
        symbols=chain.data,
        nats=torch.stack(nats),
        standard_error=torch.stack(errors),
        scored=chain.scored,
        text=text,
        evaluations=spent,
        **{name: claims[name] for name in ("data", "model", "seed", "version")},
    )


def _of_sequence(chain: TokenChain, example: int, strata: int, repeats: int, batch: int | None) -> tuple[Tensor, int]:
    """Each repeat's estimate of every place (R, L), 0 where it is not scored, and the evaluations it took."""
    x, scored = chain.data[example], chain.scored[example]
    places, L = scored.nonzero()[:, 0], len(x)
    n, K = len(places), min(strata, len(places))
    repeat, stratum = torch.arange(repeats).repeat_interleave(K), torch.arange(K).repeat(repeats)
    examples = torch.full_like(repeat, example)
    u = Purpose.SURPRISAL_NOISE.uniform(chain.seed, examples, stratum, repeat, (n + 1,))
    sizes = (n * (stratum + u[:, n]) / K).ceil().clamp(1, n).long().tolist()
    sets, owner = [], []
    for draw, (size, order) in enumerate(zip(sizes, places[u[:, :n].argsort(dim=1, stable=True)], strict=True)):
        count = math.ceil(n / size)
        member = order[torch.arange(count * size) % n].reshape(count, size)
        sets.append(torch.zeros(count, L, dtype=torch.bool).scatter_(1, member, True))
        owner += [draw] * count
    masked, of = torch.cat(sets), torch.tensor(owner)
    costs = _costs(chain, example, masked, batch)
    total = torch.zeros(repeats * K, L, dtype=torch.float64).index_add_(0, of, costs.masked_fill(~masked, 0.0))
    times = torch.zeros(repeats * K, L, dtype=torch.float64).index_add_(0, of, masked.double())
    each = (total / times.clamp_min(1)).reshape(repeats, K, L).mean(1)
    return each, len(masked)


def _costs(chain: TokenChain, example: int, masked: Tensor, batch: int | None) -> Tensor:
    """−log p of every hidden place, (m, L), for the sets (m, L) of one sequence. Errors: NumericalError."""
    model, kernel = chain.model, chain.model.kernel
    assert isinstance(kernel, Absorbing)  # a chain over counts has a mask
    size = batch or max(1, AT_ONCE // (model.domain.length * model.domain.vocabulary))
    rows = []
    for part in masked.split(size):
        hidden = part.to(chain.device)
        of = torch.full((len(part),), example)
        x = chain.data[of].to(chain.device)
        with torch.no_grad():
            z = x.masked_fill(hidden, kernel.mask)
            rows.append(model.costs(x, z, hidden, None, chain.condition_of(of), hidden).cpu())
    costs = torch.cat(rows)
    if not bool(torch.isfinite(costs[masked]).all()):
        raise NumericalError(
            f"a place of sequence {example} costs infinitely much, or no number",
            "the network returned NaN or infinity there, or gives its symbol probability 0",
        )
    return costs

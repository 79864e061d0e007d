"""Answers to prompts as a chain: sequences of any length, of which only what follows the prompt is hidden and scored.

A draw is a whole order in which the answer's places are revealed, one by one or as the model's chain reveals them, and
its term the sum of their costs: −log p(answer | prompt) along that order, never a mean over symbols. A network that is
consistent has the same sum in every order; the mean over orders is the bound. The order comes from a number of every
position that does not know the answer, so that answers to one prompt are revealed in the same order wherever both have
symbols, and what their costs have in common cancels in a difference. The network sees each sequence by itself, without
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Cells, Draws
from nelbo.bound.tokens.chain import TokenChain
from nelbo.errors import ShapeError, UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel, surprise
from nelbo.model.tokens.revealing import prior_law, reveals
from nelbo.process.tokens.kernel import Absorbing

_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class OptionChain(TokenChain):
    """See the module. data (N, longest): the sequences, 0 behind their ends; lengths (N,); keys (N,): sequences with
    one key share their orders, each has its own where None."""

    lengths: Tensor | None = None
    keys: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: TokenModel,
        sequences: Sequence[Tensor],
        given: Sequence[int],
        *,
        keys: Tensor | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> OptionChain:
        """Of sequences (n_i,) of symbols, of which the first `given` are prompts. model: on its device, in its
        precision. Errors: UsageError for a model without masked places; ShapeError for a sequence that is longer than
        the model's, or an answer without a symbol; DomainError for what is no symbol."""
        if not isinstance(model.kernel, Absorbing):
            raise UsageError("answers under a model of noised symbols", "give a model of masked places")
        lengths = torch.tensor([len(x) for x in sequences])
        longest, most = int(lengths.max()), model.domain.longest or model.domain.length
        if longest > most:
            raise ShapeError(
                f"a prompt and answer of {longest} symbols, and the model's sequences have {most}",
                "leave out the beginning of the prompt, or shorten the answer",
            )
        data = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, x in zip(data, sequences, strict=True):
            row[: len(x)] = x
        place = torch.arange(longest)
        scored = (place >= torch.tensor(given)[:, None]) & (place < lengths[:, None])
        if not bool(scored.any(1).all()):
            bad = int((~scored.any(1)).nonzero()[0, 0])
            raise ShapeError(f"answer {bad} has no symbol", "leave it out: it has probability 1")
        data = model.domain.symbols(data)
        model.check_symbols(data, scored)
        where = torch.device(device or "cpu")
        return cls(model.of_length(longest), data, scored, seed=seed, device=where, lengths=lengths, keys=keys)

    @cached_property
    def cells(self) -> Cells:
        """One: a draw is of the whole chain."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return Cells(ends[:1], ends[1:], ends[1:], torch.ones(1, dtype=torch.float64), False)

    @property
    def first_cost(self) -> int:
        """0: there is no such term."""
        return 0

    @cached_property
    def prices(self) -> Tensor:
        """Evaluations of a draw of every sequence, (N,): the steps of its chain, at most its scored places."""
        if not self.model.counted:
            return self.number.clamp(max=self.model.steps or int(self.number.max()))
        distinct, of = self.number.unique(return_inverse=True)
        return torch.tensor([len(self.model.counts(int(n))) for n in distinct])[of]

    def position(self, u: float) -> tuple[float, float]:
        """The share of the chain; it has no log-SNR."""
        return u, 0.0

    def prior(self, examples: Tensor) -> Tensor:
        """0: what the prior reveals has its cost among the terms."""
        return torch.zeros(len(examples), dtype=torch.float64)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 1): the term."""
        assert self.lengths is not None  # as `of` makes it
        examples = draws.examples[rows]
        lengths, columns = self.lengths[examples], torch.zeros(len(rows), 1, dtype=torch.float64)
        for n in lengths.unique().tolist() if draws.cells is not None else []:
            some = (lengths == n).nonzero()[:, 0]
            of = examples[some]
            at = of if self.keys is None else self.keys[of]
            keys, numbers = draws.keys[rows[some]], draws.numbers[rows[some]]
            v = Purpose.TERM_NOISE.uniform(self.seed, at, keys, numbers, (n,), device=self.device)
            columns[some, 0] = self._along(self.model.of_length(n), of, n, v).cpu()
        return self.finite(columns, examples, "diffusion")

    def _along(self, model: TokenModel, examples: Tensor, n: int, v: Tensor) -> Tensor:
        """Costs (b,) of `examples` of n places, revealed in the order of v (b, n)."""
        x, scored = (part[:, :n] for part in self.rows(examples))
        condition, nats = self.condition_of(examples), torch.zeros(len(x), dtype=torch.float64, device=self.device)
        assert isinstance(model.kernel, Absorbing)  # as `of` has checked
        for step in reveals(model, v, scored):
            rows = step.places.nonzero()[:, 0]
            if not len(rows):
                continue
            if step.by_prior:
                log_p = prior_law(model).log().to(self.device).expand(len(rows), -1)
            else:
                z = x.masked_fill(step.hidden, model.kernel.mask)
                with torch.no_grad():
                    log_p = model.law_at(z, step.hidden, step.at, step.places, condition)
            nats.index_add_(0, rows, surprise(log_p, x[step.places]))
        return nats

    def scores(self, orders: int, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """The bound of every sequence (N,) by so many orders, and its Monte Carlo variance (N,)."""
        assert self.lengths is not None  # as `of` makes it
        by_length, noise = self.lengths.argsort(stable=True), Purpose.CONTRAST_NOISE
        level = torch.full((self.examples,), noise.value.levels[1])
        values = torch.empty(orders, self.examples, dtype=torch.float64)
        for d in range(orders):
            numbers = torch.full((self.examples,), noise.draw + d)
            draws = Draws(torch.arange(self.examples), level, numbers, torch.zeros_like(level))
            for rows in by_length.split(batch or _AT_ONCE):
                values[d, rows] = self.columns(draws, None, rows)[:, 0]
        return values.mean(0), values.var(0) / orders

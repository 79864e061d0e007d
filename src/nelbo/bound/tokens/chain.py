"""What the chains over symbols share as a `Problem`: a model, sequences, the places that are scored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.bound.tokens.controls import TokenControls, expected_errors, features
from nelbo.errors import NumericalError
from nelbo.model.examples import Examples
from nelbo.model.tokens.domain import scored_places
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.ngrams import NGrams
from nelbo.process.tokens.kernel import Kernel
from nelbo.process.tokens.levels import TokenLevels
from nelbo.typing import Condition
from nelbo.workers import Workers

SLICES = 256
"""Cells of a continuous chain, and of one over counts of sequences of unequal length."""
CORPUS = 8192
"""Most sequences of a corpus that are counted: tables are of a bounded size."""
_CPU = torch.device("cpu")


def logsnr(noise: float, places: int) -> float:
    """log (1 − noise)/noise of a share of noise, for reports: finite at the ends, where half a place is left."""
    noise = min(max(noise, 0.5 / places), 1 - 0.5 / places)
    return math.log((1 - noise) / noise) if 0 < noise < 1 else 0.0


@dataclass(frozen=True, eq=False)
class TokenChain(Problem):
    """A model on its grid, checked sequences data (N, L) int64, and the places scored (N, L), at least one a row.

    condition: keywords of the network, one row an example. device: where the network computes. corpus: other sequences
    of the kind, of any length, in which n-grams are counted; the data themselves where None.
    """

    model: TokenModel
    data: Tensor
    scored: Tensor
    condition: Condition = field(default_factory=dict)
    seed: int = 0
    device: torch.device = _CPU
    corpus: Examples | None = None

    @property
    def examples(self) -> int:
        """N."""
        return len(self.data)

    @cached_property
    def number(self) -> Tensor:
        """Scored places of every sequence, (N,)."""
        return self.scored.sum(1)

    @property
    def dimensions(self) -> int:
        """Scored places of a sequence, on average and rounded."""
        return max(1, round(float(self.number.double().mean())))

    @cached_property
    def ragged(self) -> bool:
        """Whether sequences have unequal numbers of scored places."""
        return bool((self.number != self.number[0]).any())

    @cached_property
    def _chain(self) -> tuple[TokenLevels, Kernel]:
        return self.model.levels()

    @property
    def levels(self) -> TokenLevels:
        """The levels of a chain over times."""
        return self._chain[0]

    @property
    def kernel(self) -> Kernel:
        """The kernel of its steps."""
        return self._chain[1]

    @property
    def alike(self) -> bool:
        """Noise of symbols has finitely many values."""
        return self.cell_cost + self.first_cost > 0

    def rows(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """x and the scored places of `examples` (b,), on the device."""
        return self.data[examples].to(self.device), self.scored[examples].to(self.device)

    def condition_of(self, examples: Tensor) -> Condition:
        """The network's keywords for `examples` (b,), on the device."""
        return {name: rows[examples].to(self.device) for name, rows in self.condition.items()}

    def prior(self, examples: Tensor) -> Tensor:
        """KL(q(z_T | x) ‖ p(z_T)), (n,) float64 on the CPU."""
        x, scored = self.data[examples], self.scored[examples]
        if self.model.counted:
            return torch.zeros(len(examples), dtype=torch.float64)
        last = self.levels[-1:][torch.zeros(len(examples), dtype=torch.long)]
        each = self.model.prior.divergence(x, last, self.kernel, self.model.domain.vocabulary)
        return each.masked_fill(~scored, 0.0).sum(1)

    def fit_controls(self, examples: Tensor, workers: Workers) -> TokenControls:
        """Counts of neighbours in the corpus, or among `examples`: whole numbers, the same on every worker."""
        V = self.model.domain.vocabulary
        if self.corpus is not None:
            rows = self.corpus.first(CORPUS)
            counted = rows.data, scored_places(rows.data, rows.prompt, rows.mask)
            return TokenControls.of(NGrams.fit(*counted, V, own=0), self.data)
        return TokenControls.of(NGrams.fit(self.data[examples], self.scored[examples], V), self.data)

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """Those of `controls.features`, and expected errors at one place: the mean cost given all neighbours."""
        assert isinstance(controls, TokenControls)
        scored = self.scored[examples]
        of_sequence = features(controls.nll(self.data, examples), scored)
        return of_sequence.float(), expected_errors(0.1 + of_sequence[:, 2:3], of_sequence[:, 3]).float()

    def finite(self, columns: Tensor, examples: Tensor, what: str) -> Tensor:
        """`columns` (b, …) on the CPU. Errors: NumericalError where a term is not finite."""
        columns = columns.cpu()
        if not bool(torch.isfinite(columns).all()):
            bad = int(examples[(~torch.isfinite(columns)).any(1).nonzero()[0, 0]])
            raise NumericalError(
                f"the {what} term of sequence {bad} is not finite",
                "the network returned NaN or infinity there, or gives a symbol of it probability 0; check its weights, "
                "its precision, and that no scored place holds a symbol that it never predicts",
            )
        return columns

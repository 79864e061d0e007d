"""What a chain over hidden places learns from its pilot: a fit of the costs of places, the control and features by it.

The pilot's draws are observed place by place (`PlaceFit`). After that, the control of a draw is what its hidden places
are foretold to cost less the expectation of that, and the expected error of a sequence is that expectation along the
chain.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nelbo.bound.problem import Draws
from nelbo.bound.tokens import controls as control_columns
from nelbo.bound.tokens.chain import TokenChain
from nelbo.bound.tokens.controls import TokenControls
from nelbo.bound.tokens.place_fit import FOLDS, POWERS, REGRESSORS, PlaceFit, Sums
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.ngrams import PATTERNS
from nelbo.process.tokens import counts
from nelbo.workers import Workers

FEATURES = 4
"""Those of `controls.features`."""
PLACES = 5
"""Places along the chain at which costs of a sequence are foretold."""
_FALL = 1.0
"""A draw's place counts as its number of hidden places to the power −FALL: the mean of l places has a variance of about
1/l, and fewer draws are made where more places are hidden."""


@dataclass(frozen=True, eq=False)
class ForetoldChain(TokenChain):
    """observations: the costs of places (n, L) that the pilot has seen, −1 of those that were not hidden."""

    observations: list[Tensor] = field(default_factory=list, kw_only=True)

    @abstractmethod
    def edge_at(self, cells: Tensor, inner: Tensor) -> Tensor:
        """The coordinate of the chain's edges at draws, (b,): a count, or a share or rate of hidden places."""

    @abstractmethod
    def weight_of(self, examples: Tensor, cells: Tensor) -> Tensor:
        """How many places the step of a cell reveals, (b,) float64."""

    @property
    @abstractmethod
    def whole(self) -> float:
        """The coordinate where every place is hidden."""

    @property
    def foretold(self) -> bool:
        """By `PlaceFit`."""
        return True

    @property
    def control_columns(self) -> int:
        """What is foretold."""
        return control_columns.COLUMNS

    def control(self, controls: TokenControls, examples: Tensor, hidden: Tensor, share: Tensor) -> Tensor:
        """`controls.column` of draws of `examples` (b,), hidden places (b, L) and shares (b,), on the CPU."""
        assert controls.fit is not None
        scored, offsets = self.scored[examples], controls.tables.offsets
        foretold = controls.fit.foretold(controls.nll(self.data, examples), share)
        likely = self._probabilities(scored, hidden.sum(1), share, offsets)
        return control_columns.column(foretold, counts.patterns(hidden, offsets), scored, hidden, likely)

    def _probabilities(self, scored: Tensor, count: Tensor, share: Tensor, offsets: tuple[int, ...]) -> Tensor:
        """Of patterns around a hidden place, (b, L, 16), by the number of hidden places, or the rate. Where all places
        are scored they are those of the few numbers that there are."""
        law = counts.pattern_probabilities if self.model.counted else counts.independent_probabilities
        by = count if self.model.counted else share
        if not bool(scored.all()):
            return law(scored, by, offsets)
        distinct, of = by.unique(return_inverse=True)
        table = law(scored[:1].expand(len(distinct), -1), distinct, offsets)
        return table.expand(len(scored), -1, -1) if len(table) == 1 else table[of]

    def observed(self, draws: Draws) -> int:
        """The costs of all places, of the pilot's draws along the chain."""
        pilot = draws.cells is not None and bool((draws.numbers >= Purpose.PILOT_NOISE.draw).all())
        return self.data.shape[1] if pilot else 0

    def observe(self, draws: Draws, values: Tensor, columns: Tensor) -> None:
        self.observations[:] = [values]

    def refine(self, controls: object, draws: Draws, columns: Tensor, workers: Workers) -> tuple[object, Tensor]:
        """Fit what places cost to the costs that the draws have shown; of a draw the control is by a fit to other
        sequences. The worker of rank 0 does it, whose numbers all take."""
        assert isinstance(controls, TokenControls) and draws.cells is not None and draws.inner is not None
        tables, (costs,), shape = controls.tables, self.observations, (POWERS, PATTERNS, REGRESSORS)
        found = torch.zeros(0, 1, dtype=torch.float64)
        if workers.rank == 0:
            fold = draws.examples.unique(return_inverse=True)[1] % FOLDS
            sums, hidden = [], costs > -0.5
            share = self._share(draws.cells, draws.inner, hidden.sum(1), self.number[draws.examples])
            weight = share.clamp_min(1 / costs.shape[1]).pow(-_FALL)
            weight = weight * hidden.sum() / (weight * hidden.sum(1)).sum()
            for k in range(FOLDS):
                mine = (fold == k).nonzero()[:, 0]
                nll = controls.nll(self.data, draws.examples[mine])
                pattern = counts.patterns(hidden[mine], tables.offsets)
                sums.append(Sums.of(nll, pattern, hidden[mine], share[mine], costs[mine], weight[mine]))
            for k in range(FOLDS):
                mine = (fold == k).nonzero()[:, 0]
                others = replace(controls, fit=PlaceFit.fit([s for j, s in enumerate(sums) if j != k]))
                control = self.control(others, draws.examples[mine], hidden[mine], share[mine])
                columns[mine, 1] = self.weight_of(draws.examples[mine], draws.cells[mine]) * control
            found = torch.cat([PlaceFit.fit(sums).coefficients.reshape(-1, 1), columns[:, 1:2]])
        found = workers.gather(found)[0][:, 0]
        coefficients = math.prod(shape)
        columns[:, 1] = found[coefficients:]
        return replace(controls, fit=PlaceFit(found[:coefficients].reshape(shape))), columns

    def _share(self, cells: Tensor, inner: Tensor, count: Tensor, number: Tensor) -> Tensor:
        """The share of hidden places of draws, (b,): by their number, or the rate where that is what the draw has."""
        return count / number if self.model.counted else self.edge_at(cells, inner)

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """Those of `controls.features`, and as expected errors what places are foretold to cost at `PLACES` places."""
        assert isinstance(controls, TokenControls)
        if controls.fit is None:
            return super().features(examples, controls)
        if not len(examples):
            return torch.zeros(0, FEATURES), torch.zeros(0, PLACES)
        scored, number = self.scored[examples], self.number[examples]
        nll = controls.nll(self.data, examples)
        none, all_ = (torch.full((len(examples),), share, dtype=torch.float64) for share in (0, 1))
        constant = controls.fit.foretold(nll, none)
        slope = controls.fit.foretold(nll, all_) - constant  # it is linear in the share
        first, last = float(self.cells.start[0]), float(self.cells.stop[-1])
        means = []
        for e in range(PLACES):
            share = math.expm1(first + (last - first) * e / (PLACES - 1)) / self.whole
            count = (share * number).round().long().clamp(min=1)
            at = count / number if self.model.counted else torch.full_like(number, share, dtype=torch.float64)
            likely = self._probabilities(scored, count, at, controls.tables.offsets)
            of_both = [control_columns.expectation(part, scored, likely) for part in (constant, slope)]
            means.append(of_both[0] + at * of_both[1])
        errors = control_columns.expected_errors(torch.stack(means, 1), number)
        return control_columns.features(nll, scored).float(), errors.float()

"""Two Gaussian chains on the same levels as one `Problem`, whose terms are differences at common noise.

    term of a draw = term under A − term under B        at the same example, level and noise

is itself a draw of the difference of both bounds, and costs two networks. It may have either sign; its mean along the
chain may be near 0 where neither model's is, and so it is measured by the mean of both, which is known at every draw.
From that, and the difference, follow the bounds of A and B themselves. The controls and features are those of A's
chain: they know the data and the levels, which both have in common. Where two networks are alike, what the controls
foretell cancels as well; where they differ in scale, a part of it stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import check_finite
from nelbo.bound.problem import Along, Cells, Draws, Problem
from nelbo.workers import Workers


@dataclass(frozen=True, eq=False)
class PairedChain(Problem):
    """The chains of two models over the same examples, with the same levels and seed (`contrast.asked.same_chain`)."""

    a: GaussianChain
    b: GaussianChain
    along: Along = field(default_factory=Along)  # type: ignore[assignment]

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Of the noise that both have in common."""
        return self.a.seed

    @property
    def examples(self) -> int:
        """N."""
        return self.a.examples

    @property
    def dimensions(self) -> int:
        """D."""
        return self.a.dimensions

    @property
    def cells(self) -> Cells:
        """Those of A, which are B's too."""
        return self.a.cells

    @property
    def first_cost(self) -> int:
        """Of both."""
        return self.a.first_cost + self.b.first_cost

    @property
    def cell_cost(self) -> int:
        """Of both."""
        return self.a.cell_cost + self.b.cell_cost

    @property
    def control_columns(self) -> int:
        """As of A."""
        return self.a.control_columns

    @property
    def value_name(self) -> str:
        """What is estimated."""
        return "the difference"

    def prior(self, examples: Tensor) -> Tensor:
        """KL of A less that of B."""
        return self.a.prior(examples) - self.b.prior(examples)

    def position(self, u: float) -> tuple[float, float]:
        """As of A."""
        return self.a.position(u)

    def edge(self, j: int) -> tuple[float, float]:
        """As of A."""
        return self.a.edge(j)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 2 + C): the difference of the terms, the controls, and the mean of the terms."""
        with torch.no_grad():
            noised, columns = self.a.drawn(draws, controls, rows)
            terms = [chain.term(noised, chain.condition_of(noised.examples))[0] for chain in (self.a, self.b)]
        columns[:, 0] = terms[0] - terms[1]
        columns = torch.cat([columns, (terms[0] + terms[1])[:, None].to(columns) / 2], 1)
        check_finite(columns, noised)
        return columns.cpu()

    def observed(self, draws: Draws) -> int:
        """The mean of both terms."""
        return 1

    def observe(self, draws: Draws, values: Tensor, columns: Tensor) -> None:
        self.along.kept.append((draws, columns, values[:, 0]))

    def measure(self, kind: int) -> Tensor | None:
        """The mean of both terms."""
        some = [mean for draws, _, mean in self.along.kept[:2] if (draws.cells is not None) == kind]
        return some[0] if some else None

    def fit_controls(self, examples: Tensor, workers: Workers) -> object:
        """As of A."""
        return self.a.fit_controls(examples, workers)

    def refine(self, controls: object, draws: Draws, columns: Tensor, workers: Workers) -> tuple[object, Tensor]:
        """As of A, by the mean of both terms, which grows with the expected error as the difference need not."""
        own = torch.cat([self.along.kept[-1][2][:, None], columns[:, 1:]], 1)
        return self.a.refine(controls, draws, own, workers)[0], columns

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """As of A."""
        return self.a.features(examples, controls)

"""The problem that an estimator solves: what can be asked of a chain, and nothing of how it is computed.

A bound is, for each of N examples, an exact term plus the means of two random ones: the term of the first level, and
the sum of the terms of M cells along the chain. A chain says how one draw of a random term is made; an estimator
chooses which draws are made and weighs them; a `Runner` makes them, in batches. The noise of a draw depends on
(seed, example, level key, draw number) alone, so that batch size, order and number of workers change nothing.

A kind of chain is a frozen dataclass of `Problem`, such as `gaussian_chain.GaussianChain`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.workers import Workers


@dataclass(frozen=True, eq=False)
class Cells:
    """M cells along a chain, from data to noise, by a coordinate that grows along it: −λ for a Gaussian chain.

    start, stop, place (M,): the edges of each cell, and where its term is evaluated. scale (M,) ≥ 0, nats: a cell's
    term is about its scale times a smooth function of the coordinate, and that function is interpolated between cells.
    continuous: each cell is a slice of a continuous chain, and a draw has a place in it.
    """

    start: Tensor
    stop: Tensor
    place: Tensor
    scale: Tensor
    continuous: bool = False

    def __len__(self) -> int:
        return len(self.scale)

    def at(self, cells: Tensor, inner: Tensor) -> Tensor:
        """The coordinate of draws in `cells` (n,), at the fraction `inner` (n,) of a slice."""
        if self.continuous:
            return self.start[cells] + inner * (self.stop[cells] - self.start[cells])
        return self.place[cells]


@dataclass(frozen=True, eq=False)
class Draws:
    """n draws of one random term, each (n,): the example, and the level key and number that key its noise.

    cells, inner: the cell, 0..M−1, and the place in it, in [0, 1). Draws without cells are of the first level's term.
    signs: ±1, which multiply the noise; a draw and its antithetic one share a key. All 1 where None.
    together: where it is not 0, every `together` draws in a row are of one example and belong to two strands, the even
    ones and the odd ones. The draws of a strand may depend on each other (`Problem.strands`); strands do not.
    """

    examples: Tensor
    keys: Tensor
    numbers: Tensor
    cells: Tensor | None = None
    inner: Tensor | None = None
    signs: Tensor | None = None
    together: int = 0

    @classmethod
    def first_level(cls, examples: Tensor, numbers: Tensor) -> Draws:
        """Draws of the first level's term, whose level key is 0."""
        return cls(examples, torch.zeros_like(examples), numbers)

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, rows: Tensor) -> Draws:
        """The draws `rows`, each by itself."""
        parts = (self.examples, self.keys, self.numbers, self.cells, self.inner, self.signs)
        return Draws(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


@dataclass(eq=False)
class Along:
    """A further term of every draw that an estimate has made so far, in the order of the calls of the runner: where the
    problem's term is a difference A − B, the mean (A + B)/2. kept: draws, columns (n, 1 + C) of the difference in nats,
    and the mean (n,)."""

    kept: list[tuple[Draws, Tensor, Tensor]] = field(default_factory=list)

    def begin(self) -> None:
        """An estimate begins, of which what was drawn before is no part."""
        self.kept.clear()

    def terms(self, part: float, start: int = 0) -> list[Tensor]:
        """Columns (n, 1 + C) of all calls from `start`, whose term is the mean plus `part` of the difference: ½ gives
        A, −½ B, 0 the mean."""
        return [torch.cat([mean[:, None] + part * c[:, :1], c[:, 1:]], 1) for _, c, mean in self.kept[start:]]


class Problem(ABC):
    """A chain over N examples, frozen. Everything here is deterministic in what it is given and in the seed.

    seed: of all noise. along: what is known at every draw besides its term, where that is a difference; else None. A
    subclass defines the abstract members; controls and features are optional.
    """

    seed: int
    along: Along | None = None

    @property
    @abstractmethod
    def examples(self) -> int:
        """N."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Numbers that an example consists of, for units such as bits/dim."""

    @property
    @abstractmethod
    def cells(self) -> Cells:
        """The cells along the chain; none where it has one level."""

    @property
    @abstractmethod
    def first_cost(self) -> int:
        """Network evaluations of one draw of the first level's term. 0 where it needs none, or where there is no such
        term and its draws are zeros."""

    @property
    def cell_cost(self) -> int:
        """Network evaluations of one draw of a cell's term, at least 1; 0 where there are no cells."""
        return int(len(self.cells) > 0)

    @abstractmethod
    def prior(self, examples: Tensor) -> Tensor:
        """The exact term of `examples` (n,), (n,) float64 nats on the CPU."""

    @abstractmethod
    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """The draws `rows` (b,) of `draws`, (b, 1 + C) float64 on the CPU: the term in nats, then C control columns.

        Each control column has mean zero over the noise for every example and cell, and is given in units of the cell's
        scale. controls: what `fit_controls` returned; with None the control columns are zeros. Of draws that are
        observed, the `observed` further columns follow.
        Errors: NumericalError where a term is not finite.
        """

    @abstractmethod
    def position(self, u: float) -> tuple[float, float]:
        """Time and log-SNR at the fraction u ∈ [0, 1] of the cells, counted from the first level; nan where the chain
        has none. For reports."""

    def edge(self, j: int) -> tuple[float, float]:
        """`position` of the edge before cell j, 0..M."""
        return self.position(j / len(self.cells))

    @property
    def signed(self) -> bool:
        """Whether noise has an opposite, which `Draws.signs` ask for."""
        return False

    @property
    def strands(self) -> bool:
        """Whether the draws of a strand (`Draws.together`) depend on each other, each with its own law, so that their
        mean varies less."""
        return False

    @property
    def foretold(self) -> bool:
        """Whether `refine` makes of controls and expected errors what the terms are foretold to be, so that a term is
        about its mean times the example's relative expected error, plus its control."""
        return False

    @property
    def alike(self) -> bool:
        """Whether two draws of a term can be one and the same, as those of a few hidden places can: a few draws that
        agree then do not show that nothing varies."""
        return False

    @property
    def control_columns(self) -> int:
        """C."""
        return 0

    def observed(self, draws: Draws) -> int:
        """Columns of these draws that serve checks and that no estimator sees; they come to `observe`."""
        return 0

    def observe(self, draws: Draws, values: Tensor, columns: Tensor) -> None:  # noqa: B027
        """Take note of the observed columns of `draws`, (n, observed), and of the others (n, 1 + C) in nats, the same
        on every worker; NaN where an interrupt left a draw out."""

    @property
    def value_name(self) -> str | None:
        """What is estimated, in words; None where that is a bound."""
        return None

    def measure(self, kind: int) -> Tensor | None:
        """Of terms of either sign, whose means may be near 0: values (n,) ≥ 0 in nats of about the size of what the
        terms are made of, for the pilot's draws of the first level (kind 0) or of cells (1). None where the terms are
        positive, and measure themselves."""
        return None

    def fit_controls(self, examples: Tensor, workers: Workers) -> object:
        """What `columns` and `features` need besides the draws, from `examples` (n,): the same on every worker, which
        all plan the same draws. None where nothing is needed."""
        return None

    def refine(self, controls: object, draws: Draws, columns: Tensor, workers: Workers) -> tuple[object, Tensor]:
        """What the pilot's `draws` with their columns (n, 1 + C), in nats, teach the controls: better ones, and the
        columns of these draws by them. The same on every worker. By default they learn nothing."""
        return controls, columns

    def follows(self, controls: object) -> bool:
        """Whether the network follows the law that expected errors are of, so that an example's terms may be taken to
        be proportional to its expected errors, far from the pilot's examples as well."""
        return False

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """Closed-form features (n, q) that foretell the terms of `examples` (n,), and expected errors (n, E ≥ 1), about
        proportional to the size of their terms, at E places evenly in the coordinate from the start of the first cell
        to the stop of the last; float32 on the CPU. n may be 0."""
        return torch.zeros(len(examples), 0), torch.ones(len(examples), 1)

    @property
    def steps(self) -> int | None:
        """The number of cells of a chain of finitely many levels; None where it is continuous."""
        return None if self.cells.continuous else len(self.cells)

    def priors(self) -> Tensor:
        """The exact term of every example, (N,)."""
        return torch.cat([self.prior(rows) for rows in torch.arange(self.examples).split(256)])

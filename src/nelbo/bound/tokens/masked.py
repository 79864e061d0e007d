"""The chain over hidden places as a `Problem`: over counts, or over times where the network is told them.

A draw is a set M of hidden places, and its term the weight of a step times the mean cost of a place in M:

    counts         M uniform of size l_k                 l_k − l_{k−1}
    table, times   M around a place at rate u_k          (u_k − u_{k−1}) n        u = 1 − α, n scored places
    continuous     the same, u uniform in a slice        Δ n

(`counts.py` says why.) Sequences of unequal length have a chain over counts each: l = ⌈u n⌉ with u uniform in a slice,
and weight Δ n. Where all places are hidden and nothing else is given, the network sees the same input for every
sequence: that one evaluation is shared (`all_hidden`), and the step is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Cells, Draws
from nelbo.bound.tokens import controls as control_columns
from nelbo.bound.tokens import terms
from nelbo.bound.tokens.chain import SLICES, logsnr
from nelbo.bound.tokens.controls import TokenControls
from nelbo.bound.tokens.foretold import ForetoldChain
from nelbo.equation import equation
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import surprise
from nelbo.process.grid import Continuous, Full
from nelbo.process.tokens import counts, streams
from nelbo.process.tokens.kernel import Absorbing
from nelbo.process.tokens.levels import TokenLevels


@dataclass(frozen=True, eq=False)
class MaskedChain(ForetoldChain):
    """See the module. all_hidden: log p (1, L, V) where every place is hidden, if that is shared."""

    all_hidden: Tensor | None = None

    @property
    def mask(self) -> int:
        """The symbol of a hidden place."""
        assert isinstance(self.model.kernel, Absorbing)
        return self.model.kernel.mask

    @property
    def by_length(self) -> bool:
        """Whether every sequence has its own counts, one for each of its scored places."""
        return self.model.counted and self.ragged and isinstance(self.model.grid, Full)

    @cached_property
    def counts(self) -> Tensor:
        """Counts l_0 = 0 < l_1 < … < l_K of every sequence, (N, K + 1), or (1, K + 1) where all have the same."""
        distinct, of = (self.number if self.ragged else self.number[:1]).unique(return_inverse=True)
        return torch.tensor([[0, *self.model.counts(int(n))] for n in distinct])[of]

    @cached_property
    def rates(self) -> Tensor:
        """Mask rates u_0 = 0 < u_1 < … < u_K of a chain over times; the two ends of a continuous one."""
        noise = self.levels.noise
        return noise if isinstance(self.model.grid, Continuous) else torch.cat([torch.zeros(1).double(), noise])

    @property
    def ends_hidden(self) -> bool:
        """Whether the last step starts from every scored place hidden, whatever was drawn."""
        if self.model.counted:
            return not self.by_length
        return not isinstance(self.model.grid, Continuous) and float(self.rates[-1]) == 1

    @cached_property
    def shareable(self) -> bool:
        """Whether that step's input is the same for every sequence."""
        given = self.data.masked_fill(self.scored, -1)
        return self.ends_hidden and not self.condition and bool((given == given[:1]).all())

    @cached_property
    def edges(self) -> Tensor:
        """Edges of all cells by the coordinate: counts, places by share, or mask rates; (M + 1,)."""
        if self.by_length:
            return torch.linspace(0, 1, SLICES + 1, dtype=torch.float64)
        if self.model.counted:
            edges = self.counts[0].double() if not self.ragged else self.counts.double().mean(0)
            return edges
        if isinstance(self.model.grid, Continuous):
            first, last = self.rates.tolist()
            return torch.linspace(first, last, SLICES + 1, dtype=torch.float64)
        return self.rates

    @cached_property
    def cells(self) -> Cells:
        """A cell a step, or a slice; without the step that is exact."""
        continuous = self.by_length or (not self.model.counted and isinstance(self.model.grid, Continuous))
        edges = self.edges if self.all_hidden is None else self.edges[:-1]
        place = (edges[:-1] + edges[1:]) / 2 if continuous else edges[1:]
        # with few hidden places the errors of a draw change fast, so that a logarithm serves interpolation
        along = edges.log1p()
        return Cells(along[:-1], along[1:], place.log1p(), edges.diff(), continuous)

    @property
    def first_cost(self) -> int:
        """1 where a continuous chain begins with some noise, whose hidden places are decoded at once."""
        return int(not self.model.counted and isinstance(self.model.grid, Continuous) and float(self.rates[0]) > 0)

    @property
    def whole(self) -> float:
        """The number of places, or 1."""
        return float(self.edges[-1]) if self.model.counted else 1.0

    def position(self, u: float) -> tuple[float, float]:
        """Time, of a chain over counts the share of hidden places, and log-SNR log α/(1 − α), at a fraction of the
        cells."""
        edges, place = self.edges, u * len(self.cells)
        before = min(int(place), len(edges) - 2)
        return self._at_rate(float(edges[before] + (place - before) * (edges[before + 1] - edges[before])))

    def position_of_edge(self, k: int) -> tuple[float, float]:
        """The same at an edge of the chain with all its steps."""
        return self._at_rate(float(self.edges[k]))

    def _at_rate(self, rate: float) -> tuple[float, float]:
        if self.model.counted:
            rate = rate / float(self.edges[-1])
            t = rate
        else:
            assert self.model.schedule is not None  # a chain over times has one
            t = float(self.model.schedule.time_of(torch.tensor(rate, dtype=torch.float64)))
        return t, logsnr(rate, self.dimensions)

    def prior(self, examples: Tensor) -> Tensor:
        """Also the step from all places hidden, where it is exact; `last_step` says its part."""
        return super().prior(examples) + self.last_step(examples)

    def last_step(self, examples: Tensor) -> Tensor:
        """The cost (n,) of the step from all places hidden; 0 where it is none of the exact ones."""
        if self.all_hidden is None:
            return torch.zeros(len(examples), dtype=torch.float64)
        x, scored = self.data[examples], self.scored[examples]
        each = surprise(self.all_hidden.expand(len(x), -1, -1), x)
        weight = self.weight_of(examples, torch.full_like(examples, len(self.edges) - 2))
        return terms.revealed(self.model, each, scored, scored, weight)

    def ask_all_hidden(self) -> Tensor:
        """The network's answer where every place is hidden, (1, L, V) on the CPU; one evaluation."""
        row = torch.zeros(1, dtype=torch.long)
        x, scored = self.rows(row)
        with torch.no_grad():
            at = None if self.model.counted else self.levels[-1:].to(self.device)
            return self.model.predict(x.masked_fill(scored, self.mask), scored, at).cpu()

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 2): the term and the control, which is weighted as the term is. Of observed draws the cost of every place
        follows, (b, L), −1 where it is not hidden."""
        watched = self.observed(draws)
        columns = torch.zeros(len(rows), 1 + control_columns.COLUMNS + watched, dtype=torch.float64)
        if draws.cells is None and not self.first_cost:
            return columns  # there is no such term
        examples = draws.examples[rows]
        x, scored = self.rows(examples)
        masked, weight, share, at = self.drawn(draws, rows)
        z = x.masked_fill(masked, self.mask)
        with torch.no_grad():
            on_device = None if at is None else at.to(self.device)
            needed = masked if self.model.reverse.carry_over else scored
            each = self.model.costs(x, z, masked, on_device, self.condition_of(examples), needed)
            weights = weight.to(self.device)
            passes = weights if self.by_length else 1.0
            cost = terms.revealed(self.model, each, masked, scored, weights, passes)
        columns[:, 0] = cost.cpu()
        if draws.cells is not None and isinstance(controls, TokenControls) and controls.fit is not None:
            unit = weight / self.cells.scale[draws.cells[rows]]
            columns[:, 1] = unit * self.control(controls, examples, masked.cpu(), share)
        if watched:
            columns[:, -watched:] = torch.where(masked, each, -1.0).cpu()
        return self.finite(columns, examples, "diffusion" if draws.cells is not None else "reconstruction")

    def edge_at(self, cells: Tensor, inner: Tensor) -> Tensor:
        """The coordinate of the edges at draws, (b,)."""
        if not self.cells.continuous:
            return self.edges[cells + 1]
        return self.edges[cells] + inner.double() * (self.edges[cells + 1] - self.edges[cells])

    @property
    def strands(self) -> bool:
        """The sets of a strand are pieces of a stream of permutations."""
        return True

    @equation("token-first-level")
    def drawn(self, draws: Draws, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, TokenLevels | None]:
        """Hidden places (b, L) on the device, the weight of the step (b,), the share of places that are hidden or the
        rate (b,), and its levels."""
        examples = draws.examples[rows]
        masked = self._sets(draws, rows)[1] if not draws.together else self._of_streams(draws, rows)
        cells = None if draws.cells is None else draws.cells[rows]
        if cells is None or draws.inner is None:
            rate, weight = self.rates[:1].expand(len(rows)), self.rates[0] * self.number[examples]
        else:
            rate, weight = self.edge_at(cells, draws.inner[rows]), self.weight_of(examples, cells)
        if self.model.counted:
            return masked, weight, masked.sum(1).cpu() / self.number[examples], None
        if isinstance(self.model.grid, Continuous):
            assert self.model.schedule is not None  # a chain over times has one
            return masked, weight, rate, self.model.schedule.at(self.model.schedule.time_of(rate))
        assert cells is not None
        return masked, weight, rate, self.levels[cells]

    def _sets(self, draws: Draws, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform numbers (b, L) and hidden places (b, L) of draws, each by itself, on the device."""
        examples, L = draws.examples[rows], self.data.shape[1]
        scored, number = self.scored[examples].to(self.device), self.number[examples]
        keys, numbers = draws.keys[rows], draws.numbers[rows]
        v = Purpose.TERM_NOISE.uniform(self.seed, examples, keys, numbers, (L + 1,), device=self.device)
        if draws.cells is None or draws.inner is None:
            rate = self.rates[:1].expand(len(rows))
        else:
            cells = draws.cells[rows]
            rate = self.edge_at(cells, draws.inner[rows])
            if self.model.counted:
                if self.by_length:
                    count = torch.ceil(rate * number).long().clamp(min=1)
                else:
                    count = self.counts.expand(self.examples, -1)[examples, cells + 1]
                return v[:, :L], counts.subset(v[:, :L], scored, count.to(self.device))
        return v[:, :L], counts.around_a_place(v[:, :L], v[:, L], scored, rate.to(self.device))

    def _of_streams(self, draws: Draws, rows: Tensor) -> Tensor:
        """Hidden places (b, L) of draws in strands: as many as of each by itself, from the stream of its strand."""
        strand = rows // draws.together * 2 + rows % 2
        distinct, of = strand.unique(return_inverse=True)
        every = distinct[:, None] // 2 * draws.together + distinct[:, None] % 2 + 2 * torch.arange(draws.together // 2)
        v, alone = self._sets(draws, every.flatten())
        shape = every.shape
        scored = self.scored[draws.examples[every[:, 0]]].to(self.device)
        sets = streams.subsets(v.reshape(*shape, -1), scored, alone.sum(1).reshape(shape))
        return sets[of.to(self.device), (rows % draws.together // 2).to(self.device)]

    @equation("token-posterior-masked", "token-bound-steps", "token-bound-continuous")
    def weight_of(self, examples: Tensor, cells: Tensor) -> Tensor:
        """How many places the step of a cell reveals, (b,) float64."""
        if self.model.counted and not self.by_length:
            each = self.counts.diff(dim=1).double().expand(self.examples, -1)
            return each[examples, cells]
        return self.edges.diff()[cells] * self.number[examples]

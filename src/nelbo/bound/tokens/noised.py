"""The chain of a kernel without a mask as a `Problem`: steps between levels, or slices of the continuous bound.

    finite       cell j: KL between levels j and j + 1; at the first level −log p(x | z_1)
    continuous   cell j: u = 1 − α uniform in a slice of width Δ, Δ/α times the rate's cost (dτ = du/α)

The one control is the number of places that have changed less its expectation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.problem import Cells, Draws
from nelbo.bound.tokens import terms
from nelbo.bound.tokens.chain import SLICES, TokenChain, logsnr
from nelbo.maths.keys import Purpose
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Continuous
from nelbo.process.tokens.kernel import Kernel, Steps
from nelbo.process.tokens.levels import TokenLevels


@dataclass(frozen=True, eq=False)
class NoisedDraws:
    """Of b draws x, scored and z (B, L), the levels s and t of their steps (b,), and of slices of a continuous chain
    the length (b,), None of steps."""

    x: Tensor
    scored: Tensor
    z: Tensor
    s: TokenLevels
    t: TokenLevels
    width: Tensor | None

    def to(self, device: torch.device | str) -> NoisedDraws:
        """The same on a device."""
        return NoisedDraws(*(None if v is None else v.to(device) for v in vars(self).values()))  # type: ignore[arg-type]

    def cost(self, model: TokenModel, kernel: Kernel, log_p: Tensor) -> Tensor:
        """The terms (b,) of what `TokenModel.predict` said of z, log_p (b, L, V)."""
        if self.width is None:
            return terms.step(model, kernel, log_p, self.x, self.z, self.s, self.t, self.scored)
        return self.width * terms.rate(model, kernel, log_p, self.x, self.z, self.t, self.scored)


@dataclass(frozen=True, eq=False)
class NoisedChain(TokenChain):
    """See the module."""

    @cached_property
    def edges(self) -> Tensor:
        """1 − α of the levels, or the time of a table of steps; of a continuous chain the edges of its slices."""
        at = self.levels.t if isinstance(self.kernel, Steps) else self.levels.noise
        if isinstance(self.model.grid, Continuous):
            first, last = at.tolist()
            return torch.linspace(first, last, SLICES + 1, dtype=torch.float64)
        return at

    @cached_property
    def cells(self) -> Cells:
        """A cell a step, or a slice."""
        start, stop = self.edges[:-1], self.edges[1:]
        continuous = isinstance(self.model.grid, Continuous)
        place = (start + stop) / 2 if continuous else stop
        return Cells(start, stop, place, stop - start, continuous)

    @property
    def first_cost(self) -> int:
        """1: the network decodes the first level."""
        return 1

    @property
    def control_columns(self) -> int:
        """The number of changed places."""
        return 1

    def position(self, u: float) -> tuple[float, float]:
        """Time and log α/(1 − α) at a fraction of the cells."""
        place = u * (len(self.edges) - 1)
        before = min(int(place), max(0, len(self.edges) - 2))
        after = min(before + 1, len(self.edges) - 1)
        value = float(self.edges[before] + (place - before) * (self.edges[after] - self.edges[before]))
        if isinstance(self.kernel, Steps) or self.model.schedule is None:
            return value, math.nan
        t = float(self.model.schedule.time_of(torch.tensor(value, dtype=torch.float64)))
        return t, logsnr(value, self.dimensions)

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 2): the term and the control."""
        examples, V = draws.examples[rows], self.model.domain.vocabulary
        drawn = self.drawn(draws, rows)
        x, scored, z, t = drawn.x, drawn.scored, drawn.z, drawn.t
        with torch.no_grad():
            log_p = self.model.predict(z, torch.zeros_like(scored), t, self.condition_of(examples))
            cost = drawn.cost(self.model, self.kernel, log_p)
        columns = torch.zeros(len(rows), 2, dtype=torch.float64)
        columns[:, 0] = cost.cpu()
        if controls is not None:
            stays = self.kernel.likelihood(x, t, V).gather(-1, x[..., None])[..., 0]
            changed = ((z != x).double() - (1 - stays)).masked_fill(~scored, 0.0)
            columns[:, 1] = changed.sum(1).cpu()
        return self.finite(columns, examples, "diffusion" if draws.cells is not None else "reconstruction")

    def drawn(self, draws: Draws, rows: Tensor) -> NoisedDraws:
        """The sequences and levels of the draws `rows` (b,), with their noise, on the device."""
        examples, V = draws.examples[rows], self.model.domain.vocabulary
        x, scored = self.rows(examples)
        s, t, width = self._levels_of(draws, rows)
        keys, numbers = draws.keys[rows], draws.numbers[rows]
        u = Purpose.TERM_NOISE.uniform(self.seed, examples, keys, numbers, (x.shape[1], 2), device=self.device)
        return NoisedDraws(x, scored, torch.where(scored, self.kernel.noised(x, t, u, V), x), s, t, width)

    def _levels_of(self, draws: Draws, rows: Tensor) -> tuple[TokenLevels, TokenLevels, Tensor | None]:
        """The levels s and t of a step (b,) on the device, and the length Δ/α of a slice; None where it is a step."""
        n = len(rows)
        if draws.cells is None:
            first = self.levels[torch.zeros(n, dtype=torch.long)].to(self.device)
            return TokenLevels.clean(n, self.device), first, None
        cells = draws.cells[rows]
        if not isinstance(self.model.grid, Continuous):
            return self.levels[cells].to(self.device), self.levels[cells + 1].to(self.device), None
        assert draws.inner is not None and self.model.schedule is not None  # a law, and a place in every slice
        noise = self.cells.at(cells, draws.inner[rows].double())
        t = self.model.schedule.at(self.model.schedule.time_of(noise)).to(self.device)
        return t, t, self.cells.scale[cells].to(self.device) / t.alpha

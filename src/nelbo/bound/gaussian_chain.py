"""The Gaussian chain as a `Problem`, with the cells of `gaussian_cells.py`.

The controls are those of a Gaussian surrogate of the data (`surrogate.py`), which the network's predictions may teach
(`taught_surrogate.py`): its excess, and ‖ε‖² − D; of images also the excess of a surrogate of each of them
(`local_surrogate.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound import features, readings, taught_surrogate, terms
from nelbo.bound.gaussian_cells import cells_of
from nelbo.bound.gaussian_controls import Controls, shared
from nelbo.bound.local_surrogate import is_image
from nelbo.bound.noised import Noised, check_finite
from nelbo.bound.problem import Cells, Draws, Problem
from nelbo.bound.readings import Observations
from nelbo.maths import tiles
from nelbo.maths.keys import Purpose
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition
from nelbo.workers import Workers

_CPU = torch.device("cpu")
FEW = 264
"""Draws of a whole chain that are observed as those of a pilot are, which does not take fewer."""
_AT_ONCE = 16
"""Examples read at once from a mapped file, of which every row may make a megabyte resident."""


@dataclass(frozen=True, eq=False)
class GaussianChain(Problem):
    """A model on its grid, and checked data (N, *shape): codes of any integer type, or real values.

    condition: keywords of the network, one row an example. device: where the network computes. dtype: of the control
    columns. mapped: the data lie in a mapped file, of which as little as possible is to be in memory at once; release
    gives back the memory of rows that were read. observations: what the pilot has seen of the network's output;
    predictions: and of what it predicts.
    """

    model: DiffusionModel
    data: Tensor
    condition: Condition = field(default_factory=dict)
    seed: int = 0
    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32
    mapped: bool = False
    release: Callable[[], None] = lambda: None
    observations: Observations = field(default_factory=Observations)
    predictions: list[Tensor] = field(default_factory=list)

    @cached_property
    def levels(self) -> Levels:
        """The levels of the chain, on the device; its two ends where the grid is continuous."""
        return self.model.levels().to(device=self.device)

    @cached_property
    def cells(self) -> Cells:
        """See the module."""
        return cells_of(self.model)

    @property
    def examples(self) -> int:
        """N."""
        return len(self.data)

    @property
    def dimensions(self) -> int:
        """D."""
        return self.model.domain.dimensions

    @property
    def first_cost(self) -> int:
        """1 where the decoder calls the network."""
        return int(self.model.decoder.calls_network)

    @property
    def signed(self) -> bool:
        """ε and −ε."""
        return True

    @property
    def control_columns(self) -> int:
        """The surrogate's excess, ‖ε‖² − D, and of images the local surrogate's excess."""
        return 2 + is_image(self.model.domain.shape)

    def data_of(self, examples: Tensor) -> Tensor:
        """`examples` (n,) as the data hold them, on the device; a few at a time from a mapped file."""
        parts = []
        for some in examples.split(_AT_ONCE if self.mapped else max(1, len(examples))):
            parts.append(self.data[some])
            self.release()
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(self.device)

    def values(self, examples: Tensor) -> Tensor:
        """x of `examples` (n,), float64, (n, *shape), on the device."""
        return self.model.domain.values(self.data_of(examples))

    def condition_of(self, examples: Tensor) -> Condition:
        """The network's keywords for `examples` (n,), on the device."""
        return {name: rows[examples].to(self.device) for name, rows in self.condition.items()}

    def prior(self, examples: Tensor) -> Tensor:
        """KL(q(z_L | x) ‖ p(z_L)), (n,) float64 on the CPU."""
        return terms.prior(self.model, self.values(examples), self.levels[-1:]).cpu()

    def position(self, u: float) -> tuple[float, float]:
        """Time and log-SNR at the fraction u of the cells, interpolated between levels."""
        if self.cells.continuous:
            first, last = -self.cells.start[0], -self.cells.stop[-1]
            logsnr = first + u * (last - first)
            return float(self.model.schedule.time_of(logsnr)), float(logsnr)
        levels = self.levels.to(device="cpu")
        place = u * (len(levels) - 1)
        before = min(int(place), len(levels) - 2)
        part = place - before
        t, logsnr = (float(v[before] + part * (v[before + 1] - v[before])) for v in (levels.t, levels.logsnr))
        return t, logsnr

    def edge(self, j: int) -> tuple[float, float]:
        """Time and log-SNR of the edge before cell j: in a finite chain, of level j + 1."""
        if self.cells.continuous:
            return self.position(j / len(self.cells))
        return float(self.levels.t[j]), float(self.levels.logsnr[j])

    def columns(self, draws: Draws, controls: object, rows: Tensor) -> Tensor:
        """(b, 1 + C): the term and its controls."""
        with torch.no_grad():
            noised, columns = self.drawn(draws, controls, rows)
            columns[:, 0], prediction = self.term(noised, self.condition_of(noised.examples))
        check_finite(columns, noised)
        if self.observed(draws):
            columns = torch.cat([columns, *self._seen(draws, noised, prediction, controls)], 1)
        return columns.cpu()

    def drawn(self, draws: Draws, controls: object, rows: Tensor) -> tuple[Noised, Tensor]:
        """The draws `rows` (b,) of `draws` up to where the network is asked, which is done in `tiles`; and columns
        (b, 1 + C) on the device: zeros, then the controls."""
        columns = torch.zeros(len(rows), 1 + self.control_columns, dtype=torch.float64, device=self.device)

        def control(part: slice, x: Tensor, eps: Tensor, at: Levels) -> None:
            if controls is not None:
                columns[part, 1:] = self.controls_of(draws.examples[rows[part]], x, eps, at, controls)

        return self.noised(draws, rows, control), columns

    def controls_of(self, examples: Tensor, x: Tensor, eps: Tensor, at: Levels, controls: object) -> Tensor:
        """The control columns of draws of `examples` (b,) with values x and noise ε (b, *shape)."""
        assert isinstance(controls, Controls)
        distinct, of = self._distinct(examples, x)
        return controls.columns(distinct, eps, at.logsnr, of)

    def noised(
        self, draws: Draws, rows: Tensor, each: Callable[[slice, Tensor, Tensor, Levels], None] | None = None
    ) -> Noised:
        """The draws `rows` (b,) of `draws` up to where the network is asked. each: called with a part of the rows at a
        time, its x, ε and levels."""
        examples, model = draws.examples[rows], self.model
        cells, at = self._levels_of(draws, rows)
        eps = self._noise(Purpose.TERM_NOISE, draws, rows)
        x, z = torch.empty_like(eps), torch.empty_like(eps)
        data = self.data_of(examples)
        for part in tiles.tiles(len(rows), self.dimensions, self.device):
            x[part] = model.domain.values(data[part])
            z[part] = forward.noised(x[part], eps[part], at[part])
            if each is not None:
                each(part, x[part], eps[part], at[part])
        return Noised(examples, cells, data, x, z, at)

    def _noise(self, purpose: Purpose, draws: Draws, rows: Tensor) -> Tensor:
        """Normals (b, *shape) of the draws `rows`, keyed by example, level key and draw number."""
        examples, keys, numbers = (part[rows] for part in (draws.examples, draws.keys, draws.numbers))
        eps = purpose.normal(self.seed, examples, keys, numbers, self.model.domain.shape, device=self.device)
        return eps if draws.signs is None else eps.mul_(column(draws.signs[rows].to(eps), eps))

    def term(self, noised: Noised, condition: Condition) -> tuple[Tensor, Prediction | None]:
        """The term of every draw in nats, (b,) on the device, and what the network predicts for it under `condition`;
        None of the first level where its decoder does not ask."""
        model, (_, cells, data, x, z, at) = self.model, noised
        asked = cells is not None or model.decoder.calls_network
        prediction = model.predict(z, at, condition) if asked else None
        if cells is None or prediction is None:
            target = data.long() if model.domain.discrete else x
            return terms.reconstruction(model, target, z, prediction, at), prediction
        if self.cells.continuous:
            slope = -2 * self.cells.scale[cells].to(self.device)
            return terms.diffusion_rate(x, prediction, at, slope), prediction
        return terms.diffusion(model, x, prediction, self.levels[cells.to(self.device)], at), prediction

    def observed(self, draws: Draws) -> int:
        """Of the pilot's draws, where the network's output may be read in several ways, and what its predictions are
        along the chain; the former of all draws of a chain of few."""
        return readings.COLUMNS * self._read(draws) + 2 * self.directions * self._teaching(draws)

    def _read(self, draws: Draws) -> bool:
        if not isinstance(self.model.denoiser, NetworkDenoiser) or (draws.cells is None and not self.first_cost):
            return False
        few = 2 * self.examples * (self.first_cost + (self.steps or FEW)) <= FEW
        return few or bool((draws.numbers >= Purpose.PILOT_NOISE.draw).all())

    def _teaching(self, draws: Draws) -> bool:
        return draws.cells is not None and bool((draws.numbers >= Purpose.PILOT_NOISE.draw).all())

    @property
    def directions(self) -> int:
        """Most directions that predictions are looked at in."""
        return min(taught_surrogate.LEADING, self.dimensions)

    def _seen(self, draws: Draws, noised: Noised, prediction: Prediction | None, controls: object) -> Iterator[Tensor]:
        """The columns of observed draws, (b, …) in all."""
        if self._read(draws):
            yield readings.seen(noised.x, noised.z, prediction)
        if self._teaching(draws):
            columns = torch.zeros(len(noised.x), 2, self.directions, dtype=torch.float64, device=self.device)
            if isinstance(controls, Controls) and prediction is not None:
                projected = taught_surrogate.projections(controls.surrogate, noised.z, prediction.x0, noised.at.alpha)
                columns[..., : taught_surrogate.directions(controls.surrogate)] = projected.unflatten(1, (2, -1))
            yield columns.flatten(1)

    def observe(self, draws: Draws, values: Tensor, columns: Tensor) -> None:
        if self._read(draws):
            self.observations.add(draws, values[:, : readings.COLUMNS])
        if self._teaching(draws):
            self.predictions[:] = [values[:, -2 * self.directions :]]

    def _levels_of(self, draws: Draws, rows: Tensor) -> tuple[Tensor | None, Levels]:
        """The cells of the draws `rows` (b,), None at the first level, and the levels where they are made."""
        if draws.cells is None or draws.inner is None:
            return None, self.levels[:1].expand(len(rows))
        cells = draws.cells[rows]
        if self.cells.continuous:
            logsnr = -self.cells.at(cells, draws.inner[rows].double())
            return cells, self.model.schedule.at(self.model.schedule.time_of(logsnr.to(self.device)))
        return cells, self.levels[cells.to(self.device) + 1]

    def _distinct(self, examples: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The values x (b, …) of `examples` (b,) with one row for those in succession that are the same, and the row
        that each belongs to; None where all differ."""
        unique, of, counts = torch.unique_consecutive(examples, return_inverse=True, return_counts=True)
        if len(unique) == len(of):
            return x, None
        return x[(counts.cumsum(0) - counts).to(self.device)], of.to(self.device)

    def fit_controls(self, examples: Tensor, workers: Workers) -> Controls:
        """The surrogates fitted to `examples` by the worker of rank 0."""
        x = self.values(examples).flatten(1).cpu() if workers.rank == 0 else None
        return Controls.fit(x, self.model.domain.shape, workers, self.device, self.dtype)

    def refine(self, controls: object, draws: Draws, columns: Tensor, workers: Workers) -> tuple[object, Tensor]:
        """A Gaussian taught by the network's predictions (`taught_surrogate.py`), and the share of the local surrogate
        in the expected errors, by the pilot's draws of every example at all nodes."""
        if not isinstance(controls, Controls) or draws.cells is None:
            return controls, columns
        controls, columns = self._taught(controls, draws, columns, workers)
        if controls.local is None:
            return controls, columns
        examples = torch.unique_consecutive(draws.examples)
        nodes = draws.cells[: len(draws) // len(examples)]
        x, logsnr = self.values(examples).float(), -self.cells.place[nodes].to(self.device)
        return controls.weighed(x, logsnr, columns.reshape(len(examples), len(nodes), -1)), columns

    def _taught(self, controls: Controls, draws: Draws, columns: Tensor, workers: Workers) -> tuple[Controls, Tensor]:
        """The worker of rank 0 learns, whose numbers all take; of a draw the control is by what others have taught."""
        assert draws.cells is not None and draws.inner is not None
        laws, own, scale = None, columns[:0, 1:2], self.cells.scale[draws.cells][:, None]
        if not self.predictions:  # of draws that another chain has made
            return controls, columns
        if workers.rank == 0:
            surrogate = controls.surrogate.to(_CPU)
            logsnr = -self.cells.at(draws.cells, draws.inner.double())
            seen = taught_surrogate.Predictions.of(self.predictions[0], surrogate, logsnr, draws.examples)
            laws = taught_surrogate.learn(surrogate, seen)
            if laws is not None:
                own = torch.empty(len(draws), 1, dtype=torch.float64)
                for part, law in enumerate(laws[1:]):
                    rows = (seen.part == part).nonzero()[:, 0]
                    own[rows] = scale[rows] * self.drawn(draws, controls.taught(law), rows)[1][:, 1:2].cpu()
        own = own if workers.size == 1 else workers.gather(own)[0]
        if not len(own):
            return controls, columns
        surrogate = shared(None if laws is None else laws[0], self.dimensions, workers)
        return controls.taught(surrogate), torch.cat([columns[:, :1], own, columns[:, 2:]], 1)

    def follows(self, controls: object) -> bool:
        return isinstance(controls, Controls) and controls.follows

    def features(self, examples: Tensor, controls: object) -> tuple[Tensor, Tensor]:
        """Features (n, q) as of `features.py`, and the surrogate's expected errors (n, PLACES)."""
        assert isinstance(controls, Controls)
        ends = self.levels.logsnr
        return features.of(self.values(examples), self.model.domain, controls, ends[0], ends[-1])

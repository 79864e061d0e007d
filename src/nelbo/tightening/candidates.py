"""Candidate levels of a chain, chains made of them, and the network's predictions at a few of them.

A chain of the tightened model visits a subset of the candidates. Decoders of the first level are fitted and scored at
a few candidates, on the predictions that the network makes there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.maths.keys import Purpose
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.reverse import Clip, Reverse, Variance
from nelbo.process import forward
from nelbo.process.grid import Even, Grid, Subset, Times
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Table
from nelbo.typing import Condition

NODES = 16
"""Candidates at which decoders are tried."""
CANDIDATES = 385
"""Candidates on a law, evenly spaced in log-SNR."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """A model, whose x̂ lies in the range of its codes, and the levels (M,) that its chains are made of.

    positions (M,): of the levels, table indices or unit times of a law.
    """

    model: DiffusionModel
    levels: Levels
    positions: Tensor

    @classmethod
    def of(cls, model: DiffusionModel) -> Candidates:
        """The candidates of a model: those of its table between its own ends, or `CANDIDATES` of its law.

        The ends are the model's own because the network may never have been trained beyond them. Where the data are
        codes and the model does not clip, x̂ is clipped to their range, which never moves it away from the data.
        """
        if model.domain.discrete and model.reverse.clip is None:
            clip = Clip(model.domain.low, model.domain.high)
            model = dataclasses.replace(model, reverse=Reverse(model.reverse.variance, clip))
        if isinstance(model.schedule, Table):
            own = model.levels().index
            assert own is not None
            indices = torch.arange(int(own[0]), int(own[-1]) + 1)
            return cls(model, model.schedule.at_index(indices), indices)
        ends = model.levels().t
        first, last = model.schedule.logsnr(ends[[0, -1]])
        times = model.schedule.time_of(torch.linspace(float(first), float(last), CANDIDATES, dtype=torch.float64))
        times = times.clamp(float(ends[0]), float(ends[-1]))
        times[0], times[-1] = ends[0], ends[-1]
        return cls(model, model.schedule.at(times), times)

    @property
    def on_table(self) -> bool:
        """Whether positions are indices of a table, and not unit times."""
        return isinstance(self.model.schedule, Table)

    @property
    def max_steps(self) -> int:
        """Steps of the longest chain with the model's own decoder."""
        return len(self.levels) - 1 + int(self.model.decoder.calls_network)

    def nodes(self, count: int = NODES) -> Tensor:
        """Indices of at most `count` candidates, both ends among them, roughly even in log-SNR but denser near the
        data."""
        share = torch.linspace(0, 1, count, dtype=torch.float64) ** 1.25
        logsnr = self.levels.logsnr[0] + share * (self.levels.logsnr[-1] - self.levels.logsnr[0])
        return (self.levels.logsnr[:, None] - logsnr).abs().argmin(0).unique()

    def with_parts(self, grid: Grid, policy: Variance, decoder: Decoder | None = None) -> DiffusionModel:
        """The model with another grid and variance policy, and with another decoder where one is given."""
        reverse = Reverse(policy, self.model.reverse.clip)
        return dataclasses.replace(self.model, grid=grid, reverse=reverse, decoder=decoder or self.model.decoder)

    def grid(self, chain: list[int]) -> Grid:
        """The grid that visits the candidates of the rising indices `chain`."""
        positions = self.positions[torch.tensor(chain)].tolist()
        return Subset(tuple(positions)) if self.on_table else Times(tuple(positions))

    def even(self, steps: int) -> Grid:
        """The even grid of `steps` evaluations with the model's own decoder, between its own ends."""
        first, last = (v.item() for v in self.positions[[0, -1]])
        count = steps + 1 - int(self.model.decoder.calls_network)
        if not self.on_table:
            times = torch.linspace(first, last, count, dtype=torch.float64) if count > 1 else torch.tensor([last])
            return Times(tuple(times.tolist()))
        if int(last) == len(self.model.schedule.table) - 1:  # type: ignore[attr-defined]
            return Even(steps, int(first))
        return Subset(tuple(torch.linspace(first, last, count).round().long().tolist()))


@dataclass(frozen=True, eq=False)
class LevelSample:
    """Some examples at one level: their codes or values `data`, x, a draw z and the network's prediction there."""

    level: Levels
    data: Tensor
    x: Tensor
    z: Tensor
    prediction: Prediction

    def rows(self, indices: slice) -> LevelSample:
        """The sample of the examples at `indices`."""
        data, x, z = (v[indices] for v in (self.data, self.x, self.z))
        return LevelSample(self.level, data, x, z, self.prediction.rows(indices))


@dataclass(frozen=True, eq=False)
class NodePredictions:
    """x̂ (n, N, *shape) of data (N, *shape) at n `levels`, the candidates `indices`.

    The first `fitted` examples are for fitting, the others for scoring. own (n, N): −log p(x | z) under the model's own
    decoder in nats where that decoder calls the network, else None.
    """

    model: DiffusionModel
    data: Tensor
    fitted: int
    levels: Levels
    indices: Tensor
    x0: Tensor
    own: Tensor | None
    seed: int

    @property
    def values(self) -> Tensor:
        """x of every example, float64."""
        return self.model.domain.values(self.data)

    def at(self, node: int, rows: slice = slice(None)) -> LevelSample:
        """The sample of the examples `rows` at a node, in float64."""
        data = self.data[rows]
        x = self.model.domain.values(data)
        level = self.levels[node : node + 1]
        z = _noisy(self.model, self.seed, torch.arange(len(self.data))[rows], x, node, level.expand(len(x)))
        return LevelSample(level, data, x, z, Prediction(self.x0[node][rows].double()))


def predict_at(
    candidates: Candidates,
    indices: Tensor,
    data: Tensor,
    fitted: int,
    *,
    condition: Condition,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    advance: Callable[[int], None] = lambda evaluations: None,
) -> NodePredictions:
    """x̂ of `data` (N, *shape) at the candidates `indices`: one network evaluation for each example and level.

    device: where the network computes (the CPU where None); what is returned is on the CPU.
    """
    model = candidates.model.in_precision(torch.float32, device or "cpu")
    levels = candidates.levels[indices]
    own = torch.zeros(len(levels), len(data)).double() if model.decoder.calls_network else None
    x0 = torch.zeros(len(levels), len(data), *model.domain.shape)
    with model.denoiser.inference(), torch.no_grad():
        for node in range(len(levels)):
            for rows in torch.arange(len(data)).split(batch_size):
                x = model.domain.values(data[rows])
                t = levels[node : node + 1].expand(len(rows))
                # drawn on the CPU, as `NodePredictions.at` draws it again: the same z on every device
                z = _noisy(model, seed, rows, x, node, t).to(device)
                t = t.to(device=device)
                prediction = model.predict(z, t, {k: v[rows].to(device) for k, v in condition.items()})
                x0[node, rows] = prediction.x0.float().cpu()
                if own is not None:
                    target = data[rows].long() if model.domain.discrete else x
                    own[node, rows] = terms.reconstruction(model, target.to(device), z, prediction, t).cpu()
                advance(len(rows))
    return NodePredictions(model, data, fitted, levels, indices, x0, own, seed)


def interpolated_at(levels: Levels, nodes: Levels, values: Tensor) -> Tensor:
    """`values` (n, k) at the n `nodes`, interpolated linearly in λ at all `levels`, (M, k); constant beyond them."""
    x, at = -nodes.logsnr.numpy(), -levels.logsnr.numpy()
    return torch.from_numpy(np.stack([np.interp(at, x, column) for column in values.numpy().T], 1))


def _noisy(model: DiffusionModel, seed: int, rows: Tensor, x: Tensor, node: int, t: Levels) -> Tensor:
    """z of the examples `rows`, whose values are x, at a node's level t (n,), with keyed noise."""
    return forward.noised(x, Purpose.DECODER_NOISE.normal(seed, rows, node, 0, model.domain.shape), t)

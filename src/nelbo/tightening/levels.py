"""The levels a chain may be made of, and what the network says of some examples at a few of them, for decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.process.schedule import Table

NODES = 16
"""Levels where decoders are tried."""
CANDIDATES = 385
"""Levels from which a chain on a law is chosen, evenly in log-SNR."""
KEY = 1 << 29
"""Level key of the noise at the first node; far from those of an evaluation."""


@dataclass(frozen=True, eq=False)
class Node:
    """What was seen at one level: codes or values, x, z and the network's prediction for the same examples."""

    level: Levels
    data: Tensor
    x: Tensor
    z: Tensor
    prediction: Prediction

    def rows(self, some: slice) -> Node:
        """The same of the examples `some`."""
        return Node(self.level, self.data[some], self.x[some], self.z[some], self.prediction.rows(some))


@dataclass(frozen=True, eq=False)
class Measured:
    """x̂ (nodes, N, *shape) of data (N, *shape) at `levels` (nodes,), candidates number `positions`.

    The first `fitted` examples are for fitting, the others for scoring. own (nodes, N): −log p(x | z) of the model's
    own decoder in nats where it calls the network, else None.
    """

    model: DiffusionModel
    data: Tensor
    fitted: int
    levels: Levels
    positions: Tensor
    x0: Tensor
    own: Tensor | None
    seed: int

    @property
    def values(self) -> Tensor:
        """x of every example, float64."""
        return _values(self.model, self.data)

    def node(self, i: int, some: slice = slice(None)) -> Node:
        """Node i for the examples `some`, in float64."""
        data = self.data[some]
        x = _values(self.model, data)
        level = self.levels[i : i + 1]
        z = forward.noised(
            x, _noise(self.model, self.seed, torch.arange(len(self.data))[some], i), level.expand(len(x))
        )
        return Node(level, data, x, z, Prediction(self.x0[i][some].double()))


def candidates(model: DiffusionModel) -> tuple[Levels, Tensor]:
    """The levels a chain may use, of falling log-SNR, and where they are: table positions, or unit times of a law.

    The model's own ends are the first and the last: what lies beyond them was perhaps never trained.
    """
    if isinstance(model.schedule, Table):
        own = model.levels().index
        assert own is not None
        at = torch.arange(int(own[0]), int(own[-1]) + 1)
        return model.schedule.at_index(at), at
    ends = model.levels().t
    first, last = model.schedule.logsnr(ends[[0, -1]])
    times = model.schedule.time_of(torch.linspace(float(first), float(last), CANDIDATES, dtype=torch.float64))
    times = times.clamp(float(ends[0]), float(ends[-1]))
    times[0], times[-1] = ends[0], ends[-1]
    return model.schedule.at(times), times


def spread(levels: Levels, count: int = NODES) -> Tensor:
    """Positions (≤ count,) among the candidates, near to even in log-SNR, denser towards the data, with both ends."""
    share = torch.linspace(0, 1, count, dtype=torch.float64) ** 1.25
    wanted = levels.logsnr[0] + share * (levels.logsnr[-1] - levels.logsnr[0])
    return (levels.logsnr[:, None] - wanted).abs().argmin(0).unique()


def measure(
    model: DiffusionModel,
    data: Tensor,
    fitted: int,
    levels: Levels,
    positions: Tensor,
    *,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    advance: Callable[[int], None] = lambda evaluations: None,
) -> Measured:
    """x̂ of every example at the candidates `positions`; one evaluation each. The model's own decoder is scored too.

    device: where the model's network computes (the CPU where None); what is returned is on the CPU.
    """
    at = levels[positions]
    own = torch.zeros(len(at), len(data)).double() if model.decoder.calls_network else None
    x0 = torch.zeros(len(at), len(data), *model.domain.shape)
    with model.denoiser.inference(), torch.no_grad():
        for i in range(len(at)):
            for rows in torch.arange(len(data)).split(batch_size):
                x = _values(model, data[rows])
                t = at[i : i + 1].expand(len(rows))
                # made on the CPU, as `Measured.node` makes it: the same to the last bit on every device
                z = forward.noised(x, _noise(model, seed, rows, i), t).to(device)
                t = t.to(device=device)
                prediction = model.predict(z, t, {k: v[rows].to(device) for k, v in (condition or {}).items()})
                x0[i, rows] = prediction.x0.float().cpu()
                if own is not None:
                    target = data[rows].long() if model.domain.discrete else x
                    own[i, rows] = model.decoder.nll(target.to(device), z, t, prediction, model.domain).cpu()
                advance(len(rows))
    return Measured(model, data, fitted, at, positions, x0, own, seed)


def linear(levels: Levels, nodes: Levels, values: Tensor) -> Tensor:
    """`values` (nodes, n) at the nodes as values at all `levels`, (M, n): linear in λ, constant beyond."""
    x, at = -nodes.logsnr.numpy(), -levels.logsnr.numpy()
    return torch.from_numpy(np.stack([np.interp(at, x, column) for column in values.numpy().T], 1))


def _noise(model: DiffusionModel, seed: int, rows: Tensor, node: int) -> Tensor:
    """ε of the examples `rows` at a node, keyed, (n, *shape)."""
    return random.normal(seed, rows, KEY + node, 0, model.domain.shape)


def _values(model: DiffusionModel, data: Tensor) -> Tensor:
    return model.domain.values(data) if model.domain.discrete else data.double()

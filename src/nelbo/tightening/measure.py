"""What a fit looks at: x̂ of every fit example at a few levels of the chain, and the error curve E‖x − x̂‖²/D.

Between the measured levels, which lie evenly in log-SNR, everything is interpolated in λ: the curve and the mean squares
of x − x̂ in single directions by their logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.schedule import Table

NODES = 24
"""Levels that are measured, evenly in log-SNR."""
CANDIDATES = 385
"""Times from which a chain on a law is chosen."""
KEY = 1 << 29
"""Level key of the noise at the first node; far from those of an evaluation."""


@dataclass(frozen=True, eq=False)
class Node:
    """Everything seen at one level: codes or values, x, z and x̂ of the same examples, (n, *shape)."""

    level: Levels
    data: Tensor
    x: Tensor
    z: Tensor
    x0: Tensor


@dataclass(frozen=True, eq=False)
class Measured:
    """x̂ (nodes, N, *shape) of the data (N, *shape) at `levels` (nodes,), and the decoder's own code length there.

    own (nodes, N): −log p(x | z) of the model's own decoder in nats where it calls the network, else None.
    positions: where on the candidates the nodes lie.
    """

    model: DiffusionModel
    data: Tensor
    levels: Levels
    positions: Tensor
    x0: Tensor
    own: Tensor | None
    seed: int
    nfe: int

    def node(self, i: int, some: slice = slice(None)) -> Node:
        """Node i for the examples `some`, in float64."""
        data = self.data[some]
        x = _values(self.model, data)
        rows = torch.arange(len(self.data))[some]
        level = self.levels[i : i + 1]
        z = forward.noised(x, noise(self.model, self.seed, rows, i), level.expand(len(x)))
        return Node(level, data, x, z, self.x0[i][some].double())

    def mean_square(self, some: slice = slice(None)) -> Tensor:
        """(nodes,): E(x − x̂)² an element."""
        x = _values(self.model, self.data[some])
        return torch.stack([(x - x0[some].double()).square().mean() for x0 in self.x0])


def noise(model: DiffusionModel, seed: int, rows: Tensor, node: int) -> Tensor:
    """ε of the examples `rows` at a node, keyed, (n, *shape)."""
    return random.normal(seed, rows, KEY + node, 0, model.domain.shape)


def candidates(model: DiffusionModel) -> tuple[Levels, Tensor]:
    """The levels a chain may use, of falling log-SNR, and where they are: table positions, or unit times of a law.

    The model's own first level is the first: what lies before it was perhaps never trained.
    """
    if isinstance(model.schedule, Table):
        own = model.levels().index
        assert own is not None
        at = torch.arange(int(own[0]), len(model.schedule.table))
        return model.schedule.at_index(at), at
    ends = model.levels().t
    # even in λ and not in t, whatever the schedule's shape; the ends are exact
    first, last = model.schedule.logsnr(ends[[0, -1]])
    logsnr = first + (last - first) * torch.arange(CANDIDATES, dtype=torch.float64) / (CANDIDATES - 1)
    times = model.schedule.time_of(logsnr).clamp(float(ends[0]), float(ends[-1]))
    times[0], times[-1] = ends[0], ends[-1]
    return model.schedule.at(times), times


def nodes(levels: Levels, count: int = NODES) -> Tensor:
    """Positions (≤ count,) among the candidates, nearest to even in log-SNR, with both ends."""
    wanted = torch.linspace(float(levels.logsnr[0]), float(levels.logsnr[-1]), count, dtype=torch.float64)
    return (levels.logsnr[:, None] - wanted).abs().argmin(0).unique()


def measure(
    model: DiffusionModel,
    data: Tensor,
    levels: Levels,
    positions: Tensor,
    *,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda evaluations: None,
) -> Measured:
    """x̂ of every example at the candidates `positions`; one evaluation each. The model's own decoder is scored too."""
    at = levels[positions]
    own = torch.zeros(len(at), len(data)).double() if model.decoder.calls_network else None
    x0 = torch.zeros(len(at), len(data), *model.domain.shape)
    with model.denoiser.inference(), torch.no_grad():
        for i in range(len(at)):
            for rows in torch.arange(len(data)).split(batch_size):
                x = _values(model, data[rows])
                t = at[i : i + 1].expand(len(rows))
                z = forward.noised(x, noise(model, seed, rows, i), t)
                given = {k: v[rows] for k, v in (condition or {}).items()}
                prediction = model.predict(z, t, given)
                x0[i, rows] = prediction.x0.float()
                if own is not None:
                    target = data[rows].long() if model.domain.discrete else x
                    own[i, rows] = model.decoder.nll(target, z, t, prediction, model.domain)
                advance(len(rows))
    return Measured(model, data, at, positions, x0, own, seed, len(at) * len(data))


def between(levels: Levels, nodes: Levels, values: Tensor) -> Tensor:
    """`values` (nodes, …) > 0 at the nodes as values at all candidates, by their logarithm and linear in λ."""
    floor = values[values > 0].min() if bool((values > 0).any()) else torch.tensor(1e-300).double()
    return linear(levels, nodes, values.clamp_min(floor * 1e-3).log()).exp()


def linear(levels: Levels, nodes: Levels, values: Tensor) -> Tensor:
    """`values` (nodes, …) at the nodes as values at all candidates, linear in λ."""
    flat = values.reshape(len(nodes), -1).numpy()
    x, at = -nodes.logsnr.numpy(), -levels.logsnr.numpy()
    found = np.stack([np.interp(at, x, column) for column in flat.T], 1)
    return torch.from_numpy(found).reshape(len(levels), *values.shape[1:])


def halves(count: int) -> Iterator[slice]:
    """Two thirds to fit, and the rest to choose by."""
    cut = max(1, (2 * count) // 3)
    yield slice(0, cut)
    yield slice(cut, count)


def _values(model: DiffusionModel, data: Tensor) -> Tensor:
    return model.domain.values(data) if model.domain.discrete else data.double()

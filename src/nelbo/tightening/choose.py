"""What chains cost under each policy and decoder, on examples that neither was fitted to, and the cheapest of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.maths.units import nats as to_nats
from nelbo.process.levels import Levels
from nelbo.tightening import ends
from nelbo.tightening.ends import DecoderKind
from nelbo.tightening.levels import Measured, linear
from nelbo.tightening.path import Paths, shortest

_HOPELESS = 1.0
"""Bits/dim by which a decoder may lose against the best before it is not looked at any farther from the data."""
_LOSSES = 3
"""How often it may."""


@dataclass(frozen=True, eq=False)
class Sources:
    """R_i of every kind of decoder at all candidates, (M,) nats an example, inf where it was not looked at; whether it
    calls the network."""

    nats: dict[DecoderKind, np.ndarray]
    calls: dict[DecoderKind, bool]

    def least(self, calls: bool) -> np.ndarray:
        """The least of the kinds that do, or do not, call the network."""
        among = [nats for kind, nats in self.nats.items() if self.calls[kind] == calls]
        return np.min(among, axis=0) if among else np.full(len(next(iter(self.nats.values()))), np.inf)

    def kind(self, i: int, calls: bool) -> DecoderKind:
        """The cheapest kind at candidate i."""
        among = {kind: nats[i] for kind, nats in self.nats.items() if self.calls[kind] == calls}
        return min(among, key=among.__getitem__)

    def fixed(self, kind: DecoderKind) -> Sources:
        """The same for one kind at the first candidate alone."""
        first = np.full(len(self.nats[kind]), np.inf)
        first[0] = self.nats[kind][0]
        return Sources({kind: first}, self.calls)


def paths(edges: np.ndarray, sources: Sources, prior: np.ndarray, most: int) -> Paths:
    """The cheapest chains of up to `most` evaluations."""
    return shortest(edges, sources.least(False), sources.least(True), prior, most)


def prior_costs(measured: Measured, levels: Levels) -> np.ndarray:
    """P_j (M,): KL(q(z_j | x) ‖ p) in nats an example, interpolated by its logarithm."""
    x = measured.values
    prior = measured.model.prior
    at = [int(i) for i in torch.linspace(0, len(levels) - 1, min(len(levels), 48)).round().long().unique()]
    nats = torch.stack([prior.kl(x, levels[i : i + 1].expand(len(x))).mean() for i in at]).clamp_min(1e-12)
    return linear(levels, levels[torch.tensor(at)], nats.log()[:, None]).exp()[:, 0].numpy()


def source_costs(
    measured: Measured,
    levels: Levels,
    kinds: list[DecoderKind],
    rest: np.ndarray,
    told: Callable[[int, int], None] = lambda done, planned: None,
) -> Sources:
    """R_i of the `kinds` at all candidates, measured at the nodes from the data on.

    rest (M,): about what the chain costs from candidate i on; a kind that has lost by `_HOPELESS` often is dropped.
    """
    allowed = float(to_nats(_HOPELESS, measured.model.domain.dimensions))
    found: dict[DecoderKind, list[float]] = {kind: [] for kind in kinds}
    lost = dict.fromkeys(kinds, 0)
    best = np.inf
    for i in range(len(measured.levels)):
        told(i, len(measured.levels))
        here = rest[int(measured.positions[i])]
        asked = [kind for kind in kinds if lost[kind] < _LOSSES]
        for kind in asked:
            found[kind].append(ends.cost(kind, measured, i))
        best = min([best, *(found[kind][i] + here for kind in asked)])
        for kind in asked:
            lost[kind] += found[kind][i] + here > best + allowed
    calls = {kind: ends.calls(kind, measured.model) for kind in kinds}
    return Sources({kind: _everywhere(v, measured, levels) for kind, v in found.items()}, calls)


def _everywhere(values: list[float], measured: Measured, levels: Levels) -> np.ndarray:
    """Values at the first nodes as values at all candidates; inf beyond the last of them."""
    nodes = measured.levels[: len(values)]
    found = linear(levels, nodes, torch.tensor(values, dtype=torch.float64)[:, None])[:, 0].numpy()
    found[int(measured.positions[len(values) - 1]) + 1 :] = np.inf
    return found


def tail(edges: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """What the finest chain costs from every candidate to the last, (M,)."""
    single = np.append(np.diagonal(edges, 1), prior[-1])
    return single[::-1].cumsum()[::-1]


def all_edges(levels: Levels, cost: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """F (M, M) of a cost(λ_t, w) in nats an example with w = e^{λ_s − λ_t} − 1; 0 where i ≥ j."""
    M = len(levels)
    F = np.zeros((M, M))
    i, j = (torch.from_numpy(v) for v in np.triu_indices(M, 1))
    w = torch.expm1(levels.logsnr[i] - levels.logsnr[j])
    F[i.numpy(), j.numpy()] = cost(levels.logsnr[j], w).numpy()
    return F

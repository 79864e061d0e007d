"""What is fitted to the fit split, what chains then cost, and the cheapest chain under each family of covariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.maths.units import bits_per_dim
from nelbo.maths.units import nats as to_nats
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.levels import Levels
from nelbo.tightening import covariance
from nelbo.tightening.candidates import Candidates, NodePredictions, interpolated_at, predict_at
from nelbo.tightening.covariance import Measurement
from nelbo.tightening.decoders import DecoderKind, calls_network, cross_validated_cost, fit_decoder, sample_sizes
from nelbo.tightening.diagonal import FamilyFit
from nelbo.tightening.families import Family, suitable
from nelbo.tightening.shortest_path import Paths, shortest
from nelbo.typing import Condition
from nelbo.workers import Run

NODES = 30
"""Levels at which covariances are fitted."""
_HOPELESS = 1.0
"""Bits/dim by which a decoder is worse than the best where it counts as a loss; after `_LOSSES` of them it is not
fitted any further from the data."""
_LOSSES = 3
_PRIOR_NODES = 48
"""Levels at which the KL to the prior is computed; it is interpolated between them."""


@dataclass(frozen=True, eq=False)
class DecoderCosts:
    """R_i of each kind of decoder at all candidates, (M,) nats an example, inf where it was not fitted; and whether it
    calls the network."""

    nats: dict[DecoderKind, np.ndarray]
    calls: dict[DecoderKind, bool]

    def least(self, calls: bool) -> np.ndarray:
        """The least cost of the kinds that do, or do not, call the network."""
        costs = [nats for kind, nats in self.nats.items() if self.calls[kind] == calls]
        return np.min(costs, axis=0) if costs else np.full(len(next(iter(self.nats.values()))), np.inf)

    def kind(self, i: int, calls: bool) -> DecoderKind:
        """The cheapest kind at candidate i that does, or does not, call the network."""
        costs = {kind: nats[i] for kind, nats in self.nats.items() if self.calls[kind] == calls}
        return min(costs, key=costs.__getitem__)

    def at_first(self, kind: DecoderKind) -> DecoderCosts:
        """One kind, at the first candidate alone."""
        first = np.full(len(self.nats[kind]), np.inf)
        first[0] = self.nats[kind][0]
        return DecoderCosts({kind: first}, self.calls)

    def paths(self, edges: np.ndarray, prior: np.ndarray, most: int) -> Paths:
        """The cheapest chains of up to `most` evaluations, for costs of steps (M, M) and of the prior (M,)."""
        return shortest(edges, self.least(False), self.least(True), prior, most)


def prior_costs(predictions: NodePredictions, levels: Levels) -> np.ndarray:
    """P_j (M,): KL(q(z_j | x) ‖ p) in nats an example, its logarithm interpolated."""
    x, prior = predictions.values, predictions.model.prior
    nodes = torch.linspace(0, len(levels) - 1, min(len(levels), _PRIOR_NODES)).round().long().unique()
    kls = [prior.kl(x, levels[i : i + 1].expand(len(x))).mean() for i in nodes.tolist()]
    nats = torch.stack(kls).clamp_min(1e-12)
    return interpolated_at(levels, levels[nodes], nats.log()[:, None]).exp()[:, 0].numpy()


def decoder_costs(
    predictions: NodePredictions, levels: Levels, kinds: list[DecoderKind], remaining: np.ndarray
) -> DecoderCosts:
    """R_i of the `kinds` at all candidates, computed at the nodes, from the data outwards.

    remaining (M,): approximately what the chain costs from each candidate on; a kind that loses too often is dropped.
    """
    allowed = float(to_nats(_HOPELESS, predictions.model.domain.dimensions))
    costs: dict[DecoderKind, list[float]] = {kind: [] for kind in kinds}
    losses = dict.fromkeys(kinds, 0)
    best = np.inf
    for node in range(len(predictions.levels)):
        rest = remaining[int(predictions.indices[node])]
        fitted = [kind for kind in kinds if losses[kind] < _LOSSES]
        for kind in fitted:
            costs[kind].append(cross_validated_cost(kind, predictions, node))
        best = min([best, *(costs[kind][node] + rest for kind in fitted)])
        for kind in fitted:
            losses[kind] += costs[kind][node] + rest > best + allowed
    calls = {kind: calls_network(kind, predictions.model) for kind in kinds}
    return DecoderCosts({kind: _at_all(v, predictions, levels) for kind, v in costs.items()}, calls)


def _at_all(values: list[float], predictions: NodePredictions, levels: Levels) -> np.ndarray:
    """Values at the first nodes, interpolated at all candidates; inf beyond the last of these nodes."""
    nodes = predictions.levels[: len(values)]
    costs = interpolated_at(levels, nodes, torch.tensor(values, dtype=torch.float64)[:, None])[:, 0].numpy()
    costs[int(predictions.indices[len(values) - 1]) + 1 :] = np.inf
    return costs


@dataclass(frozen=True, eq=False)
class FamilyCosts:
    """A fitted family and the cost of its steps between all candidates, (M, M) nats an example."""

    fit: FamilyFit
    edges: np.ndarray

    def remaining(self) -> np.ndarray:
        """The cost of the finest chain from each candidate to the last, (M,), without the prior."""
        return np.append(np.diagonal(self.edges, 1), 0.0)[::-1].cumsum()[::-1]


@dataclass(frozen=True, eq=False)
class Plan:
    """The cheapest chains under one family; of the chosen length `steps` the candidates and the kind of decoder."""

    family: Family
    fit: FamilyFit
    paths: Paths
    steps: int
    chain: list[int]
    decoder: DecoderKind

    @property
    def nats(self) -> float:
        """The cost of the chain for an example, as predicted by the fit."""
        return float(self.paths.cost[self.steps])


class Fitting:
    """A model, the examples that are fitted to, and a count of the network evaluations spent on them."""

    def __init__(self, candidates: Candidates, examples: Examples, condition: Condition, run: Run):
        self.candidates, self.examples, self.condition, self.run = candidates, examples, condition, run
        self.model, self.levels = candidates.model, candidates.levels
        self.data: Tensor = self.model.domain.checked(examples.data)
        self.nfe = 0
        self.sizes = sample_sizes(len(examples), self.model.domain.dimensions)
        self.nodes = candidates.nodes()
        self.planned = NODES * len(examples) + sum(self.sizes) * len(self.nodes) + len(examples)

    def covariances(self) -> tuple[Measurement, dict[Family, FamilyCosts]]:
        """All suitable families, from one pass over the examples."""

        def progress(done: int, _: int) -> None:
            self._report(done)

        run = Run(self.run.device, batch_size=self.run.batch_size, seed=self.run.seed, progress=progress)
        measured = covariance.measure(
            self.model,
            self.examples,
            families=suitable(self.model),
            nodes=NODES,
            condition=self.condition,
            run=run,
        )
        self.nfe += measured.nfe
        return measured, {family: self.family_costs(fit) for family, fit in measured.fits.items()}

    def family_costs(self, fit: FamilyFit) -> FamilyCosts:
        """The cost of the steps of a fitted family."""
        return FamilyCosts(fit, fit.cost.between(self.levels))

    def decoder_costs(self, remaining: np.ndarray, kinds: list[DecoderKind]) -> tuple[DecoderCosts, NodePredictions]:
        """What decoders cost at all candidates; remaining (M,): approximately what the chain costs from there on."""
        fit, scored = self.sizes
        predictions = self._predict(torch.arange(fit + scored), fit, self.nodes)
        return decoder_costs(predictions, self.levels, kinds, remaining), predictions

    def decoder(self, kind: DecoderKind, candidate: int) -> Decoder:
        """The decoder of a kind at a candidate level, fitted to all examples."""
        if kind is DecoderKind.OWN:
            return self.model.decoder
        predictions = self._predict(torch.arange(len(self.data)), len(self.data), torch.tensor([candidate]))
        return fit_decoder(kind, self.model, predictions.at(0))

    def _predict(self, rows: Tensor, fitted: int, indices: Tensor) -> NodePredictions:
        def advance(evaluations: int) -> None:
            self.nfe += evaluations
            self._report(self.nfe)

        return predict_at(
            self.candidates,
            indices,
            self.data[rows],
            fitted,
            condition={k: v[rows] for k, v in self.condition.items()},
            seed=self.run.seed,
            batch_size=self.run.batch_size or 64,
            device=self.run.device,
            advance=advance,
        )

    def _report(self, done: int) -> None:
        if self.run.progress is not None:
            self.run.progress(done, max(self.planned, done))

    def plans(
        self,
        measured: Measurement,
        families: dict[Family, FamilyCosts],
        decoders: DecoderCosts,
        prior: np.ndarray,
        most: int,
        length: Callable[[Paths], int | None],
    ) -> dict[Family, Plan]:
        """The cheapest chain under every family; families for which `length` returns None are left out.

        The hybrid is made for the cheapest chain of the families that depend on the input.
        """
        plans: dict[Family, Plan] = {}

        def add(family: Family, costs: FamilyCosts) -> None:
            paths = decoders.paths(costs.edges, prior, most)
            steps = length(paths)
            if steps is not None:
                chain, calls = paths.chain(steps)
                plans[family] = Plan(family, costs.fit, paths, steps, chain, decoders.kind(chain[0], calls))

        for family, costs in families.items():
            add(family, costs)
        dependent = [plans[family] for family in (Family.LOCAL, Family.MAP) if family in plans]
        cheapest = min(dependent, key=lambda plan: plan.nats, default=None)
        if cheapest is not None and Family.DCT in families and len(cheapest.chain) > 1:
            add(Family.HYBRID, self.family_costs(measured.hybrid(self.levels[torch.tensor(cheapest.chain)])))
        return plans


def bits(model: DiffusionModel, nats: float) -> float:
    """Nats an example as bits/dim."""
    return float(bits_per_dim(nats, model.domain.dimensions))

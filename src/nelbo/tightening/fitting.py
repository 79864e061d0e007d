"""What is fitted to the fit split: covariances of every family and what their steps cost, decoders at a few levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.maths.units import bits_per_dim
from nelbo.model.decoder import Decoder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.process.levels import Levels
from nelbo.tightening import choose, covariance, ends, fitters
from nelbo.tightening.choose import Sources
from nelbo.tightening.ends import DecoderKind
from nelbo.tightening.families import Family, Found
from nelbo.tightening.levels import Measured, measure, spread
from nelbo.tightening.path import Paths
from nelbo.typing import Condition, Json

NODES = 30
"""Levels at which covariances are fitted."""


@dataclass(frozen=True, eq=False)
class Priced:
    """A fitted family and what its steps cost between all candidates, (M, M) nats an example."""

    found: Found
    edges: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """The cheapest chains under one family, and of one length the candidates and the kind of decoder."""

    family: Family
    found: Found
    paths: Paths
    steps: int
    chain: list[int]
    decoder: DecoderKind

    @property
    def nats(self) -> float:
        """What the chain costs an example, as far as the fit can tell."""
        return float(self.paths.cost[self.steps])


class Fitting:
    """One fit: the model, its fit examples, and a count of the evaluations that were spent on them."""

    def __init__(
        self,
        model: DiffusionModel,
        examples: Examples,
        levels: Levels,
        condition: Condition,
        *,
        seed: int,
        batch_size: int | None,
        device: str | torch.device | None,
        progress: Callable[[int, int], None],
    ):
        self.model, self.examples, self.levels, self.condition = model, examples, levels, condition
        self.seed, self.batch_size, self.device = seed, batch_size, device
        self.data: Tensor = model.domain.checked(examples.data)
        self.progress = progress
        self.nfe = 0
        count = len(examples)
        self.tried = ends.counts(count, model.domain.dimensions)
        self.nodes = spread(levels)
        self.planned = NODES * count + sum(self.tried) * len(self.nodes) + count

    def covariances(self) -> tuple[covariance.Measured, dict[Family, Priced]]:
        """Every family that makes sense, from one pass over the examples."""
        seen = covariance.measure(
            self.model,
            self.examples,
            families=fitters.suitable(self.model),
            nodes=NODES,
            condition=self.condition,
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            progress=lambda done, _: self.progress(done, self.planned),
        )
        self.nfe += seen.nfe
        return seen, {family: self.priced(found) for family, found in seen.found.items()}

    def priced(self, found: Found) -> Priced:
        """What the steps of a fitted family cost."""
        return Priced(found, choose.all_edges(self.levels, found.cost.at))

    def sources(self, rest: np.ndarray, kinds: list[DecoderKind]) -> tuple[Sources, Measured]:
        """What decoders cost at all candidates; rest (M,): about what the chain costs from there on."""
        fit, score = self.tried
        measured = self._measured(torch.arange(fit + score), fit, self.nodes)
        return choose.source_costs(measured, self.levels, kinds, rest), measured

    def decoder(self, kind: DecoderKind, candidate: int) -> Decoder:
        """The decoder of a kind at a candidate level, fitted to all examples."""
        if kind is DecoderKind.OWN:
            return self.model.decoder
        measured = self._measured(torch.arange(len(self.data)), len(self.data), torch.tensor([candidate]))
        return ends.fit(kind, self.model, measured.node(0))

    def _measured(self, rows: Tensor, fitted: int, positions: Tensor) -> Measured:
        def advance(evaluations: int) -> None:
            self.nfe += evaluations
            self.progress(self.nfe, max(self.planned, self.nfe))

        return measure(
            self.model.in_precision(torch.float32, self.device or "cpu"),
            self.data[rows],
            fitted,
            self.levels,
            positions,
            condition={k: v[rows] for k, v in self.condition.items()},
            seed=self.seed,
            batch_size=self.batch_size or 64,
            device=self.device,
            advance=advance,
        )


def plans(
    measured: covariance.Measured,
    priced: dict[Family, Priced],
    sources: Sources,
    prior: np.ndarray,
    levels: Levels,
    fitting: Fitting,
    most: int,
    steps_of: Callable[[Paths], int | None],
) -> dict[Family, Plan]:
    """The cheapest chain under every family; those for which `steps_of` finds no length are left out.

    The hybrid is the one that suits the cheapest chain of the families that depend on the input, and is then priced.
    """
    found: dict[Family, Plan] = {}
    for family, one in priced.items():
        paths = choose.paths(one.edges, sources, prior, most)
        steps = steps_of(paths)
        if steps is not None:
            found[family] = _plan(family, one, paths, sources, steps)
    dependent = [found[family] for family in (Family.LOCAL, Family.MAP) if family in found]
    cheapest = min(dependent, key=lambda plan: plan.nats, default=None)
    if cheapest is not None and Family.DCT in priced and len(cheapest.chain) > 1:
        one = fitting.priced(measured.hybrid(levels[torch.tensor(cheapest.chain)]))
        paths = choose.paths(one.edges, sources, prior, most)
        steps = steps_of(paths)
        if steps is not None:
            found[Family.HYBRID] = _plan(Family.HYBRID, one, paths, sources, steps)
    return found


def _plan(family: Family, one: Priced, paths: Paths, sources: Sources, steps: int) -> Plan:
    chain, calls = paths.chain(steps)
    return Plan(family, one.found, paths, steps, chain, sources.kind(chain[0], calls))


def bits(model: DiffusionModel, nats: float) -> float:
    """Nats an example as bits/dim."""
    return float(bits_per_dim(nats, model.domain.dimensions))


def tried_decoders(measured: Measured, sources: Sources) -> Json:
    """What each kind of decoder cost at the levels where it was tried, in bits/dim."""
    said: Json = {}
    for kind, values in sources.nats.items():
        at = [i for i in measured.positions.tolist() if np.isfinite(values[i])]
        logsnr = measured.levels.logsnr[: len(at)].tolist()
        said[kind.value] = {"logsnr": logsnr, "bits_per_dim": [bits(measured.model, float(values[i])) for i in at]}
    return said


def rows_of(condition: Mapping[str, Tensor] | None, rows: Tensor) -> dict[str, Tensor]:
    """The condition of some examples."""
    return {k: torch.as_tensor(v)[rows] for k, v in (condition or {}).items()}

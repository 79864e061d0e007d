"""Readings: what the outputs that a pilot has seen would mean if the network predicted something else.

Under every reading of a network's output v at an input z the prediction is linear, x̂ = a z + b v, with a and b known at
each level, and the network that is right about every example would return τ = (x − a z)/b. With

    distance     ‖v − τ‖² = ‖x − x̂‖²/b²,  of the output from what it would have to be, in its own units,
    unexplained  ‖v − τ‖²/‖τ‖²,  0 for the perfect network and 1 for one that returns zeros,

both follow from the six inner products of x, z and v: the pilot keeps these, and no evaluation is added.

A reading is contradicted at a level where another one is nearer to the output, its distance below `LESS` of this one's,
and explains it, with a share unexplained below `EXPLAINED`. Of all readings the one that is contradicted at the fewest
levels, or of several such the one of the lowest bound, is said to be that of the network, if it is not the one declared
and, over the noise levels that the pilot visits
(at least `LEAST_LEVELS`, with `LEAST_DRAWS` draws each):

    1. at a third of the levels or more, it contradicts the declared one, by more than `DEVIATIONS` standard errors of
       the paired differences;
    2. at nearly all levels, all but one of every eight, the declared one does not contradict it;
    3. the bound is lower by more than `DEVIATIONS` standard errors.

A posterior mean E[x | z] has the least error of all functions of z, so that 3 fails in expectation for every other
reading of a network that is declared rightly and has learned it: with 24 draws a level, the probability that the mean
of one level is off by so much is 3 · 10⁻⁴, and that three of nine are is 2 · 10⁻⁹. A network that has learned little
explains nothing, and no reading is nearer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nelbo.bound.problem import Draws
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.process.levels import Levels, Path, column
from nelbo.process.prediction import Output, Prediction, x0_from

LEAST_LEVELS, LEAST_DRAWS = 3, 8
LESS, EXPLAINED = 0.8, 0.9
DEVIATIONS = 4.0
ELEMENTS = 4096
"""Elements of an example that are looked at: at every draw of the pilot, in next to no time."""
COLUMNS = 11
"""Numbers that are kept of a draw: six inner products, the error of x̂, and the two ends of the output with how often it
is there."""
SIGMA_DATA = (0.5, 1.0)
"""Standard deviations that a preconditioning is tried with where none is declared."""


@dataclass(frozen=True)
class Reading:
    """The output that a network is taken to predict, and its sign; sigma_data of "edm_F"."""

    output: Output
    sign: int = 1
    sigma_data: float | None = None

    @property
    def name(self) -> str:
        """`v`, or `−v` for a network that returns it with the other sign."""
        return ("" if self.sign > 0 else "−") + self.output.value

    def coefficients(self, t: Levels, edm_input: bool) -> tuple[Tensor, Tensor]:
        """a and b of x̂ = a z + b v at levels t (n,), each (n,) float64.

        edm_input: whether the network was given z/α, as EDM's networks are; a is of z itself all the same.
        """
        one, zero = torch.ones(len(t), 1, dtype=torch.float64), torch.zeros(len(t), 1, dtype=torch.float64)
        z = one / column(t.alpha, one) if edm_input else one
        on = t.on(Path.VE) if edm_input else t
        a = x0_from(self.output, zero, z, on, self.sigma_data)
        b = x0_from(self.output, self.sign * one, zero, on, self.sigma_data)
        return a[:, 0], b[:, 0]


def declared(denoiser: NetworkDenoiser) -> Reading:
    """The reading that the denoiser is declared with."""
    return Reading(denoiser.output, 1, denoiser.sigma_data)


def siblings(denoiser: NetworkDenoiser, t: Levels) -> list[Reading]:
    """Other readings of the same output at levels t (n,): every output that means something there, with both signs."""
    own = declared(denoiser)
    outputs: list[tuple[Output, float | None]] = [(o, None) for o in (Output.EPS, Output.X0, Output.SCORE)]
    if own.output.edm:
        given = own.sigma_data
        outputs += [(Output.EDM_F, d) for d in ((given,) if given is not None else SIGMA_DATA)]
    else:
        outputs.append((Output.V, None))
    if t.slope is not None:
        outputs.append((Output.VELOCITY, None))
    readings = [Reading(output, sign, sigma_data) for output, sigma_data in outputs for sign in (1, -1)]
    of_own = own.coefficients(t, own.output.edm)
    return [r for r in readings if not _same(r.coefficients(t, own.output.edm), of_own)]


def _same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, other, strict=True))


def observed(x: Tensor, z: Tensor, x0: Tensor, output: Tensor) -> Tensor:
    """What is kept of x, z, the prediction x̂ after clipping and the network's output v, each (B, …): (B, COLUMNS).

    x·x, x·z, z·z, x·v, z·v, v·v; ‖x − x̂‖²; the largest element of v and how many equal it; the same of the smallest.
    Of more than `ELEMENTS` elements a regular part is looked at, and sums and counts are scaled up to all.
    """
    D = x[0].numel()
    apart = 1 if D <= ELEMENTS else -(-D // ELEMENTS) | 1  # odd, so that it meets all columns of a picture
    x, z, x0, v = (values.flatten(1)[:, ::apart].double() for values in (x, z, x0, output))
    scale = D / x.shape[1]
    products = [(p * q).sum(1) for p, q in ((x, x), (x, z), (z, z), (x, v), (z, v), (v, v))]
    ends = []
    for end in (v.amax(1), v.amin(1)):
        ends += [end, scale * (v == end[:, None]).double().sum(1)]
    sums = [*products, (x - x0).square().sum(1)]
    return torch.stack([*(scale * s for s in sums), *ends], 1)


def seen(x: Tensor, z: Tensor, prediction: Prediction | None) -> Tensor:
    """`observed` of what a denoiser predicts, (b, COLUMNS); NaN where it does not tell its output."""
    if prediction is None or prediction.output is None:
        return torch.full((len(x), COLUMNS), float("nan"), dtype=torch.float64, device=x.device)
    return observed(x, z, prediction.x0, prediction.output)


@dataclass(frozen=True, eq=False)
class Observations:
    """What the pilot has seen: draws and their columns (n, COLUMNS), one pair a call; filled while it runs."""

    calls: list[tuple[Draws, Tensor]] = field(default_factory=list)

    def add(self, draws: Draws, values: Tensor) -> None:
        """Keep what was observed; rows of NaN, which an interrupt left, are dropped."""
        self.calls.append((draws, values))

    def of_cells(self) -> dict[int, Tensor]:
        """The columns by cell; −1 is the first level."""
        rows: dict[int, list[Tensor]] = {}
        for draws, values in self.calls:
            cells = torch.full((len(draws),), -1) if draws.cells is None else draws.cells
            known = torch.isfinite(values).all(1)
            for cell in cells[known].unique().tolist():
                rows.setdefault(cell, []).append(values[known & (cells == cell)])
        return {cell: torch.cat(parts) for cell, parts in sorted(rows.items())}


def errors(values: Tensor, a: float, b: float) -> Tensor:
    """‖x − a z − b v‖² of draws (n, COLUMNS), (n,)."""
    xx, xz, zz, xv, zv, vv = values[:, :6].unbind(1)
    return (xx - 2 * a * xz - 2 * b * xv + a * a * zz + 2 * a * b * zv + b * b * vv).clamp_min(0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one reading makes of the draws at K levels, one tensor (n,) a level: ‖x − x̂‖², and ‖v − τ‖² with the share
    of ‖τ‖² that it is on average."""

    errors: list[Tensor]
    distances: list[Tensor]
    unexplained: list[float]

    @classmethod
    def of(cls, reading: Reading, levels: Levels, rows: list[Tensor], edm_input: bool) -> Evidence:
        """Of the draws `rows`, (n_k, COLUMNS) at each of the levels (K,)."""
        a, b = (c.tolist() for c in reading.coefficients(levels, edm_input))
        of_rows = [errors(values, a[k], b[k]) for k, values in enumerate(rows)]
        zeros = [float(errors(values, a[k], 0.0).mean()) for k, values in enumerate(rows)]
        shares = [float(e.mean()) / max(zero, 1e-300) for e, zero in zip(of_rows, zeros, strict=True)]
        return cls(of_rows, [e / b[k] ** 2 for k, e in enumerate(of_rows)], shares)

    def contradicts(self, other: Evidence, sure: bool = False) -> list[bool]:
        """Whether it contradicts `other` at each level; sure: by `DEVIATIONS` standard errors of the difference."""
        rows = zip(self.distances, other.distances, self.unexplained, strict=True)
        return [u < EXPLAINED and _less(d, o, sure) for d, o, u in rows]


def best(all_readings: dict[Reading, Evidence], weights: Tensor) -> Reading:
    """The reading that the others contradict at the fewest levels; of several, the one of the lowest bound. weights
    (K,): as of `explains_better`."""

    def key(reading: Reading) -> tuple[int, float]:
        own = all_readings[reading]
        against = [other.contradicts(own) for r, other in all_readings.items() if r != reading]
        nats = sum(w * float(e.mean()) for w, e in zip(weights.tolist(), own.errors, strict=True))
        return sum(any(level) for level in zip(*against, strict=True)), nats

    return min(all_readings, key=key)


def explains_better(other: Evidence, own: Evidence, rows: list[Tensor], weights: Tensor) -> bool:
    """Whether `other` satisfies 1 to 3 of the module against what is declared. rows: the draws, (n_k, COLUMNS) at each
    level; weights (K,): nats of the bound a unit of ‖x − x̂‖² at each level."""
    K = len(own.errors)
    if K < LEAST_LEVELS or min(len(e) for e in own.errors) < LEAST_DRAWS:
        return False
    if 3 * sum(other.contradicts(own, sure=True)) < K or sum(own.contradicts(other)) > K // 8:
        return False
    used = [values[:, 6] for values in rows]  # what clipping leaves of the errors
    saved = [w * (o - e) for w, o, e in zip(weights.tolist(), used, other.errors, strict=True)]
    gain = sum(float(nats.mean()) for nats in saved)
    return gain > DEVIATIONS * math.sqrt(sum(float(nats.var()) / len(nats) for nats in saved))


def _less(one: Tensor, other: Tensor, sure: bool) -> bool:
    """Whether the mean of `one` (n,) is clearly below that of the paired values `other` (n,)."""
    saved = other - one
    least = DEVIATIONS * float(saved.std()) / math.sqrt(len(saved)) if sure else 0.0
    return float(saved.mean()) > least and float(one.mean()) < LESS * float(other.mean())

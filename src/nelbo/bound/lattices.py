"""Lattices: the values that data really take, against those that they are declared to take.

A density of values that lie on a lattice has no lower bound, and bits/dim of it are no code length; and a model of K
codes that is asked about data of fewer levels scores something else than its user believes. Both are seen from the data
alone, in a sample of them. What is looked for is regular, so that few codes of a small sample are no reason for a note:

    real values      each met many times, on multiples of one step
    codes 0..M < K   that stop short of the declared K with a full last code, or fill less than half of the codes
    codes of fewer levels stretched to 0..K−1, such as 0, 255 or 0, 16, 32, 48, …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo.model.domain import DataDomain

SAMPLE = 1 << 18
"""Numbers that are looked at."""
EACH = 16
"""How often a value of the sample is met on average, at least, for the set of values to be taken as complete."""
OCCUPIED = 0.5
"""Share of the points of a lattice that are met, at least."""
UNLIKELY = 200
"""Odds against codes all being multiples of their step by chance, at least."""
HEAVY, HEAVY_NEAR = 0.1, 0.5
"""How often the last code is met, at least, over the mean of the codes that are: natural tails taper. In the lower and
in the upper half of the declared codes."""
STRETCHED = 8
"""Distinct codes, at least, that make a stretched lattice of unequal steps."""


@dataclass(frozen=True)
class Lattice:
    """`levels` values evenly from `low` to `high`."""

    levels: int
    low: float
    high: float

    @property
    def step(self) -> float:
        """Between two values."""
        return (self.high - self.low) / (self.levels - 1)

    def codes(self, values: Tensor) -> Tensor:
        """The nearest points 0..levels − 1, int64."""
        unit = (values.double() - self.low) / (self.high - self.low)
        return (unit * (self.levels - 1)).round().clamp(0, self.levels - 1).long()


def sample(data: Tensor) -> Tensor:
    """At most about `SAMPLE` numbers of data (N, …), from examples evenly among all, (n,)."""
    width = max(1, data[0].numel())
    rows = max(1, min(len(data), SAMPLE // width))
    chosen = (torch.arange(rows) * (len(data) / rows)).long()
    return torch.cat([data[i : i + 1].flatten()[:SAMPLE] for i in chosen.tolist()])


def of_values(values: Tensor) -> Lattice | None:
    """The lattice that real values (n,) lie on, where they do; None where they do not, or are too few to say."""
    distinct = values.double().unique()
    if not 2 <= len(distinct) <= len(values) // EACH:
        return None
    low, high = float(distinct[0]), float(distinct[-1])
    steps = distinct.diff()
    place = (distinct - low) / steps.min()
    rounding = 1e-6 * max(abs(low), abs(high)) / float(steps.min()) if values.dtype != torch.float64 else 0.0
    if float((place - place.round()).abs().max()) > 1e-6 * len(distinct) + rounding:
        return None
    levels = int(place[-1].round()) + 1
    return Lattice(levels, low, high) if len(distinct) >= OCCUPIED * levels else None


def of_codes(codes: Tensor, K: int) -> Lattice | None:
    """The lattice of fewer levels that codes (n,) of K bins lie on; None where they may be what they are declared.

    `low` and `high` of the lattice are codes.
    """
    counts = codes.long().bincount(minlength=K)
    met = counts.nonzero()[:, 0]
    if len(met) < 2 or len(met) > len(codes) // EACH:
        return None
    low, high = int(met[0]), int(met[-1])
    step = int(np.gcd.reduce((met - low).numpy()))
    if step > 1:
        levels = (high - low) // step + 1
        chance = step ** (len(met) - 1) * (step if (low, high) == (0, K - 1) else 1)
        return Lattice(levels, low, high) if chance >= UNLIKELY and len(met) >= OCCUPIED * levels else None
    if len(met) >= STRETCHED and (stretched := _stretched(met, K)) is not None:
        return stretched
    last = float(counts[high]) / (float(counts.sum()) / len(met))
    half = high + 1 <= K // 2
    short = high < K - 1 and (half or (_usual(high + 1) and not _usual(K)))
    full = len(met) >= OCCUPIED * (high + 1) and last >= (HEAVY if half else HEAVY_NEAR)
    return Lattice(high + 1, 0, high) if full and short else None


def _usual(levels: int) -> bool:
    """Whether so many levels are usual: 2^k, or 2^k + 1 as of counts."""
    return levels & (levels - 1) == 0 or (levels - 1) & (levels - 2) == 0


def _stretched(met: Tensor, K: int) -> Lattice | None:
    """The least L ≤ K/4 such that all codes met are within one of j (K − 1)/(L − 1), and most of these are met."""
    for levels in range(len(met), min(K // 4, int(len(met) / OCCUPIED)) + 1):
        place = met.double() * (levels - 1) / (K - 1)
        if bool(((place - place.round()).abs() * (K - 1) / (levels - 1) < 1).all()):
            return Lattice(levels, 0, K - 1)
    return None


def notes(domain: DataDomain, data: Tensor, release: Callable[[], None] = lambda: None) -> list[str]:
    """A note where checked data (N, *shape) of the domain lie on another lattice than they are declared to.

    release: gives back the memory of what was read.
    """
    values = sample(data)
    release()
    if domain.bins is None:
        lattice = of_values(values)
        return [] if lattice is None else [_of_real(lattice)]
    lattice = of_codes(values, domain.bins)
    if lattice is None or (lattice.step == 1 and _beyond(data, lattice.high, release)):
        return []
    K, levels = domain.bins, lattice.levels
    if lattice.step == 1:
        seen, codes = f"no code is above {lattice.high:g}", "them as they are"
    elif lattice.step == int(lattice.step):
        of = f"{lattice.step:g}" if lattice.low == 0 else f"{lattice.step:g}, counted from {lattice.low:g}"
        seen, codes = f"all codes are multiples of {of}", f"(codes - {lattice.low:g}) // {lattice.step:g}"
        codes = codes if lattice.low else f"codes // {lattice.step:g}"
    else:
        seen = f"the codes are {levels} levels stretched to 0..{K - 1}"
        codes = f"(codes * {levels - 1} / {K - 1}).round()"
    return [
        f"{K} bins are declared, but {seen}: the bound is about {K} levels, and that of data with {levels} is another "
        f"number; if the model was trained on {levels} levels, declare bins={levels} and give {codes}"
    ]


def _beyond(data: Tensor, high: float, release: Callable[[], None]) -> bool:
    """Whether a code of all data is above those of the sample."""
    for piece in data.split(1024):
        if int(piece.max()) > high:
            return True
        release()
    return False


def _of_real(lattice: Lattice) -> str:
    low, high, K, step = f"{lattice.low:.6g}", f"{lattice.high:.6g}", lattice.levels, f"{lattice.step:.6g}"
    unit = "x" if lattice.low == 0 else f"(x {'+' if lattice.low < 0 else '-'} {abs(lattice.low):.6g})"
    return (
        f"the data are declared real, but their values are {K} evenly spaced numbers from {low} to {high}, {step} "
        "apart: the density of such data has no lower bound, and its bits/dim are no code length; if they are codes, "
        f"declare DataDomain(shape, bins={K}, low={low}, high={high}) and give ({unit} / {step}).round() as integers"
    )

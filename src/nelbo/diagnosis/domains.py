"""Siblings of the data domain: range, bins, real values that are codes, inverted values, and the layout of numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import lattices
from nelbo.bound.lattices import Lattice
from nelbo.diagnosis.subject import Sibling, Subject, plain, printed
from nelbo.errors import UsageError
from nelbo.model.domain import DataDomain
from nelbo.typing import Json


@dataclass(frozen=True)
class Range(Sibling):
    """The first and the last code stand for other values."""

    low: float
    high: float
    rescales = True

    @property
    def name(self) -> str:
        return f"range {printed(self.low)} … {printed(self.high)}"

    @property
    def declaration(self) -> Json:
        return {"low": self.low, "high": self.high}

    @property
    def claim(self) -> str:
        return f"the data of this network are in {printed(self.low)} … {printed(self.high)}"

    @property
    def change(self) -> str:
        return f"DataDomain(shape, bins, low={plain(self.low)}, high={plain(self.high)})"

    def of(self, subject: Subject) -> Subject:
        _ = subject.network  # another kind of denoiser is built for its codes
        return subject.redeclared(domain=dataclasses.replace(subject.model.domain, low=self.low, high=self.high))


@dataclass(frozen=True)
class Scaled(Sibling):
    """The network was trained on u = (x − mean)/scale of the real data x; the density is one of x all the same."""

    mean: float
    scale: float
    label: str

    @property
    def unusual(self) -> bool:  # type: ignore[override]
        """Of the ends of the data, which are hardly ever the ends of the range."""
        return self.label.startswith("−1 … 1")

    @property
    def name(self) -> str:
        return f"data as {self.label}"

    @property
    def declaration(self) -> Json:
        return {"mean": self.mean, "scale": self.scale}

    @property
    def claim(self) -> str:
        return f"this network was trained on the data as {self.label}"

    @property
    def change(self) -> str:
        mean, scale = (f"torch.full(shape, {plain(v)})" for v in (self.mean, self.scale))
        return f"DataDomain(shape, mean={mean}, scale={scale})"

    def of(self, subject: Subject) -> Subject:
        domain = subject.model.domain
        if domain.mean is not None:
            raise UsageError("a domain that is standardised already", "it has a mean and a scale of its own")
        full = torch.ones(domain.shape, dtype=torch.float64)
        return subject.redeclared(domain=dataclasses.replace(domain, mean=self.mean * full, scale=self.scale * full))


@dataclass(frozen=True)
class Bins(Sibling):
    """The data have K levels; codes that lie on a lattice of fewer are counted along it."""

    bins: int
    lattice: Lattice | None = None

    @property
    def name(self) -> str:
        stretched = self.lattice is not None and self.lattice.step != 1
        return f"bins {self.bins}" + (", codes divided" if stretched else "")

    @property
    def declaration(self) -> Json:
        return {"bins": self.bins}

    @property
    def claim(self) -> str:
        return f"the data have {self.bins} levels"

    @property
    def change(self) -> str:
        if self.lattice is None or self.lattice.step == 1:
            return f"bins={self.bins}"
        if self.lattice.step == int(self.lattice.step):
            return f"bins={self.bins}, codes // {plain(self.lattice.step)}"
        return f"bins={self.bins}, (codes * {self.bins - 1} / {plain(self.lattice.high)}).round()"

    def of(self, subject: Subject) -> Subject:
        _ = subject.network
        data = subject.data if self.lattice is None else self.lattice.codes(subject.data)
        changed = subject.redeclared(domain=dataclasses.replace(subject.model.domain, bins=self.bins))
        return dataclasses.replace(changed, data=changed.model.domain.checked(data))


@dataclass(frozen=True)
class Codes(Sibling):
    """Real values that lie on a lattice are codes, and their bits/dim a code length."""

    lattice: Lattice

    @property
    def name(self) -> str:
        return f"codes of {self.lattice.levels} levels"

    @property
    def declaration(self) -> Json:
        return {"bins": self.lattice.levels, "low": self.lattice.low, "high": self.lattice.high}

    @property
    def claim(self) -> str:
        return f"the data are codes of {self.lattice.levels} levels, not real values"

    @property
    def change(self) -> str:
        ends = f"low={plain(self.lattice.low)}, high={plain(self.lattice.high)}"
        return f"DataDomain(shape, bins={self.lattice.levels}, {ends})"

    def of(self, subject: Subject) -> Subject:
        domain = subject.model.domain
        if domain.mean is not None:
            raise UsageError("a domain that is standardised", "codes have their values from low and high")
        new = DataDomain(domain.shape, self.lattice.levels, self.lattice.low, self.lattice.high)
        changed = subject.redeclared(domain=new)
        return dataclasses.replace(changed, data=self.lattice.codes(subject.data), nats=0.0)


@dataclass(frozen=True)
class Arranged(Sibling):
    """The same numbers of an example in another order, or each the other way up."""

    key: str

    @property
    def name(self) -> str:
        return ARRANGEMENTS[self.key][0]

    @property
    def declaration(self) -> Json:
        return {"layout": self.name}

    @property
    def claim(self) -> str:
        return f"this network was trained on {ARRANGEMENTS[self.key][1]}"

    @property
    def change(self) -> str:
        return ARRANGEMENTS[self.key][2]

    def of(self, subject: Subject) -> Subject:
        return dataclasses.replace(subject, data=_arranged(self.key, subject.data, subject.model.domain))


ARRANGEMENTS = {
    "inverted": ("values inverted", "images as negatives", "data = bins - 1 - data"),
    "channels": ("channels reversed", "BGR, not RGB", "data = data[:, [2, 1, 0]]"),
    "transposed": ("rows as columns", "images with rows and columns exchanged", "data = data.transpose(-1, -2)"),
    "upside_down": ("upside down", "images upside down", "data = data.flip(-2)"),
    "last": (
        "read as channels last",
        "the numbers as (H, W, C), reshaped",
        "data = data.reshape(N, H, W, C).permute(0, 3, 1, 2)",
    ),
    "first": (
        "read as channels first",
        "the numbers as (C, H, W), reshaped",
        "data = data.permute(0, 2, 3, 1).reshape(N, C, H, W)",
    ),
}


def _arranged(key: str, data: Tensor, domain: DataDomain) -> Tensor:
    if key == "inverted":
        return domain._bins() - 1 - data.long() if domain.discrete else domain.low + domain.high - data
    if key == "channels":
        return data.flip(1)
    if key == "transposed":
        return data.transpose(-1, -2)
    if key == "upside_down":
        return data.flip(-2)
    N, C, H, W = data.shape
    if key == "last":
        return data.reshape(N, H, W, C).permute(0, 3, 1, 2)
    return data.permute(0, 2, 3, 1).reshape(N, C, H, W)


def siblings(subject: Subject) -> list[Sibling]:
    """Other domains that the data allow."""
    domain, data = subject.model.domain, subject.data
    others: list[Sibling] = []
    if domain.discrete:
        others += _ranges(subject)
        others += _bins(data, domain._bins())
    else:
        lattice = lattices.of_values(lattices.sample(data))
        others += [] if lattice is None else [Codes(lattice)]
        others += _scales(data)
    shape = domain.shape
    keys = ["inverted"]
    keys += ["channels"] if len(shape) == 3 and shape[0] == 3 else []
    keys += ["transposed"] if len(shape) >= 2 and shape[-1] == shape[-2] > 1 else []
    keys += ["upside_down"] if len(shape) >= 2 and shape[-2] > 1 else []
    keys += ["last", "first"] if len(shape) == 3 and shape[0] > 1 else []
    return [*others, *(Arranged(key) for key in keys)]


def _ranges(subject: Subject) -> list[Sibling]:
    domain = subject.model.domain
    codes = subject.data.double()
    mean, scale = float(codes.mean()), float(codes.std())
    K = domain._bins()
    ranges = [(-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5), (0.0, K - 1.0), (-2.0, 2.0)]
    ranges += [(round(-mean / scale, 6), round((K - 1 - mean) / scale, 6))] if scale > 0 else []
    return [Range(*ends) for ends in ranges if ends != (domain.low, domain.high)]


def _scales(data: Tensor) -> list[Sibling]:
    mean, scale = float(data.double().mean()), float(data.double().std())
    scales = [(0.5, 0.5, "2 x − 1"), (-1.0, 2.0, "(x + 1)/2"), (0.0, 255.0, "x/255"), (127.5, 127.5, "x/127.5 − 1")]
    if scale > 0:
        mean, scale = (float(f"{v:.6g}") for v in (mean, scale))
        low, high = (float(v) for v in data.double().aminmax())
        middle, half = (float(f"{v:.6g}") for v in ((low + high) / 2, (high - low) / 2))
        scales += [(mean, scale, f"({_less(mean)})/{scale:g}"), (0.0, scale, f"x/{scale:g}")]
        # the mean and deviation of some data set were taken off, or the values were scaled twice
        scales += [(middle, half, f"−1 … 1, ({_less(middle)})/{half:g}")]
        scales = [each for i, each in enumerate(scales) if not any(_like(each, other) for other in scales[:i])]
    scales = [each for each in scales if not _like(each, (0.0, 1.0, ""))]
    return [Scaled(*each) for each in scales]


def _less(mean: float) -> str:
    """x less the mean, as it is printed."""
    return f"x {'−' if mean >= 0 else '+'} {abs(mean):g}"


def _like(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    """Whether two scales are the same within a thousandth."""
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) < 1e-3 * one[1]


def _bins(data: Tensor, K: int) -> list[Sibling]:
    sample = lattices.sample(data)
    levels = int(data.max()) + 1
    lattice = lattices.of_codes(sample, K)
    others: list[Sibling] = []
    if lattice is not None and lattice.step != 1:
        others.append(Bins(lattice.levels, lattice))
    power = 1 << (levels - 1).bit_length()
    usual = {levels, power, 256, *([power + 1] if power <= 64 else [])} if levels > 1 else {256}
    return [*others, *(Bins(bins) for bins in sorted(usual) if bins >= max(2, levels) and bins != K)]

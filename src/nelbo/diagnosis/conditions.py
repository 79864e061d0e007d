"""Siblings of the condition and of the mode: labels counted from another number, none at all, training mode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from nelbo.diagnosis.cached import Cache, Cached, InTraining, with_net
from nelbo.diagnosis.subject import Sibling, Subject
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.typing import Json


@dataclass(frozen=True)
class Labelled(Sibling):
    """Integer labels plus an offset."""

    keyword: str
    offset: int
    indexes = True

    @property
    def name(self) -> str:
        return f"{self.keyword} {'+' if self.offset > 0 else '−'} {abs(self.offset)}"

    @property
    def declaration(self) -> Json:
        return {"condition": {self.keyword: self.name}}

    @property
    def claim(self) -> str:
        return f"the labels of this network are {self.name}"

    @property
    def change(self) -> str:
        return f'condition={{"{self.keyword}": {self.keyword} {self.offset:+d}}}'

    def of(self, subject: Subject) -> Subject:
        rows = subject.condition[self.keyword] + self.offset
        if int(rows.min()) < 0:
            raise UsageError("labels below 0", "labels count from 0")
        return dataclasses.replace(subject, condition={**subject.condition, self.keyword: rows})


@dataclass(frozen=True)
class Unconditional(Sibling):
    """The network without its condition."""

    keyword: str

    @property
    def name(self) -> str:
        return f"without {self.keyword}"

    @property
    def declaration(self) -> Json:
        return {"condition": {self.keyword: None}}

    @property
    def claim(self) -> str:
        return f"this network is better without {self.keyword}"

    @property
    def change(self) -> str:
        return "condition=None"

    def of(self, subject: Subject) -> Subject:
        rest = {name: rows for name, rows in subject.condition.items() if name != self.keyword}
        return dataclasses.replace(subject, condition=rest)


@dataclass(frozen=True)
class Zeroed(Sibling):
    """A condition of zeros, as of a network that knows its absence so."""

    keyword: str

    @property
    def name(self) -> str:
        return f"{self.keyword} = 0"

    @property
    def declaration(self) -> Json:
        return {"condition": {self.keyword: 0}}

    @property
    def claim(self) -> str:
        return f"this network is better with zeros in the place of {self.keyword}"

    @property
    def change(self) -> str:
        return f'condition={{"{self.keyword}": torch.zeros_like({self.keyword})}}'

    def of(self, subject: Subject) -> Subject:
        zeros = torch.zeros_like(subject.condition[self.keyword])
        return dataclasses.replace(subject, condition={**subject.condition, self.keyword: zeros})


@dataclass(frozen=True)
class Permuted(Sibling):
    """The rows of the condition given to other examples, which must cost bits if they belong to their own."""

    keyword: str
    seed: int
    control = True

    @property
    def name(self) -> str:
        return f"{self.keyword} of other examples"

    @property
    def declaration(self) -> Json:
        return {"condition": {self.keyword: "permuted"}}

    @property
    def claim(self) -> str:
        return f"the rows of {self.keyword} do not belong to their examples"

    @property
    def change(self) -> str:
        return f"give {self.keyword} in the order of the examples"

    def of(self, subject: Subject) -> Subject:
        rows = subject.condition[self.keyword]
        order = Purpose.DIAGNOSIS_PERMUTATION.permutation(self.seed, len(rows))
        return dataclasses.replace(subject, condition={**subject.condition, self.keyword: rows[order]})


@dataclass(frozen=True, eq=False)
class Training(Sibling):
    """The network in training mode, with dropout and the statistics of the batch."""

    cache: Cache

    @property
    def name(self) -> str:
        return "training mode"

    @property
    def declaration(self) -> Json:
        return {"mode": "train"}

    @property
    def claim(self) -> str:
        return "this network works in training mode alone"

    @property
    def change(self) -> str:
        return "its running statistics were never taken: pass data through it in training mode, then save it again"

    def of(self, subject: Subject) -> Subject:
        def training(net: object) -> InTraining:
            module = net.net if isinstance(net, Cached) else net
            if not isinstance(module, nn.Module):
                raise UsageError("a network that is no module", "it has no mode")
            return InTraining(module, self.cache)

        return subject.with_denoiser(with_net(subject.model.denoiser, training))


def siblings(subject: Subject, cache: Cache, seed: int) -> list[Sibling]:
    """Other conditions, and the other mode where it makes a difference."""
    others: list[Sibling] = []
    for keyword, rows in subject.condition.items():
        if not rows.is_floating_point() and rows.ndim == 1:
            others += [Labelled(keyword, 1), Labelled(keyword, -1)]
        others += [Unconditional(keyword), Zeroed(keyword), Permuted(keyword, seed)]
    if any(_depends_on_mode(module) for module in subject.model.denoiser.modules()):
        others.append(Training(cache))
    return others


def _depends_on_mode(module: nn.Module) -> bool:
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or isinstance(module, nn.modules.batchnorm._BatchNorm)

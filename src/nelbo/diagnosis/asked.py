"""Networks as they are asked: each question once, and answers with another sign or in training mode.

Declarations that differ in what an output means, in the decoder or in the variance of the steps ask the network the
same questions at common noise. An answer is kept by the bytes of its question, so that these cost nothing more.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.model.denoiser import Denoiser
from nelbo.model.opened import entered, plain

MEMORY = 1 << 28
"""Bytes of answers that are kept."""


@dataclass(eq=False)
class Answers:
    """The network's answers by question, the latest `MEMORY` bytes of them; nfe: evaluations that were made."""

    nfe: int = 0
    kept: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict)
    size: int = 0

    def keep(self, question: bytes, answer: Tensor) -> None:
        """Keep one answer; the oldest go where there are too many."""
        self.kept[question] = answer
        self.size += answer.nbytes
        while self.size > MEMORY and len(self.kept) > 1:
            _, oldest = self.kept.popitem(last=False)
            self.size -= oldest.nbytes


class _Around(nn.Module):
    """A network around another one, which may be a module or any function."""

    def __init__(self, net: Callable[..., Tensor]):
        super().__init__()
        self.net = net
        if hasattr(plain(net), "time_dtype"):
            self.time_dtype = plain(net).time_dtype  # type: ignore[attr-defined]

    def asked(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """The value of the network inside."""
        with entered(self.net) as function:
            return function(z, time, **condition)


class Remembering(_Around):
    """A network that is asked no question twice. An answer depends on its own row alone."""

    def __init__(self, net: Callable[..., Tensor], answers: Answers):
        super().__init__(net)
        self.answers = answers

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        questions = _questions(z, time, condition)
        new = {question: row for row, question in enumerate(questions) if question not in self.answers.kept}
        fresh: dict[bytes, Tensor] = {}
        if new:
            rows = torch.tensor(list(new.values()), device=z.device)
            values = self.asked(z[rows], time[rows], {name: v[rows] for name, v in condition.items()})
            if not isinstance(values, Tensor) or len(values) != len(rows):
                return values  # what is wrong with it is said by the denoiser
            self.answers.nfe += len(rows)
            fresh = dict(zip(new, values, strict=True))
        answers = [fresh[q] if q in fresh else self.answers.kept[q] for q in questions]
        for question, answer in fresh.items():
            self.answers.keep(question, answer.clone())
        return torch.stack(answers)


class Negated(_Around):
    """−net(z, time), of the first `channels` channels; a variance that follows them stays."""

    def __init__(self, net: Callable[..., Tensor], channels: int):
        super().__init__(net)
        self.channels = channels

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        value = self.asked(z, time, condition)
        if value.shape[1] == self.channels:
            return -value
        return torch.cat([-value[:, : self.channels], value[:, self.channels :]], 1)


class InTraining(_Around):
    """A copy of a module in training mode; nothing is remembered, since answers depend on chance or on the batch."""

    def __init__(self, module: nn.Module, answers: Answers):
        super().__init__(copy.deepcopy(module))
        self.answers = answers

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        self.net.train()
        self.answers.nfe += len(z)
        return self.asked(z, time, condition)


def with_net(denoiser: Denoiser, change: Callable[[Any], Any]) -> Denoiser:
    """The denoiser around `change` of its network. Weights are shared, and nothing else is changed."""
    other = changed(denoiser)
    other.net = change(other.net)
    return other


def changed(denoiser: Denoiser, **attributes: Any) -> Any:
    """A copy of the denoiser with other attributes, which shares its modules."""
    other = copy.copy(denoiser)
    for table in ("_parameters", "_buffers", "_modules"):
        object.__setattr__(other, table, dict(getattr(denoiser, table)))
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def _questions(z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> list[bytes]:
    """What is asked in each row, as a digest."""
    parts = [z, time, *(condition[name] for name in sorted(condition))]
    rows = [part.detach().cpu().contiguous().reshape(len(z), -1) for part in parts]
    raw = [row.view(torch.uint8).numpy() for row in rows]
    head = repr([(part.dtype, tuple(part.shape[1:])) for part in parts]).encode()
    digests = []
    for i in range(len(z)):
        digest = hashlib.blake2b(head, digest_size=16)
        for part in raw:
            digest.update(part[i].tobytes())
        digests.append(digest.digest())
    return digests

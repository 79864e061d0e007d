"""Networks that are evaluated at each input once; with another sign; in training mode.

Declarations that differ in what an output means, in the decoder or in the variance of the steps evaluate the network at
the same inputs, since their noise is common. An output is kept by a digest of its input, so that these cost no more.
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
"""Bytes of outputs that are kept."""


@dataclass(eq=False)
class Cache:
    """The network's outputs by input, the latest `MEMORY` bytes of them; nfe: evaluations that were made."""

    nfe: int = 0
    outputs: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict)
    size: int = 0

    def keep(self, key: bytes, output: Tensor) -> None:
        """Keep one output; the oldest go where there are too many."""
        self.outputs[key] = output
        self.size += output.nbytes
        while self.size > MEMORY and len(self.outputs) > 1:
            _, oldest = self.outputs.popitem(last=False)
            self.size -= oldest.nbytes


class _Wrapper(nn.Module):
    """A network around another one, which may be a module or any function."""

    def __init__(self, net: Callable[..., Tensor]):
        super().__init__()
        self.net = net
        if hasattr(plain(net), "time_dtype"):
            self.time_dtype = plain(net).time_dtype  # type: ignore[attr-defined]

    def inner(self, z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """The value of the network inside."""
        with entered(self.net) as function:
            return function(z, time, **condition)


class Cached(_Wrapper):
    """A network that is evaluated at no input twice; an output is taken to depend on its own row alone."""

    def __init__(self, net: Callable[..., Tensor], cache: Cache):
        super().__init__(net)
        self.cache = cache

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        keys = _digests(z, time, condition)
        new = {key: row for row, key in enumerate(keys) if key not in self.cache.outputs}
        fresh: dict[bytes, Tensor] = {}
        if new:
            rows = torch.tensor(list(new.values()), device=z.device)
            values = self.inner(z[rows], time[rows], {name: v[rows] for name, v in condition.items()})
            if not isinstance(values, Tensor) or len(values) != len(rows):
                return values  # the denoiser says what is wrong with it
            self.cache.nfe += len(rows)
            fresh = dict(zip(new, values, strict=True))
        outputs = [fresh[key] if key in fresh else self.cache.outputs[key] for key in keys]
        for key, output in fresh.items():
            self.cache.keep(key, output.clone())
        return torch.stack(outputs)


class Negated(_Wrapper):
    """−net(z, time), of the first `channels` channels; a variance that follows them stays."""

    def __init__(self, net: Callable[..., Tensor], channels: int):
        super().__init__(net)
        self.channels = channels

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        value = self.inner(z, time, condition)
        if value.shape[1] == self.channels:
            return -value
        return torch.cat([-value[:, : self.channels], value[:, self.channels :]], 1)


class InTraining(_Wrapper):
    """A copy of a module in training mode; nothing is cached, since outputs depend on chance or on the batch."""

    def __init__(self, module: nn.Module, cache: Cache):
        super().__init__(copy.deepcopy(module))
        self.cache = cache

    def forward(self, z: Tensor, time: Tensor, **condition: Tensor) -> Tensor:
        self.net.train()
        self.cache.nfe += len(z)
        return self.inner(z, time, condition)


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


def _digests(z: Tensor, time: Tensor, condition: dict[str, Tensor]) -> list[bytes]:
    """A digest of the input in each row."""
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

"""Who computes, and how: one process or several that share the draws of an estimate; device, precision, batches.

Floor 4 (`nelbo.runtime`) supplies the workers of a distributed run; down here only their interface is known. All
workers plan the same draws, each computes its share of every round, and `gather` makes all values known to all, in
the order of ranks; nothing is padded, dropped or computed twice. That they plan the same draws supposes that they were
given the same model, data and options, which `agree` checks before the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nelbo.arguments import check_function, checked_path, numbers
from nelbo.errors import UsageError


class Workers(Protocol):
    """rank of this process, number of processes, and an all-gather of float64 rows of any number per rank."""

    rank: int
    size: int
    stopping: bool
    """Whether the user asked to stop, and every worker knows: the same on all of them after a gather."""

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every rank's rows (n_r, columns), in the order of ranks, on every rank."""
        ...


class Alone:
    """The one process of an ordinary run."""

    rank = 0
    size = 1
    stopping = False

    def gather(self, values: Tensor) -> list[Tensor]:
        """The rows themselves."""
        return [values]


REMEDIES = {
    "command": "start every process with the same command",
    "data": "give every process all of the examples: nelbo shares them among the processes itself",
    "condition": "give every process all rows of the condition: nelbo shares them among the processes itself",
    "model": "load the same weights in every process (with DistributedDataParallel, the statistics of "
    "BatchNorm differ: use SyncBatchNorm, or an average of the weights that leaves buffers out)",
}
"""What to do about the first of these names in which the workers differ."""


def agree(workers: Workers, identity: Mapping[str, Any], command: str) -> None:
    """Check that all workers were given the same, before they share work: one hash is exchanged.

    identity: names of what was given → fingerprints and options, JSON-able, such as {"data": fingerprint, "seed": 0}.
    Errors: UsageError on every worker, naming what differs and its values by rank.
    """
    if workers.size == 1:
        return
    text = json.dumps({"command": command, **_flat(identity)}, sort_keys=True).encode()
    words = torch.frombuffer(bytearray(hashlib.sha256(text).digest()), dtype=torch.uint8).double()
    hashes = [row[0].tolist() for row in workers.gather(words[None])]
    if all(other == hashes[0] for other in hashes):
        return
    letters = torch.frombuffer(bytearray(text), dtype=torch.uint8).double()
    identities = [json.loads(bytes(rows[:, 0].to(torch.uint8).tolist())) for rows in workers.gather(letters[:, None])]
    names = [name for name in {**REMEDIES, **dict.fromkeys(sorted({n for each in identities for n in each}))}]
    differ = [name for name in names if any(each.get(name) != identities[0].get(name) for each in identities)]
    values = ", ".join(f"{_short(each.get(differ[0]))} on rank {rank}" for rank, each in enumerate(identities))
    raise UsageError(
        f"the {workers.size} processes of this run were not given the same {', '.join(differ[:4])}: "
        f"{differ[0]} is {values}",
        REMEDIES.get(differ[0].split(".")[0], "start every process with the same options"),
    )


def _flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with names such as config.lr."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    """A value in few letters, of a fingerprint its beginning."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


@numbers
@dataclass(frozen=True, eq=False)
class Run:
    """How a verb is run: everything that travels together and changes no number but by the seed and the precision.

    device: where the network computes (the CPU where None). precision: "float32", "float64" or "bf16", of the network
    alone. batch_size: examples of one network call; chosen by the size of an example where None. seed: of all noise.
    state: a file from which an interrupted run goes on to the same number. workers: the processes that share the work.
    progress: called with (evaluations done, evaluations planned, 0 where not known). message: called with a line for a
    person, such as what an evaluation of more than a few seconds will cost. Errors: UsageError for what is none of it.
    """

    device: str | torch.device | None = None
    precision: str = "float32"
    batch_size: int | None = None
    seed: int = 0
    state: str | Path | None = None
    workers: Workers = field(default_factory=Alone)
    progress: Callable[[int, int], None] | None = None
    message: Callable[[str], None] | None = None

    def __post_init__(self):
        check_device(self.device)
        check_function("progress", self.progress, "done, planned")
        check_function("message", self.message, "line")
        if self.state is not None:
            checked_path("state", self.state, file=True)
        if not all(hasattr(self.workers, part) for part in ("rank", "size", "gather")):
            raise UsageError(
                f"workers={self.workers!r} is no group of processes",
                "start the program with torchrun or accelerate launch, and give workers=nelbo.runtime.workers()",
            )


def devices() -> list[str]:
    """The devices of this machine that torch can use."""
    names = ["cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names += ["mps", "mps:0"]
    return names


def check_device(name: Any) -> None:
    """Errors: UsageError where `name` is neither None nor a device of this machine."""
    if name is None:
        return
    present = devices()
    hint = f"choose one of: {', '.join(present)}"
    if not isinstance(name, (str, torch.device)):
        raise UsageError(f"device={name!r} names no device", hint)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device={name!r} names no device", hint) from None
    plain = device.type if device.index is None else f"{device.type}:{device.index}"
    if plain not in present and plain != "cpu:0":
        raise UsageError(f"device={str(name)!r} is not on this machine", hint)

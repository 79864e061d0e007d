"""The batches of a training run: which examples a step takes, and as which tensors.

Everything is keyed by the step. Its number alone determines the batch, so that a run can go on from any step, on any
number of processes, with the same batches. The positions of a batch are distributed in turn: of P parts (processes
times micro-batches) part p gets the positions p, p + P, p + 2P, …, and the parts together are the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.examples import Examples
from nelbo.model.tokens.domain import scored_places
from nelbo.nets.build import TOKEN_NETS
from nelbo.training.config import Augmentation, TrainConfig
from nelbo.typing import Condition


class BatchPart(NamedTuple):
    """Positions (b,) int64, ascending, in a batch of `batch_size` examples: the part of it that one call computes."""

    positions: Tensor
    batch_size: int

    @classmethod
    def whole(cls, batch_size: int) -> BatchPart:
        """The whole batch in one part."""
        return cls(torch.arange(batch_size), batch_size)

    @property
    def share(self) -> float:
        """The part's weight in a mean over the batch: b / batch_size."""
        return len(self.positions) / self.batch_size

    def below(self, count: int) -> int:
        """How many of these positions are among the first `count` of the batch; they come first."""
        return int((self.positions < count).sum())


@dataclass(frozen=True, eq=False)
class Batch:
    """The examples of one call of the loss, and the keys of their noise.

    target (b, *shape): codes, or values of real data. seed, step: noise and times are keyed by (seed, step, position).
    part: their positions in the batch of the step; the whole batch where None. condition: keywords of the network, one
    row an example. report: whether the loss will be reported; terms that train nothing are otherwise left out (0).
    Of sequences of symbols, scored (b, L): the places that are scored, all where None; places: their mean number in a
    sequence of the run. Of examples of different size, mask (b, n) or (b, *shape): what is there, all where None;
    numbers: the mean D of an example of the run.
    """

    target: Tensor
    seed: int
    step: int
    part: BatchPart | None = None
    condition: Condition | None = None
    report: bool = True
    scored: Tensor | None = None
    places: float | None = None
    mask: Tensor | None = None
    numbers: float | None = None


def batch_parts(batch_size: int, rank: int, size: int, accumulate: int) -> list[BatchPart]:
    """The micro-batches of process `rank` of `size`, as positions. Errors: UsageError where one would be empty."""
    parts = size * accumulate
    if batch_size < parts:
        split = " × ".join([f"{size} processes"] * (size > 1) + [f"{accumulate} micro-batches"] * (accumulate > 1))
        raise UsageError(f"a batch of {batch_size} examples cannot be split into {split}", f"give batch_size ≥ {parts}")
    positions = torch.arange(batch_size)
    return [BatchPart(positions[k * size + rank :: parts], batch_size) for k in range(accumulate)]


class Shuffle:
    """The rows of every step's batch out of `rows` (n,): each epoch is a fresh permutation, and batches run on across
    the end of an epoch, so that no example is dropped or comes twice in one."""

    def __init__(self, rows: Tensor, batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Rows (batch_size,) of the data for the step after `step` steps."""
        n, first = len(self.rows), step * self.batch_size
        pieces = []
        while len(pieces) == 0 or first < (step + 1) * self.batch_size:
            epoch, start = divmod(first, n)
            if epoch != self.epoch:
                self.epoch, self.order = epoch, Purpose.BATCH_ORDER.permutation(self.seed, n, level=epoch)
            end = min(n, start + (step + 1) * self.batch_size - first)
            pieces.append(self.order[start:end])
            first += end - start
        return self.rows[pieces[0] if len(pieces) == 1 else torch.cat(pieces)]


class Loader:
    """Makes the batches of a run, augmented where that is set, on the device.

    Data in memory are indexed; data on disk are read a step ahead. The order of rows and the flips are keyed by (seed,
    step, position in the batch), so that a batch does not depend on when it is read, by which process, or what was read
    before.
    """

    def __init__(
        self, examples: Examples, rows: Tensor, settings: TrainConfig, device: torch.device, condition: Condition | None
    ):
        self.examples, self.settings, self.device, self.condition = examples, settings, device, condition
        self.shuffle = Shuffle(rows, settings.batch_size, settings.seed)
        if settings.augment and (examples.data.ndim < 3 or examples.mask is not None):
            shape, changes = tuple(examples.data.shape[1:]), [a.value for a in settings.augment]
            raise UsageError(
                f"augment = {changes} on examples of shape {shape}",
                "flips are for images; leave augment out",
            )
        symbols = settings.net.name in TOKEN_NETS
        self.scored = scored_of(examples) if symbols else None
        self.mask = None if symbols else examples.mask
        self.numbers = None if self.mask is None else float(examples.sizes[rows].double().mean())
        self.places = None if self.scored is None else float(self.scored[rows].sum(1).double().mean())
        in_memory = isinstance(examples.data, Tensor)
        self.data = examples.data.to(device) if in_memory else examples.data
        self._reader = None if in_memory else ThreadPoolExecutor(1, "nelbo-read")
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int, parts: list[BatchPart]) -> Iterator[Batch]:
        """The parts of the batch of `step`. Errors: those of reading the data."""
        if self._reader is None:
            yield from self._read(step, parts)
            return
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = step, self._reader.submit(lambda: list(self._read(step, parts)))
        now = self._ahead[1].result()
        if step + 1 < self.settings.steps:
            self._ahead = step + 1, self._reader.submit(lambda: list(self._read(step + 1, parts)))
        yield from now

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int, parts: list[BatchPart]) -> Iterator[Batch]:
        rows = self.shuffle.batch(step)
        for part in parts:
            own = rows if len(part.positions) == len(rows) else rows[part.positions]
            target = self.data[own.to(self.device) if isinstance(self.data, Tensor) else own].to(self.device)
            condition = None
            if self.condition is not None:
                condition = {name: values[own].to(self.device) for name, values in self.condition.items()}
            batch = Batch(augmented(target, self.settings, step, part), self.settings.seed, step, part, condition)
            if self.scored is not None:
                batch = replace(batch, scored=self.scored[own].to(self.device), places=self.places)
            if self.mask is not None:
                batch = replace(batch, mask=self.mask[own].to(self.device), numbers=self.numbers)
            yield batch
        self.examples.release()


def scored_of(examples: Examples) -> Tensor | None:
    """Of sequences of symbols the places (N, L) that are noised and scored; None where all are."""
    if examples.prompt is None and examples.mask is None:
        return None
    return scored_places(torch.as_tensor(examples.data), examples.prompt, examples.mask)


def augmented(target: Tensor, settings: TrainConfig, step: int, part: BatchPart) -> Tensor:
    """`target` (b, …, W) with the augmentations of the settings: a horizontal flip of each image with probability ½."""
    if Augmentation.HORIZONTAL_FLIP not in settings.augment:
        return target
    u = Purpose.FLIP.uniform(settings.seed, part.positions, step, device=target.device)
    flipped = (u < 0.5).reshape(-1, *[1] * (target.ndim - 1))
    return torch.where(flipped, target.flip(-1), target)

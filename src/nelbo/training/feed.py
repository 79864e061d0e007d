"""From rows of the data to the tensors of a step: read, flipped where that was asked for, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.model.examples import Examples
from nelbo.training.batches import Order, Places
from nelbo.training.config import Augmentation, TrainConfig
from nelbo.typing import Condition

Batch = tuple[Tensor, Condition | None]


class Feed:
    """The batches of a run. Data in memory are indexed; data that are read from disk are read a step ahead.

    The order of rows and the flips are keyed by (seed, step, place in the batch), so that what a step sees does not
    depend on when it is read, by which process, or what was read before.
    """

    def __init__(
        self, examples: Examples, rows: Tensor, settings: TrainConfig, device: torch.device, condition: Condition | None
    ):
        self.examples, self.settings, self.device, self.condition = examples, settings, device, condition
        self.order = Order(rows, settings.batch_size, settings.seed)
        if settings.augment and examples.data.ndim < 3:
            shape, changes = tuple(examples.data.shape[1:]), [a.value for a in settings.augment]
            raise UsageError(
                f"augment = {changes} on examples of shape {shape}",
                "flips are for images; leave augment out",
            )
        in_memory = isinstance(examples.data, Tensor)
        self.data = examples.data.to(device) if in_memory else examples.data
        self._reader = None if in_memory else ThreadPoolExecutor(1, "nelbo-read")
        self._ahead: tuple[int, Future[list[Batch]]] | None = None

    def batches(self, step: int, parts: list[Places]) -> Iterator[Batch]:
        """Targets and conditions of the parts of the batch of `step`. Errors: those of reading the data."""
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
        """Read no further."""
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int, parts: list[Places]) -> Iterator[Batch]:
        rows = self.order.of(step)
        for places in parts:
            mine = rows if len(parts) == 1 and len(places.slots) == len(rows) else rows[places.slots]
            target = self.data[mine.to(self.device) if isinstance(self.data, Tensor) else mine]
            condition = None
            if self.condition is not None:
                condition = {name: values[mine].to(self.device) for name, values in self.condition.items()}
            yield augmented(target.to(self.device), self.settings, step, places), condition
        self.examples.release()


def augmented(target: Tensor, settings: TrainConfig, step: int, places: Places) -> Tensor:
    """`target` (b, …, W) with what `augment` asks for: a horizontal flip of each image with probability ½."""
    if Augmentation.HORIZONTAL_FLIP not in settings.augment:
        return target
    u = random.uniform(settings.seed, places.slots, step, 0, stream=random.Stream.AUGMENT, device=target.device)
    flipped = (u < 0.5).reshape(-1, *[1] * (target.ndim - 1))
    return torch.where(flipped, target.flip(-1), target)

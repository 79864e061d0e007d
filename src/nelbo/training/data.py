"""The data of a training run: which examples are trained on, which of them a step takes, and as which tensors.

Everything is keyed by the step. Its number alone determines the batch, so that a run can go on from any step, on any
number of processes, with the same batches. The positions of a batch are distributed in turn: of P parts (processes
times micro-batches) part p gets the positions p, p + P, p + 2P, …, and the parts together are the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.data import classes
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.tokens.domain import check_same_symbols, scored_places
from nelbo.model.tokens.model import TokenModel
from nelbo.training.config import Augmentation, TrainConfig
from nelbo.typing import Condition, Json

OF_PLACES = ("prompt", "mask", "place_bytes")
NO_PLACES: dict[str, None] = dict.fromkeys(OF_PLACES)
"""What examples of sequences have for every place."""
MOST_VALIDATED = 1000
"""Examples of a validation set whose size is not set: the default budget still has four evaluations for each."""

AnyModel = DiffusionModel | TokenModel

# ---------------------------------------------------------------- training and validation examples


@dataclass(frozen=True)
class TrainingData:
    """examples: all that were given; rows (n,): those of them that are trained on; held_out: examples to validate on
    (empty where there is no validation); with their conditions, where the model is conditional."""

    examples: Examples
    rows: Tensor
    held_out: Examples
    condition: Condition | None
    held_out_condition: Condition | None
    separate: bool
    """Whether the validation examples are a data set of their own, rather than held out of `examples`."""

    def checked(self, model: AnyModel) -> Examples:
        """The examples after the model's checks of them. Errors: DomainError, ShapeError."""
        if isinstance(model, TokenModel):
            model.domain.checked(self.examples.data)
            return self.examples  # as narrow as they are
        return replace(self.examples, data=model.domain.checked(self.examples.data, release=self.examples.release))

    @cached_property
    def hashes(self) -> Tensor:
        """Hashes of the examples that are trained on."""
        hashes = self.examples.hashes
        return hashes if len(self.rows) == len(hashes) else hashes[self.rows]

    @property
    def fingerprints(self) -> Json:
        """Fingerprints of the data, by which a checkpoint is recognised as one of this run."""
        separate = self.held_out if self.separate else None
        return {
            "data": self.examples.fingerprint,
            "labels": _labels_of(self.examples, self.condition),
            "validation": None if separate is None else separate.fingerprint,
            "validation_labels": None if separate is None else _labels_of(separate, self.held_out_condition),
        }

    def describe(self) -> Json:
        """The data, for the provenance of a model."""
        description: Json = {
            "name": self.examples.name,
            "fingerprint": self.examples.fingerprint,
            "examples": len(self.rows),
            **self.examples.facts,
        }
        if len(self.held_out) and not self.separate:
            description["held_out"] = len(self.held_out)
        elif self.separate:
            description["validation"] = {
                "name": self.held_out.name,
                "fingerprint": self.held_out.fingerprint,
                "examples": len(self.held_out),
            }
        return description


def split(examples: Examples, validation: Examples | None, settings: TrainConfig) -> TrainingData:
    """`examples` split into a training and a validation part; all of them where `validation` is given, or none wanted.

    Errors: UsageError where too few are left to train on, where validation data are given that would not be used, and
    where labels are asked for that the data do not have.
    """
    if settings.condition is not None:
        examples = classes.stated(examples)
    n, every, count = len(examples), settings.validation.every, settings.validation.examples
    rows, none = torch.arange(n), replace(examples.first(1), data=examples.data[:0], labels=None, names=(), **NO_PLACES)
    condition = _condition(examples, settings)
    if validation is not None and every is None:
        raise UsageError(
            "validation data were given, but no interval at which to evaluate on them",
            "give it in steps: validation.every=1000",
        )
    if every is None:
        return TrainingData(examples, rows, none, condition, None, False)
    if validation is not None:
        check_same_symbols(examples.facts, validation.facts, validation.name)
        part = validation.first(count or MOST_VALIDATED)
        if settings.condition is not None and examples.classes:
            part = classes.by_name(part, examples.classes, "the training data have")
        return TrainingData(examples, rows, part, condition, _condition(part, settings), True)
    count = count or max(2, min(MOST_VALIDATED, n // 10))
    kept, held_out = held_out_rows(n, count, settings.seed)
    part = replace(
        examples,
        data=examples.data[held_out.to(examples.data.device) if isinstance(examples.data, Tensor) else held_out],
        name=f"{examples.name}, {count} held out",
        labels=None if examples.labels is None else examples.labels[held_out],
        names=(),
        **{name: None if (of := getattr(examples, name)) is None else of[held_out] for name in OF_PLACES},
    )
    return TrainingData(examples, kept, part, condition, _condition(part, settings), False)


def _labels_of(examples: Examples, condition: Condition | None) -> Json | None:
    """What tells labels apart that are conditioned on: a hash of the numbers, and the names of the classes."""
    if condition is None:
        return None
    return {
        "rows": {name: Examples(rows).fingerprint for name, rows in condition.items()},
        "names": [*examples.classes],
    }


def held_out_rows(n: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on (n − count,) and rows held out (count,), both ascending; chosen by the seed.

    Errors: UsageError where none would be left to train on.
    """
    if count >= n:
        raise UsageError(
            f"{count} of {n} examples were to be held out, which leaves none to train on",
            "give a smaller validation.examples=…, or other data by validation.data",
        )
    shuffled = Purpose.VALIDATION_SPLIT.permutation(seed, n)
    return shuffled[count:].sort().values, shuffled[:count].sort().values


def _condition(examples: Examples, settings: TrainConfig) -> Condition | None:
    if settings.condition is None:
        return None
    if not settings.condition.isidentifier():
        raise UsageError(f"the condition {settings.condition!r}", "give the name of the network's keyword, such as y")
    if examples.labels is None:
        raise UsageError(
            f"the condition {settings.condition!r} takes the labels of the data, and {examples.name} has none",
            "labels come from an npz key (labels, y), an IDX companion file or sub-folder names",
        )
    return {settings.condition: examples.labels}


# ---------------------------------------------------------------- batches


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
    sequence of the run.
    """

    target: Tensor
    seed: int
    step: int
    part: BatchPart | None = None
    condition: Condition | None = None
    report: bool = True
    scored: Tensor | None = None
    places: float | None = None


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
        if settings.augment and examples.data.ndim < 3:
            shape, changes = tuple(examples.data.shape[1:]), [a.value for a in settings.augment]
            raise UsageError(
                f"augment = {changes} on examples of shape {shape}",
                "flips are for images; leave augment out",
            )
        self.scored = scored_of(examples)
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

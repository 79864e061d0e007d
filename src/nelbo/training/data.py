"""The data of a training run: which examples are trained on, and which are held out for validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nelbo.bound.ragged.padding import aligned
from nelbo.data import classes
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.domain import check_same_symbols
from nelbo.model.tokens.model import TokenModel
from nelbo.training.config import TrainConfig
from nelbo.typing import Condition, Json

OF_PLACES = ("prompt", "mask", "place_bytes")
NO_PLACES: dict[str, None] = dict.fromkeys(OF_PLACES)
"""What examples of sequences have for every place."""
MOST_VALIDATED = 1000
"""Examples of a validation set whose size is not set: the default budget still has four evaluations for each."""

AnyModel = DiffusionModel | TokenModel | LatentModel


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


def with_zeros(examples: Examples) -> Examples:
    """Examples of different size with zeros where nothing is, of as many positions as the longest has. Errors: as of
    `bound.ragged.padding.aligned`."""
    if examples.mask is None:
        return examples
    used = int(examples.mask.reshape(*examples.mask.shape[:2], -1).any(2).any(0).nonzero().max()) + 1
    data, _, mask = aligned(examples.data, examples.mask, DataDomain((used, *examples.data.shape[2:])))
    return replace(examples, data=data, mask=mask)


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

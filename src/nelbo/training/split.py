"""Which examples are trained on and which are held out to bound the model along the way."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training.batches import held_out
from nelbo.training.config import TrainConfig
from nelbo.typing import Condition, Json

MOST = 1000
"""Examples of a validation set, where nothing else is said."""


@dataclasses.dataclass(frozen=True)
class Split:
    """examples: all that were given; rows (n,): those of them that are trained on; held_out: examples to validate on
    (empty where there is no validation); with their conditions, where the model is conditional."""

    examples: Examples
    rows: Tensor
    held_out: Examples
    condition: Condition | None
    held_out_condition: Condition | None
    given: bool
    """Whether the validation set was given, rather than held out of the examples."""

    def checked(self, model: DiffusionModel) -> Examples:
        """The examples after the model's checks of them. Errors: DomainError, ShapeError."""
        return dataclasses.replace(
            self.examples, data=model.domain.checked(self.examples.data, release=self.examples.release)
        )

    @cached_property
    def hashes(self) -> Tensor:
        """Hashes of the examples that are trained on."""
        every = self.examples.hashes
        return every if len(self.rows) == len(every) else every[self.rows]

    @property
    def fingerprints(self) -> Json:
        """What says which data a run is of."""
        return {
            "data": self.examples.fingerprint,
            "validation": self.held_out.fingerprint if self.given else None,
        }

    def describe(self) -> Json:
        """The data, for the provenance of a model."""
        said: Json = {
            "name": self.examples.name,
            "fingerprint": self.examples.fingerprint,
            "examples": len(self.rows),
        }
        if len(self.held_out) and not self.given:
            said["held_out"] = len(self.held_out)
        elif self.given:
            said["validation"] = {
                "name": self.held_out.name,
                "fingerprint": self.held_out.fingerprint,
                "examples": len(self.held_out),
            }
        return said


def split(examples: Examples, validation: Examples | None, settings: TrainConfig) -> Split:
    """The parts of `examples`, or all of them beside a given validation set.

    Errors: UsageError where too few are left to train on, where validation data are given that would not be looked at,
    and where labels are asked for that the data do not have.
    """
    wanted = settings.validation
    n = len(examples)
    rows, nobody = torch.arange(n), dataclasses.replace(examples, data=examples.data[:0], labels=None)
    condition = _condition(examples, settings)
    given = validation is not None
    if given and wanted.every is None:
        raise UsageError(
            "validation data were given, but no interval to look at them",
            "say it in steps: --set validation.every=1000",
        )
    if wanted.every is None:
        return Split(examples, rows, nobody, condition, None, False)
    if validation is not None:
        part = validation.first(wanted.examples or MOST)
        return Split(examples, rows, part, condition, _condition(part, settings), True)
    count = wanted.examples or max(2, min(MOST, n // 10))
    kept, held = held_out(n, count, settings.seed)
    part = dataclasses.replace(
        examples,
        data=_rows(examples.data, held),
        name=f"{examples.name}, {count} held out",
        labels=None if examples.labels is None else examples.labels[held],
    )
    return Split(examples, kept, part, condition, _condition(part, settings), False)


def _rows(data: Any, rows: Tensor) -> Tensor:
    return data[rows.to(data.device) if isinstance(data, Tensor) else rows]


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

"""What every verb is given: a model, data, rows of a condition and choices, resolved from strings in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo import data as readers
from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model, load, load_images
from nelbo.arguments import plain
from nelbo.data import classes
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Grid
from nelbo.typing import Condition

Data = Examples | Tensor | str | Path | Any
"""Codes or values (N, *shape) as an array or tensor, a torch Dataset, `Examples` or a DATA string."""
LABELS = (
    "labels come from an npz key (labels, y), an IDX companion file or sub-folder names; in Python give "
    "condition={name: rows}"
)
Device = str | torch.device
Progress = Callable[[int, int], None] | bool
"""A function that is called with (evaluations done, planned), or whether progress is shown; see `nelbo.progress`."""


def opened(model: Model, overrides: Overrides | None, trust_code: bool) -> DiffusionModel | TokenModel | LatentModel:
    """The model as of `load`, with the choices in the place of its own. Errors: those of `load`, and UsageError."""
    return load(model, overrides=overrides, trust_code=trust_code)


def _check_grid(grid: Grid | None) -> None:
    if not isinstance(grid, (Grid, type(None))):
        raise UsageError(f"grid={grid!r}", "give nelbo.grids.even(100), say, or None for the model's own")


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """Sequences of symbols, the rows of the network's condition, and the places that are given and scored."""

    examples: Examples
    condition: Condition | None
    prompt: Tensor | int | None
    mask: Tensor | None

    @classmethod
    def of(
        cls,
        data: Data,
        *,
        limit: int | None = None,
        condition: Condition | str | None = None,
        grid: Grid | None = None,
        prompt: Any = None,
        mask: Any = None,
    ) -> TokenInputs:
        """From what `evaluate` is given; with a limit, of the first rows of prompt and mask. Errors: as of `Inputs`."""
        _check_grid(grid)
        examples = readers.resolve(data, limit=limit)
        if isinstance(condition, str):
            if examples.labels is None:
                raise UsageError(f"the condition {condition!r} takes the labels of the data, which have none", LABELS)
            condition = {condition: examples.labels}
        prompt = plain(prompt)
        first = prompt if prompt is None or isinstance(prompt, int) else torch.as_tensor(prompt)[:limit]
        return cls(examples, condition, first, None if mask is None else torch.as_tensor(mask)[:limit])


@dataclass(frozen=True, eq=False)
class LatentInputs:
    """Images, and the rows of the condition of a latent model's prior."""

    examples: Examples
    condition: Condition | None

    @classmethod
    def of(
        cls,
        model: LatentModel,
        data: Data,
        *,
        limit: int | None = None,
        condition: Condition | str | None = None,
        grid: Grid | None = None,
    ) -> LatentInputs:
        """From what `evaluate` is given. Errors: as of `Inputs`."""
        _check_grid(grid)
        return cls(*conditioned(condition, readers.resolve(data, limit=limit), model.prior))


@dataclass(frozen=True, eq=False)
class Inputs:
    """A model on its grid, the examples, the rows of its condition, and what was chosen in the place of its own."""

    model: DiffusionModel
    examples: Examples
    condition: Condition | None
    overrides: Overrides

    @classmethod
    def of(
        cls,
        model: Model,
        data: Data,
        *,
        limit: int | None = None,
        condition: Condition | str | None = None,
        overrides: Overrides | None = None,
        trust_code: bool = False,
        grid: Grid | None = None,
        mask: Any = None,
        missing: str | None = None,
    ) -> Inputs:
        """From what a verb is given. mask: what is there of the data, besides what they say themselves; missing: how
        NaN is taken, see `Examples.observed`. Errors: those of `load` and of the readers, and UsageError."""
        _check_grid(grid)
        loaded = load_images(model, overrides=overrides, trust_code=trust_code)
        given = readers.resolve(data, limit=limit)
        examples, rows = conditioned(condition, given.with_mask(first_rows(mask, limit)).observed(missing), loaded)
        return cls(loaded if grid is None else loaded.with_grid(grid), examples, rows, overrides or Overrides())


def first_rows(mask: Any, limit: int | None) -> Any:
    """The rows of a mask for the first so many examples."""
    return mask if mask is None or limit is None else mask[:limit]


def conditioned(
    condition: Condition | str | None, examples: Examples, model: DiffusionModel
) -> tuple[Examples, Condition | None]:
    """Keywords of the network with one row an example: as given, or the labels of the data under the name given.

    Labels that have names are those of the model's classes of the same names, and the examples state their numbers.
    Errors: UsageError where labels are asked for that the data do not have, and where the data say which places are
    given, which no model of images knows; DataError for names unknown to the model.
    """
    if examples.prompt is not None:
        raise UsageError(f"given places of {examples.name} with a model of images", "leave out #prompt")
    if not isinstance(condition, str):
        return examples, condition
    if not condition.isidentifier():
        raise UsageError(f"the condition {condition!r}", "give the name of the network's keyword, such as y")
    if examples.labels is None:
        raise UsageError(
            f"the condition {condition!r} takes the labels of the data, and {examples.name} has none",
            LABELS,
        )
    examples = classes.of_model(examples, model, condition)
    assert examples.labels is not None  # as before
    return examples, {condition: examples.labels}

"""Names of classes: labels number them, and a model that was trained on names is asked by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.data import places
from nelbo.data.walk import in_order
from nelbo.errors import DataError, ModelFolderError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""Decimal digits with a point and an exponent: no 1_000, nan, inf or 0x10."""
LISTED = 20
"""Names in an error or a message, at most."""


def numbered(values: Sequence[str], what: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (N,) int64 of named classes, and the names in order: numbers by value where all are numbers, else as text.

    Names that differ only in how Unicode composes their letters are the same name. Errors: DataError where one name is
    spelled in two ways.
    """
    spelled = {value: unicodedata.normalize("NFC", places.printable(value)) for value in set(values)}
    names = tuple(in_order(set(spelled.values())))
    if len(names) < len(spelled):
        twice = next(name for name in names if list(spelled.values()).count(name) > 1)
        raise DataError(f"{what} spells the class {twice!r} in two ways", "rename one of them")
    index = {name: k for k, name in enumerate(names)}
    return torch.tensor([index[spelled[value]] for value in values], dtype=torch.int64), names


def recorded(model: DiffusionModel | TokenModel | LatentModel, keyword: str) -> tuple[str, ...]:
    """The class names that the model's condition `keyword` was trained on; () where none are known.

    Errors: ModelFolderError where the provenance holds something else in their place.
    """
    table = model.provenance.get("classes") or {}
    names = table.get(keyword, ()) if isinstance(table, dict) else None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ModelFolderError(f"the model's class names are {names!r}", "it was altered; fetch it again")
    return tuple(names)


def of_model(examples: Examples, model: DiffusionModel | TokenModel | LatentModel, keyword: str) -> Examples:
    """The examples with the labels that the model's condition `keyword` was trained on, matched by name.

    Where either side has no names, labels stay as they are, but names that are numbers must then be their labels.
    Errors: DataError for names that the model does not know, and for numbers that would be read as others.
    """
    if not examples.classes or examples.labels is None:
        return examples
    known = recorded(model, keyword)
    if known:
        return by_name(examples, known, "the model was trained on")
    if all(NUMBER.fullmatch(name) for name in examples.classes):
        return _by_number(examples)
    return stated(examples)


def check_same(
    a: DiffusionModel | TokenModel | LatentModel, b: DiffusionModel | TokenModel | LatentModel, keyword: str
) -> None:
    """Errors: UsageError where two models number the classes of their condition differently."""
    names = recorded(a, keyword), recorded(b, keyword)
    if names[0] != names[1] and all(names):
        raise UsageError(
            f"one model was trained on the classes {shortened(names[0])}, and the other on {shortened(names[1])}",
            "evaluate each of them by itself: labels of one are not those of the other",
        )


def by_name(examples: Examples, known: tuple[str, ...], knows: str) -> Examples:
    """The examples with their labels renumbered to those of the classes `known`. Errors: DataError for other names."""
    if examples.labels is None or not examples.classes:
        return examples
    used = examples.labels.unique().tolist()
    unknown = [examples.classes[k] for k in used if examples.classes[k] not in known]
    if unknown:
        some = f"the class{'es' * (len(unknown) > 1)} {shortened(unknown)}"
        raise DataError(
            f"{examples.name} has {some}, and {knows} {shortened(known)}",
            "rename the classes so that equal names mean equal things, or leave these examples out",
        )
    index = {name: k for k, name in enumerate(known)}
    table = torch.tensor([index.get(name, -1) for name in examples.classes], dtype=torch.int64)
    return stated(replace(examples, labels=table[examples.labels], classes=known))


def _by_number(examples: Examples) -> Examples:
    """Classes called 0, 1, 2, … without a gap, as labels. Errors: DataError where name and order disagree."""
    if [float(name) for name in examples.classes] != list(range(len(examples.classes))):
        numbers = ", ".join(str(k) for k in range(min(len(examples.classes), LISTED)))
        raise DataError(
            f"the classes of {examples.name} are called {shortened(examples.classes)}: their numbers may be these, or "
            f"{numbers} in order, and the model does not say which",
            "give the labels as numbers: metadata.csv with the columns file_name and label, an npz file, or in Python "
            "condition={name: rows}",
        )
    return stated(examples)


def stated(examples: Examples) -> Examples:
    """The examples with the number of each class that occurs, as a fact for the result."""
    if examples.labels is None or not examples.classes:
        return examples
    used = {examples.classes[k]: k for k in examples.labels.unique().tolist()}
    return replace(examples, facts={**examples.facts, "classes": used})


def shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")

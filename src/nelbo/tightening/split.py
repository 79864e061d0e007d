"""Which examples are fitted to and which the certificate is about: never the same, never any of the training data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.maths import random
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples

LEAST_FIT = 16
LEAST_HELD_OUT = 8
FEW = 100
"""Fit examples below which a fit is shrunk a good deal, and says so."""
MOST_FIT = 400
REPEATS = 0.1
MOST_HELD_OUT = 200


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the data that are fitted to, rows that certify (of `held_out` data where those were given), and notes."""

    data: Examples
    fit: Tensor
    held_out_data: Examples
    held_out: Tensor
    notes: tuple[str, ...]

    @property
    def fit_examples(self) -> Examples:
        """The fit split, in order."""
        return take(self.data, self.fit, "fit")

    @property
    def held_out_examples(self) -> Examples:
        """The held-out split, in order."""
        return take(self.held_out_data, self.held_out, "held out")


def take(examples: Examples, rows: Tensor, what: str) -> Examples:
    """The examples `rows`, in their order."""
    labels = None if examples.labels is None else examples.labels[rows]
    return replace(examples, data=examples.data[rows], labels=labels, name=f"{examples.name} ({len(rows)} {what})")


def split(model: DiffusionModel, data: Examples, held_out: Examples | None, seed: int) -> Split:
    """Half of what the model was not trained on to fit, half to certify; all of it each where `held_out` is given.

    Equal examples (by hash) are one: they never lie on both sides, and only one of them is used; but where more than
    `REPEATS` of the data are equal to others they are so by their law, and each counts. Errors: UsageError where too
    few are left.
    """
    notes: list[str] = []
    if model.trained_on is None:
        notes.append("the model does not say what it was trained on: see to it that these are other examples")
    fresh = _fresh(model, data, seed, notes, "data")
    if held_out is None:
        count = min(len(fresh) // 2, MOST_HELD_OUT)
        certify, fit, other = fresh[:count], fresh[count:], data
    else:
        other = held_out
        certify = _fresh(model, held_out, seed, notes, "held-out data")[:MOST_HELD_OUT]
        both = torch.isin(data.hashes[fresh], other.hashes[certify])
        if float(both.double().mean()) > REPEATS and len(other.hashes.unique()) < (1 - REPEATS) * len(other):
            both[:] = False
        if bool(both.any()):
            notes.append(f"{int(both.sum())} examples of the data are held out as well and are not fitted to")
        fit = fresh[~both]
    fit = fit[:MOST_FIT]
    if len(fit) < LEAST_FIT or len(certify) < LEAST_HELD_OUT:
        raise UsageError(
            f"{len(fit)} examples to fit and {len(certify)} to certify, none of which the model was trained on",
            f"give data with at least {LEAST_FIT + max(LEAST_FIT, LEAST_HELD_OUT)} examples that it was not trained on",
        )
    if len(fit) < FEW:
        notes.append(f"{len(fit)} examples are few to fit to: what they do not settle is kept simple")
    return Split(data, fit.sort().values, other, certify.sort().values, tuple(notes))


def _fresh(model: DiffusionModel, data: Examples, seed: int, notes: list[str], what: str) -> Tensor:
    """Rows that the model was not trained on, the first of equal ones, in a keyed random order."""
    hashes = data.hashes
    order = torch.argsort(hashes, stable=True)
    first = torch.ones(len(hashes), dtype=torch.bool)
    first[order[1:]] = hashes[order[1:]] != hashes[order[:-1]]
    if float((~first).double().mean()) > REPEATS:
        first[:] = True
    if not bool(first.all()):
        notes.append(f"{int((~first).sum())} examples of the {what} are there twice and count once")
    if model.trained_on is not None:
        seen = torch.isin(hashes, model.trained_on)
        if bool(seen.any()):
            notes.append(f"{int(seen.sum())} examples of the {what} are training data and are left out")
        first &= ~seen
    rows = first.nonzero()[:, 0]
    return rows[random.permutation(seed, len(rows))]

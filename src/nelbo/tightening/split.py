"""Which examples are fitted to and which the certificate is about: disjoint, and none of them training data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.examples import REPRESENTATIVE, Examples
from nelbo.model.frozen import FrozenModel

LEAST_FIT = 16
LEAST_HELD_OUT = REPRESENTATIVE
"""So many that the error of the certificate can be measured."""
FEW = 100
"""Fit examples below which the fit is strongly shrunk, and a note says so."""
MOST_FIT = 400
MOST_HELD_OUT = 200
REPEATS = 0.1
"""Share of equal examples from which on equality is taken for a property of the data's law, not for copies."""


@dataclass(frozen=True, eq=False)
class FitSplit:
    """Rows of `data` that are fitted to, rows of `held_out_data` (possibly the same data) that certify, and notes."""

    data: Examples
    fit: Tensor
    held_out_data: Examples
    held_out: Tensor
    notes: tuple[str, ...]

    @property
    def fit_examples(self) -> Examples:
        """The examples that are fitted to, in order."""
        return _subset(self.data, self.fit, "fit")

    @property
    def held_out_examples(self) -> Examples:
        """The examples that certify, in order."""
        return _subset(self.held_out_data, self.held_out, "held out")


def split(model: FrozenModel, data: Examples, held_out: Examples | None, seed: int) -> FitSplit:
    """Half of the usable data to fit and half to certify; all of `data` to fit where `held_out` is given.

    Training data are not usable. Of examples with equal hashes only one is, so that none lies on both sides; but where
    more than `REPEATS` of the data equal others, their law makes them so, and each counts. Errors: UsageError where too
    few are left.
    """
    notes: list[str] = []
    if model.trained_on is None:
        notes.append("the model does not say what it was trained on: make sure that these are other examples")
    usable = _usable(model, data, seed, notes, "data")
    if held_out is None:
        count = min(len(usable) // 2, MOST_HELD_OUT)
        certify, fit, other = usable[:count], usable[count:], data
    else:
        other = held_out
        certify = _usable(model, held_out, seed, notes, "held-out data")[:MOST_HELD_OUT]
        both = torch.isin(data.hashes[usable], other.hashes[certify])
        if float(both.double().mean()) > REPEATS and len(other.hashes.unique()) < (1 - REPEATS) * len(other):
            both[:] = False
        if bool(both.any()):
            notes.append(f"{int(both.sum())} examples of the data are held out as well and are not fitted to")
        fit = usable[~both]
    fit = fit[:MOST_FIT]
    if len(fit) < LEAST_FIT or len(certify) < LEAST_HELD_OUT:
        raise UsageError(
            f"{len(fit)} examples to fit and {len(certify)} to certify, none of which the model was trained on",
            f"give data with at least {LEAST_FIT + max(LEAST_FIT, LEAST_HELD_OUT)} examples that it was not trained on",
        )
    if len(fit) < FEW:
        notes.append(f"only {len(fit)} examples to fit to: what they cannot determine is shrunk to a simpler form")
    return FitSplit(data, fit.sort().values, other, certify.sort().values, tuple(notes))


def _usable(model: FrozenModel, data: Examples, seed: int, notes: list[str], what: str) -> Tensor:
    """Rows that are no training data, the first of equal ones, in a keyed random order."""
    hashes = data.hashes
    order = torch.argsort(hashes, stable=True)
    usable = torch.ones(len(hashes), dtype=torch.bool)
    usable[order[1:]] = hashes[order[1:]] != hashes[order[:-1]]
    if float((~usable).double().mean()) > REPEATS:
        usable[:] = True
    if not bool(usable.all()):
        notes.append(f"{int((~usable).sum())} examples of the {what} are copies of others and are left out")
    if model.trained_on is not None:
        trained = torch.isin(hashes, model.trained_on)
        if bool(trained.any()):
            notes.append(f"{int(trained.sum())} examples of the {what} are training data and are left out")
        usable &= ~trained
    rows = usable.nonzero()[:, 0]
    return rows[Purpose.SPLIT_ORDER.permutation(seed, len(rows))]


def _subset(examples: Examples, rows: Tensor, what: str) -> Examples:
    return examples.take(rows, f"{examples.name} ({len(rows)} {what})")

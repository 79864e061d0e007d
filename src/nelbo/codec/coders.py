"""The coder of a model, of images or of sequences: which models have one, and how far their rounding is guarded."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from nelbo.codec import support
from nelbo.codec.bitswap import Coder
from nelbo.codec.groups import AnyCoder
from nelbo.codec.sequences import SequenceCoder
from nelbo.codec.tally import Clock
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Condition

Model = DiffusionModel | TokenModel
_SEQUENCES = 4
_STEPS = 4


def check(model: Model) -> None:
    """Errors: UsageError where a model, or its grid, cannot be coded."""
    if isinstance(model, DiffusionModel):
        support.check(model)
        return
    if not model.kernel.absorbing:
        raise UsageError(
            f"coding under a model with the kernel {model.kernel.kind!r}, whose places may change until the last step",
            "models of masked places are coded, whose symbols come one after the other: kernel=tokens.absorbing(mask)",
        )
    if not (model.reverse.carry_over and model.reverse.remove_mask):
        raise UsageError(
            "coding under a model that gives probability to the mask, or to changes of what is visible",
            "make it with remove_mask=True and carry_over=True, whose bound is the tighter one",
        )


def levels(model: Model) -> int:
    """Levels of the lattices of a model of images; 0 of one of symbols, which needs none."""
    return len(model.levels()) if isinstance(model, DiffusionModel) else 0


@overload
def coder_of(
    model: DiffusionModel,
    r: float,
    batch: int,
    widths: tuple[int, ...] | None = ...,
    seed: int = ...,
    clock: Clock | None = ...,
) -> Coder: ...
@overload
def coder_of(
    model: Model, r: float, batch: int, widths: tuple[int, ...] | None = ..., seed: int = ..., clock: Clock | None = ...
) -> AnyCoder: ...
def coder_of(
    model: Model,
    r: float,
    batch: int,
    widths: tuple[int, ...] | None = None,
    seed: int = 0,
    clock: Clock | None = None,
) -> AnyCoder:
    """The coder of a model in float64. widths, r: of an archive's lattices, of images."""
    if isinstance(model, TokenModel):
        return SequenceCoder(model, batch, seed, clock or Clock())
    return Coder(model, r, batch, widths, seed, clock or Clock())


def guard_band(coder: AnyCoder, codes: Tensor, condition: Condition | None) -> int:
    """τ of a network, as of `support.guard_band`. Errors: NumericalError."""
    if isinstance(coder, Coder):
        return support.guard_band(coder, codes, condition)
    sequences, codes = coder, codes[:_SEQUENCES]
    some = None if condition is None else {name: rows[: len(codes)] for name, rows in condition.items()}
    steps = torch.linspace(0, sequences.count_steps(len(codes)) - 1, _STEPS)
    worst = [
        support.difference(lambda rows, k=k: sequences.numbers(codes, some, rows, k), len(codes))
        for k in sorted({round(step) for step in steps.tolist()})
    ]
    return support.tau_of(max(worst))

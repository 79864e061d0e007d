"""What a few logits of a network over symbols say against its declaration: that they are probabilities, or rounded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.model.tokens.denoiser import TokenOutput

SUM = 2e-2
"""How far the sums of probabilities are from 1, in the coarsest precision."""


class Answer(NamedTuple):
    """Something that was looked at, and what is amiss with it; None where nothing is."""

    name: str
    amiss: str | None


def of_logits(logits: Tensor, declared: TokenOutput, coarse: bool) -> list[Answer]:
    """What the output (B, L, V) of a network says of itself. coarse: whether 16 bits were asked for."""
    values = logits.detach().float().flatten(0, 1)
    sums = values.sum(-1)
    probabilities = bool((values >= 0).all()) and bool(((sums - 1).abs() < SUM).all())
    soft = probabilities and declared is not TokenOutput.PROBABILITIES and values.shape[-1] > 1
    finite = values[torch.isfinite(values)]
    rounded = not coarse and len(finite) > 0 and bool((finite == finite.bfloat16().float()).all())
    rounded &= len(finite.unique()) > 16  # a table of few round numbers is no rounding
    return [
        Answer(
            "output",
            "the network's output is at least 0 and sums to 1 at every place, as probabilities do and logits do not: "
            "declare predicts='probabilities'"
            if soft
            else None,
        ),
        Answer(
            "precision of the logits",
            "the network's logits are numbers of bfloat16, with an error of up to 1 part in 256 of each: compute its "
            "last layer in float32; the bound moves with the rounding, and no error bar shows it"
            if rounded
            else None,
        ),
    ]

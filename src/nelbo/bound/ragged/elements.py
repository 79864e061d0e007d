"""Terms of examples of different size: what is there is laid out as rows of one number each, and their nats summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction


def over(there: Tensor | None, term: Callable[..., Tensor], *parts: Any) -> Tensor:
    """term(*parts), (b,) nats, of what is there (b, *shape) alone; of all where there is None.

    parts: tensors and predictions (b, *shape), which become rows (n, 1) of the n numbers that are there; tensors and
    levels (b,), which become those of each row; anything else stays. The term must be a sum over numbers.
    """
    if there is None:
        return term(*parts)
    of = there.nonzero()[:, 0]

    def rows(part: Any) -> Any:
        if isinstance(part, Prediction):
            return _prediction(part, there)
        if isinstance(part, Tensor):
            return part[there][:, None] if part.ndim > 1 else part[of]
        return part[of] if isinstance(part, Levels) else part

    return summed(term(*(rows(part) for part in parts)), there)


def summed(nats: Tensor, there: Tensor) -> Tensor:
    """Sums (b,) of the nats (n,) of the numbers that are there, one after the other: the same to the bit for any
    padding."""
    of = there.nonzero()[:, 0]
    return torch.zeros(len(there), dtype=nats.dtype, device=nats.device).index_add(0, of, nats)


def _prediction(prediction: Prediction, there: Tensor) -> Prediction:
    def rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[there][:, None]

    return replace(
        prediction,
        x0=prediction.x0[there][:, None],
        variance=rows(prediction.variance),
        log_probs=rows(prediction.log_probs),
        z=rows(prediction.z),
        mixture=None,
        output=None,
    )

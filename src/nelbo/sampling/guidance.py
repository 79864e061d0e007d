"""Classifier-free guidance: x̂ = x̂_null + w (x̂_condition − x̂_null), before clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from nelbo.errors import ShapeError, UsageError
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction
from nelbo.typing import Condition


@dataclass(frozen=True, eq=False)
class Guidance:
    """The scale w and the network's null condition: one row (a class, a vector) for each keyword, or no keyword.

    w = 1 is the conditional model, 0 the unconditional one. Source: Ho & Salimans 2022, eq. 6 with w for 1 + w.
    """

    scale: float
    null: Mapping[str, Tensor]

    def predict(self, model: DiffusionModel, z: Tensor, t: Levels, condition: Condition) -> Prediction:
        """The guided prediction at z (B, …) and levels t (B,): two network evaluations.

        The log-probabilities of a categorical head, from which a decoder draws, are guided like x̂ and normalised; a
        learned variance is that of the condition.
        """
        conditional = model.denoiser(z, t, condition)
        null = {k: v.to(z.device).expand(len(z), *v.shape) for k, v in self.null.items()}
        unconditional = model.denoiser(z, t, null)
        log_probs = conditional.log_probs
        if log_probs is not None and unconditional.log_probs is not None:
            log_probs = (unconditional.log_probs + self.scale * (log_probs - unconditional.log_probs)).log_softmax(-1)
        x0 = unconditional.x0 + self.scale * (conditional.x0 - unconditional.x0)
        return model.reverse.prepared(replace(conditional, x0=x0, log_probs=log_probs), z)


def make_guidance(
    scale: float | None, null: Mapping[str, Tensor] | None, condition: Mapping[str, Tensor] | None
) -> Guidance | None:
    """The guidance of these options; None where there is none. Errors: UsageError, ShapeError."""
    if scale is None and null is None:
        return None
    rows, given = condition_rows(null), condition_rows(condition)
    if scale is None or null is None or not condition:
        raise UsageError(
            f"guidance {scale} with {'a' if condition else 'no'} condition and {'no' if null is None else 'a'} null "
            "condition",
            "give all three: condition={'y': classes}, guidance=3.0, and what the network takes for no class: "
            "null_condition={'y': torch.tensor(10)}, or {} for a call without the keyword",
        )
    for name, row in rows.items():
        shape = given[name].shape[1:] if name in given else row.shape
        if row.shape != shape:
            raise ShapeError(
                f"the null condition {name!r} has shape {tuple(row.shape)} where one row has {tuple(shape)}",
                "give one row: it serves every sample",
            )
    return Guidance(float(scale), rows)

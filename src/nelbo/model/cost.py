"""What one evaluation of a model costs, before anything is timed."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from nelbo.errors import NelboError
from nelbo.model.diffusion import DiffusionModel


def flops_per_evaluation(model: DiffusionModel) -> int | None:
    """Floating-point operations of one prediction for one example: matrix products, convolutions and attention, as
    `torch.utils.flop_counter` counts them (a multiplication and an addition are two).

    None where it cannot be told: a network that wants a condition, or one that does not compute with torch's own.
    """
    last = model.levels()[-1:]
    z = torch.zeros(1, *model.domain.shape, dtype=torch.float64, device=last.logsnr.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), model.denoiser.inference():
        try:
            model.predict(z, last)
        except (NelboError, RuntimeError, TypeError, ValueError, IndexError):
            return None
    return counter.get_total_flops() or None

"""What a network is told of examples of different size, and that it heeds nothing else of the padding."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.opened import plain
from nelbo.model.predictor import Predictor
from nelbo.process import forward

THERE = ("mask", "node_mask", "point_mask", "attention_mask")
NOT_THERE = ("padding_mask", "key_padding_mask", "src_key_padding_mask")
"""Names under which a network takes a mask: True for what is there, and True for padding."""
_ALIKE = 1e-3
"""Of the root mean square of x̂: a change that padding may make by rounding."""


def mask_rows(denoiser: Predictor, there: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mask under the name that the network takes it; nothing for one that takes none."""
    net = getattr(denoiser, "net", None)
    if net is None:
        return {}
    function = plain(net)
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return {}
    others = getattr(function, "keywords", ())
    for names, rows in ((THERE, there), (NOT_THERE, ~there)):
        for name in names:
            if (name in parameters or name in others) and name not in given:
                return {name: rows}
    return {}


def check_padding(chain: RaggedChain, runner: Runner) -> None:
    """Errors: UsageError where x̂ of what is there depends on what the padding holds. Two evaluations of an example."""
    full = (~chain.there).flatten(1).sum(1)
    if not bool(full.any()):
        return
    rows = full.argmax().reshape(1)
    model, there = chain.model, chain.there_of(rows)
    middle = chain.levels[len(chain.levels) // 2 : len(chain.levels) // 2 + 1]
    if chain.cells.continuous:
        logsnr = chain.levels.logsnr.mean().reshape(1)
        middle = model.schedule.at(model.schedule.time_of(logsnr))
    eps = Purpose.TRIAL_NOISE.normal(chain.seed, rows, shape=model.domain.shape, device=chain.device)
    z = forward.noised(chain.values(rows), eps, middle)
    condition = chain.condition_of(rows)
    with torch.no_grad():
        answers = [
            model.denoiser(torch.where(there, z, filled), middle, condition).x0[there]
            for filled in (torch.zeros_like(z), 3 * eps + 1)
        ]
    runner.count(2)
    apart = float((answers[0] - answers[1]).abs().max())
    size = float(answers[0].square().mean().sqrt()) or 1.0
    if not apart <= _ALIKE * size * (100 if model.denoiser.coarse else 1):
        raise UsageError(
            "the network's answer for what is there depends on what the padding holds: it changes by "
            f"{apart / size:.2g} of its predictions' size",
            f"mask its sums and its attention; it is given the mask as {' or '.join(THERE)} (True: there) or "
            f"{' or '.join(NOT_THERE)} (True: padding), where its signature has one of these names. A network that "
            "sees all columns of a table and is told of no mask gives no marginal of some of them",
        )

"""`bound_loss`: the bound of a batch with its gradient, for those who train with it in a loop of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nelbo.arguments import numbers
from nelbo.bound.ragged import chain as ragged
from nelbo.bound.ragged.padding import aligned
from nelbo.errors import UnknownNameError, UsageError
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training.batches import Batch
from nelbo.training.criterion import Criterion
from nelbo.training.objective import BoundObjective
from nelbo.training.times import TimeSampler, TimeSampling
from nelbo.training.weighting import FLAT
from nelbo.typing import Condition

_LARGEST = 2**31


@numbers
def bound_loss(
    model: DiffusionModel,
    x: Tensor | Any,
    *,
    condition: Condition | None = None,
    mask: Tensor | None = None,
    times: str | TimeSampler = "low_discrepancy",
    reconstruction_share: float = 0.125,
    seed: int | None = None,
    step: int = 0,
) -> Tensor:
    """An unbiased estimate of the mean bound of the examples x (B, *shape), a scalar in bits/dim with its gradient.

        (1/B) Σ_i [ diffusion(x_i, t_i)/p(t_i) + prior(x_i) ]  +  the mean reconstruction of a share of the batch

    model: made of the network in training. x: the batch, as codes or values. condition: keywords of the network, one
    row an example. mask: what is there of examples of different size, (B, n) or (B, *shape), as of `nelbo.evaluate`;
    bits/dim are then all nats of the batch over all of its numbers. times: one an example; "low_discrepancy" (one
    uniform number for the batch, spread evenly over it, so that the loss varies less), "uniform" (independent ones),
    `nelbo.monitoring.planned_times(model, data)` (drawn where the gradient is expected to be large, so that it varies
    less), or another `nelbo.training.times.TimeSampler`, which with importance sampling learns p from the losses that
    its `observe` is given. reconstruction_share: the part of the batch that the first level is scored on. seed, step:
    the noise is keyed by both; None draws a seed from torch's global generator, as dropout does.

    The network is called in the mode it is in, with one evaluation an example and one for each of that share where the
    decoder calls it. A clip of x̂ is left out, since it has no gradient outside of its range.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError. Source: Kingma et al. 2021, eq. 11-17 and appendix I.

    >>> import nelbo, torch
    >>> net = torch.nn.Conv1d(1, 1, 3, padding=1)
    >>> model = nelbo.from_callable(lambda z, t: net(z[:, None])[:, 0], schedule=nelbo.schedules.linear(T=100),
    ...                             domain=nelbo.DataDomain((8,), bins=4))
    >>> nelbo.bound_loss(model, torch.randint(0, 4, (16, 8))).backward()
    >>> bool(net.weight.grad.abs().sum() > 0)
    True
    """
    if not isinstance(model, DiffusionModel):
        raise UsageError(f"a loss of a {type(model).__name__}", "give what nelbo.from_callable made")
    if step < 0:
        raise UsageError(f"step={step}", "give the number of the step, from 0 on")
    if isinstance(times, str):
        named = {kind.value: kind for kind in TimeSampling if kind.value in ("uniform", "low_discrepancy")}
        if times not in named:
            raise UnknownNameError.of("sampling of times", times, named)
        times = TimeSampler(named[times])
    if not 0 < reconstruction_share <= 1:
        raise UsageError(f"reconstruction_share={reconstruction_share}", "give a share of the batch, above 0 up to 1")
    if seed is None:
        seed = int(torch.randint(_LARGEST, ()))
    data, there = torch.as_tensor(x), None
    if mask is not None:
        ragged.check(model)
        given = Examples(data).with_mask(mask)
        data, _, there = aligned(given.data, given.mask, model.domain)  # type: ignore[arg-type]  # as given
    target = model.domain.checked(data)
    rows = condition_rows(condition, len(target))
    batch = Batch(target, seed, step, condition=rows or None, mask=there)
    return Criterion(BoundObjective(FLAT, reconstruction_share), times)(model, batch)["loss"]

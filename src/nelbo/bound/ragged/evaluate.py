"""`evaluate` of examples of different size, in bits/dim: all nats over all elements that are there."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from nelbo.bound import checks
from nelbo.bound.estimate import Estimate, SizedPerExample
from nelbo.bound.evaluate import Effort, choose, estimated
from nelbo.bound.prepare import Prepared, Setup, in_bits
from nelbo.bound.ragged import chain as chains
from nelbo.bound.ragged.chain import RaggedChain
from nelbo.bound.ragged.padding import aligned
from nelbo.bound.result import Bound
from nelbo.bound.runner import Runner
from nelbo.bound.trial import trial
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.opened import plain
from nelbo.model.predictor import Predictor
from nelbo.process import forward
from nelbo.process.grid import Grid
from nelbo.workers import Run

THERE = ("mask", "node_mask", "point_mask", "attention_mask")
NOT_THERE = ("padding_mask", "key_padding_mask", "src_key_padding_mask")
"""Names under which a network takes a mask: True for what is there, and True for padding."""
_ALIKE = 1e-3
"""Of the root mean square of x̂: a change that padding may make by rounding."""


def evaluate(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    mask: Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
    **effort: Unpack[Effort],
) -> Bound:
    """The bound of examples (N, n, …) of which only the elements of `mask` are there, (N, n) or of the data's shape.

    All terms are sums over these, D is that of each example, and bits/dim are all nats over all of them, with the
    sampling error of a ratio. The first axis of the model's domain is the most positions of an example. The network is
    given the mask under the name that it has for it (`THERE`, `NOT_THERE`); what it says where nothing is does not
    count, and a network is refused whose answer depends on what the padding holds. The bound is that of
    p(x | which elements are there). All else is as of `nelbo.bound.evaluate.evaluate`.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, CostError.
    """
    started = time.perf_counter()
    prepared = prepare(model, data, mask, run, grid=grid, condition=condition, watch=watch)
    chain, runner = prepared.chain, prepared.runner
    there = Examples(chain.there.long()).fingerprint

    def before() -> list[str]:
        notes = trial(chain, runner)
        _check_padding(chain, runner)
        return notes

    estimate, fields = estimated(
        prepared,
        chain,
        choose(chain, **effort),
        checks.overlap(model, prepared.examples),
        effort,
        before=before,
        finish=lambda estimate: _with_sizes(chain, estimate),
        amiss=lambda estimate: [],
        there=there,
    )
    sizes = chain.sizes
    fields["data"] |= {
        "sizes": {"smallest": int(sizes.min()), "largest": int(sizes.max()), "total": int(sizes.sum())},
        "mask": there,
    }
    fields["seconds"] = time.perf_counter() - started
    D = chain.dimensions
    a_number = estimate.over(sizes).scaled(D * chain.examples / int(sizes.sum()))
    return Bound.of(a_number, D, fields, representative=prepared.examples.representative)


def prepare(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    mask: Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
) -> Prepared[DiffusionModel, RaggedChain]:
    """`data` and `mask` under `model`, checked."""
    setup = Setup.of(model, data, run, grid)
    model = setup.model
    chains.check(model)
    values, there, of_positions = aligned(setup.examples.data, mask, model.domain)
    checked = model.domain.checked(values)
    rows = condition_rows(condition, len(checked))
    shown = there.reshape(*there.shape[:2], -1)[..., 0] if of_positions else there
    rows = {**rows, **_mask_rows(model.denoiser, shown, rows)}
    chain = RaggedChain(
        model=setup.in_precision(),
        data=checked,
        condition=rows,
        seed=setup.run.seed,
        device=setup.device,
        dtype=setup.dtype,
        there=there,
    )
    return setup.prepared(checked, chain, model.domain.dimensions, in_bits(watch, chain.dimensions))


def _mask_rows(denoiser: Predictor, there: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mask under the name that the network takes it; nothing for one that takes none."""
    net = getattr(denoiser, "net", None)
    if net is None:
        return {}
    function = plain(net)
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return {}
    for names, rows in ((THERE, there), (NOT_THERE, ~there)):
        for name in names:
            if name in parameters and name not in given:
                return {name: rows}
    return {}


def _check_padding(chain: RaggedChain, runner: Runner) -> None:
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
            f"{' or '.join(NOT_THERE)} (True: padding), where its signature has one of these names",
        )


def _with_sizes(chain: RaggedChain, estimate: Estimate) -> Estimate:
    rows = estimate.per_example
    if rows is None:
        return estimate
    return dataclasses.replace(estimate, per_example=SizedPerExample(**vars(rows), dimensions=chain.sizes))

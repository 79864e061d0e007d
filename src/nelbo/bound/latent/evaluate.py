"""`evaluate` of a latent model: images are encoded once, and their bound is estimated as any other."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from nelbo.bound import calibration, checks, contradictions, lattices
from nelbo.bound.estimate import Estimate, LatentEstimate, LatentPerExample, TermEstimate
from nelbo.bound.evaluate import Effort, choose, estimated
from nelbo.bound.latent.chain import LatentChain
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.planned.laps import random_examples
from nelbo.bound.planned.passes import Passes
from nelbo.bound.prepare import Prepared, Setup, in_bits
from nelbo.bound.problem import Draws
from nelbo.bound.result import Bound
from nelbo.bound.runner import Runner
from nelbo.bound.trial import EVALUATIONS, trial, tried
from nelbo.errors import UsageError
from nelbo.maths.keys import Purpose
from nelbo.model.calling import condition_rows
from nelbo.model.examples import Examples
from nelbo.model.latent.model import UNFITTED, LatentModel
from nelbo.process.grid import Grid
from nelbo.workers import Run

SPLIT = 256
"""Draws that tell the first level's term of the prior from the likelihood's, where both are random."""


def evaluate(
    model: LatentModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
    **effort: Unpack[Effort],
) -> Bound:
    """The bound −log p(x) ≤ pixels + encoder + prior + diffusion + reconstruction of images under a latent model.

    In bits/dim of the images; network evaluations are those of encoder (one an example), decoder and prior together.
    All else is as of `nelbo.bound.evaluate.evaluate`.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, CostError.
    Source: Vahdat et al. 2021, eq. 2; Kingma & Welling 2014, eq. 3.
    """
    started = time.perf_counter()
    prepared = prepare(model, data, run, grid=grid, condition=condition, watch=watch)
    chain, runner = prepared.chain, prepared.runner
    notes = checks.overlap(model, prepared.examples)
    notes += lattices.notes(model.domain, chain.data, chain.release)
    if UNFITTED in model.provenance:
        notes.append(
            "the scale of the likelihood was not fitted, and the bound is larger for it: "
            "model = nelbo.latent.fit_likelihood(model, other_images) fits it to images that are not evaluated"
        )
    max_nfe, per_example = effort.get("max_nfe"), effort.get("per_example", False)
    beside = runner.nfe + 3 * EVALUATIONS + FirstLevel.cost(chain, every=per_example)
    left = None if max_nfe is None else max_nfe - beside
    if left is not None and left < 1:
        raise UsageError(
            f"max_nfe={max_nfe} of a latent model and {chain.examples} examples",
            f"allow more than {beside}, which encoding them and trying the networks take, or give fewer examples",
        )
    chosen = choose(chain, **{**effort, "max_nfe": left})
    if isinstance(chosen, (Adaptive, Passes)) and chosen is not effort.get("estimator"):
        chosen = chosen.within(max_nfe)  # it counts what was spent before
    of_prior: list[FirstLevel] = []

    def before() -> list[str]:
        notes = trials(chain, runner)
        of_prior.append(FirstLevel.of(chain, runner, every=per_example))
        return notes

    estimate, fields = estimated(
        prepared,
        chain,
        chosen,
        notes,
        effort,
        before=before,
        finish=lambda estimate: in_five(chain, of_prior[0], estimate),
        amiss=lambda estimate: _amiss(chain, estimate),
    )
    fields["seconds"] = time.perf_counter() - started
    return Bound.of(estimate, chain.dimensions, fields, representative=prepared.examples.representative)


def prepare(
    model: LatentModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    watch: Callable[[float, float], None] | None = None,
) -> Prepared[LatentModel, LatentChain]:
    """`data` under `model`, checked and encoded."""
    setup = Setup.of(model, data, run, grid)
    model, examples, device = setup.model, setup.examples, setup.device
    examples.check_whole("a latent model", "its encoder is one of whole images")
    checked = model.domain.checked(examples.data, release=examples.release)
    rows = condition_rows(condition, len(checked))
    D = model.domain.dimensions
    runner = Runner(setup.run, max(D, model.prior.domain.dimensions), in_bits(watch, D))
    asked = setup.in_precision()
    mean, std = encoded(asked, checked, runner.batch_size, device, examples.release)
    runner.count(len(checked))
    chain = LatentChain(
        model=asked,
        data=checked,
        mean=mean,
        std=std,
        condition=rows,
        seed=setup.run.seed,
        device=device,
        dtype=setup.dtype,
        release=examples.release,
    )
    return setup.prepared(checked, chain, D, runner=runner)


def encoded(
    model: LatentModel,
    data: Tensor,
    batch_size: int,
    device: torch.device,
    release: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z′ | x) of all images, (N, *latent) on the CPU as the network says them; the
    latter with one row where it is the same for all."""
    means, stds = [], []
    with torch.no_grad(), model.encoder.inference():
        for some in torch.arange(len(data)).split(batch_size):
            rows = data[some]
            release()
            mean, std = model.encode(model.domain.values(rows.to(device)))
            means.append(mean.cpu())
            stds.append(std.cpu())
    if all(len(std) == 1 for std in stds) and len(data) > 1:
        return torch.cat(means), stds[0]
    return torch.cat(means), torch.cat(stds)


@dataclass(frozen=True, eq=False)
class FirstLevel:
    """−E log p(z | z_1) apart from the likelihood's term: its estimate, and that of every example (N,), nan where only
    some were looked at. random: whether it is a part of the draws of the first level."""

    term: TermEstimate
    of_each: Tensor
    random: bool

    @staticmethod
    def cost(chain: LatentChain, *, every: bool) -> int:
        """Evaluations of `of`."""
        return 0 if chain.free_first else (2 * chain.examples if every else min(SPLIT, 2 * chain.examples))

    @classmethod
    def of(cls, chain: LatentChain, runner: Runner, *, every: bool) -> FirstLevel:
        """Exact where it can be; else from draws of its own, two of every example or `SPLIT` of random ones."""
        N = chain.examples
        each = torch.full((N,), math.nan, dtype=torch.float64)
        if chain.free_first:
            value = chain.reconstruction()
            return cls(TermEstimate(value, 0.0, 0.0), each.fill_(value), False)
        if every or 2 * N <= SPLIT:
            examples, numbers = torch.arange(N).repeat(2), torch.arange(2 * N)
        else:
            numbers = torch.arange(SPLIT)
            examples = random_examples(chain.seed, torch.full((N,), 1 / N, dtype=torch.float64), 0, numbers)
        draws = Draws.first_level(examples, Purpose.LATENT_SPLIT.draw + numbers)
        nats = runner.nats(chain.inner, draws)
        if len(nats) == 2 * N:
            first, second = nats.reshape(2, N)
            value = (first + second) / 2
            return cls(TermEstimate.of(value, (first - second).square() / 4), value, True)
        return cls(TermEstimate(float(nats.mean()), float(nats.var()) / len(nats), math.nan), each, True)


def in_five(chain: LatentChain, inner: FirstLevel, estimate: Estimate) -> LatentEstimate:
    """The estimate with its exact and first-level terms taken apart; the total stays.

    Where the prior's part of the first level is random the likelihood's is the rest, whose error is that of both.
    """
    every = torch.arange(chain.examples).split(256)
    kl = torch.cat([chain.inner.prior(rows) for rows in every])
    entropy = torch.cat([chain.entropy(rows) for rows in every])
    exact, first, rows = torch.zeros_like(kl), estimate.reconstruction, estimate.per_example
    pixels = first
    if inner.random:
        pixels = TermEstimate(first.mean - inner.term.mean, first.variance + inner.term.variance, first.data_variance)
    values = {f.name: getattr(estimate, f.name) for f in dataclasses.fields(estimate)}
    if rows is not None:
        rest = rows.reconstruction - inner.of_each if inner.random else rows.reconstruction
        values["per_example"] = LatentPerExample(
            rows.nats, rows.standard_error, kl, rows.diffusion, inner.of_each, rest, entropy
        )
    values |= {
        "prior": TermEstimate.of(kl, exact),
        "reconstruction": inner.term,
        "pixels": pixels,
        "encoder": TermEstimate.of(entropy, exact),
    }
    return LatentEstimate(**values)


def trials(chain: LatentChain, runner: Runner) -> list[str]:
    """Whether the networks answer twice alike, and each example by itself: prior, encoder and decoder."""
    model, rows = chain.model, torch.tensor([0, min(1, chain.examples - 1)])
    x = model.domain.values(chain.data[rows].to(chain.device))
    z = chain.inner.values(rows)

    def encoder(start: int) -> Tensor:
        with torch.no_grad():
            return model.encode(x[start:]).mean

    def decoder(start: int) -> Tensor:
        with torch.no_grad():
            return model.decode(z[start:])

    notes = trial(chain.inner, runner)
    for network, ask in ((model.encoder, encoder), (model.decoder, decoder)):
        notes += tried(network, runner, lambda ask=ask: (ask(0), ask(1), ask(0)))
    return notes


def _amiss(chain: LatentChain, estimate: Estimate) -> list[str]:
    """What the draws say against the prior, as of every model of real values."""
    inner = chain.inner
    kl = torch.cat([inner.prior(rows) for rows in torch.arange(chain.examples).split(256)])
    of_prior = dataclasses.replace(estimate, prior=TermEstimate.of(kl, torch.zeros_like(kl)))
    notes = [*contradictions.notes(inner, of_prior), *checks.sanity(inner, of_prior)]
    return notes or calibration.notes(inner, of_prior)

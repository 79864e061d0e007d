"""`evaluate` of a model of symbols: its chain, the evaluation that all sequences share, and the result."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.estimate import Estimate, PerExample, PerSequence, Stratum, TermEstimate
from nelbo.bound.evaluate import Effort, choose, estimated
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import Prepared, Setup, examples_of, in_bits
from nelbo.bound.result import Bound
from nelbo.bound.runner import Runner
from nelbo.bound.tokens import answers
from nelbo.bound.tokens.blocks import BlockChain
from nelbo.bound.tokens.chain import TokenChain
from nelbo.bound.tokens.foretold import ForetoldChain
from nelbo.bound.tokens.masked import MaskedChain
from nelbo.bound.tokens.noised import NoisedChain
from nelbo.bound.trial import tried
from nelbo.maths.keys import Purpose
from nelbo.maths.units import LOG_2
from nelbo.model.calling import condition_rows
from nelbo.model.examples import Examples
from nelbo.model.tokens.denoiser import NetworkTokenDenoiser
from nelbo.model.tokens.domain import check_same_symbols, scored_places
from nelbo.model.tokens.model import TokenModel
from nelbo.process.grid import Grid
from nelbo.process.tokens import counts
from nelbo.process.tokens.kernel import Absorbing
from nelbo.workers import Run

PILOT = 10
"""Sequences of a pilot: every draw shows the costs of dozens of places."""
ROUNDING = 1e-6
"""Of logits in float32."""
SYMBOLS = 16
"""Symbols of the vocabulary that cost about as much memory and time as one number of an image."""


def evaluate(
    model: TokenModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
    corpus: Examples | Tensor | Any | None = None,
    watch: Callable[[float, float], None] | None = None,
    **effort: Unpack[Effort],
) -> Bound:
    """The variational bound of sequences `data` (N, L) of integers under `model`, in bits a scored token.

    prompt (N, L): the places that are given, never noised and never scored; a number: so many at the beginning.
    mask (N, L): the places that are scored; the others (padding) are shown to the network as they are, so that the
    bound is of p(x | length). Both besides those of the `Examples`. corpus (M, L'): other sequences of the kind, such
    as those that the network was trained on, by whose n-grams costs are foretold: evaluations are saved, and what is
    estimated stays the same. All else is as of `nelbo.bound.evaluate.evaluate`.

    The value is Σ nats/Σ scored places, and where sequences differ in length the error of the data is that of a ratio.

    Errors: ShapeError, DomainError, UsageError, UnknownNameError, NumericalError, CostError.
    """
    started = time.perf_counter()
    prepared = prepare(model, data, run, grid=grid, condition=condition, prompt=prompt, mask=mask, watch=watch)
    counted = None if corpus is None else corpus_of(model, corpus)
    prepared = dataclasses.replace(prepared, chain=dataclasses.replace(prepared.chain, corpus=counted))
    chain, runner = prepared.chain, prepared.runner
    notes = [*checks.overlap(model, prepared.examples), *model.notes]
    scored = Examples(chain.scored.long()).fingerprint
    with chain.model.denoiser.inference():
        notes += trial(chain, runner)
        if isinstance(chain, MaskedChain) and chain.shareable:
            chain = dataclasses.replace(chain, all_hidden=chain.ask_all_hidden())
            runner.count(1)
    chosen = choose(chain, **effort)
    if isinstance(chain, ForetoldChain) and isinstance(chosen, Adaptive) and chosen is not effort.get("estimator"):
        chosen = dataclasses.replace(chosen, pilot=PILOT)
    estimate, fields = estimated(
        prepared,
        chain,
        chosen,
        notes,
        effort,
        finish=lambda estimate: with_last_step(chain, estimate),
        amiss=lambda estimate: worse_than_none(chain, estimate),
        scored=scored,
        corpus="none" if counted is None else counted.fingerprint,
    )
    total = int(chain.number.sum())
    fields["data"] |= {"tokens": total, "scored": scored, "law": law(chain, prepared.examples, prompt, mask)}
    representative, of_rows = prepared.examples.representative, None
    if prepared.examples.place_bytes is not None:
        of_rows = prepared.examples.place_bytes.masked_fill(~chain.scored, 0).sum(1)
        fields["data"]["bytes"] = int(of_rows.sum())
        variance = estimate.total.over(of_rows).data_variance
        if representative and math.isfinite(variance):
            mean = float(of_rows.double().mean())
            fields["data"]["bits_per_byte_error"] = math.sqrt(variance) / mean / LOG_2
    elif total < chain.data.numel():
        fields["data"].pop("bytes", None)  # those of the text that is scored are not known
    if fields["per_example"] is not None:
        fields["per_example"] = PerSequence(**vars(fields["per_example"]), tokens=chain.number, bytes=of_rows)
    fields["seconds"] = time.perf_counter() - started
    D = chain.dimensions
    return Bound.of(estimate.a_number(D, chain.number), D, fields, representative=representative)


def corpus_of(model: TokenModel, corpus: Examples | Tensor | Any) -> Examples:
    """The sequences in which neighbours are counted. Errors: DomainError; UsageError where their symbols are others."""
    given = corpus if isinstance(corpus, Examples) else Examples(torch.as_tensor(corpus))
    check_same_symbols(model.provenance.get("data", {}), given.facts, given.name)
    return dataclasses.replace(given, data=model.domain.symbols(given.data))


def law(chain: TokenChain, examples: Examples, prompt: Tensor | int | None, mask: Tensor | None) -> str:
    """Of which probability this is the bound, in words: what the network is shown besides the sequence is a condition
    of it."""
    given = ["length"] if mask is not None or examples.mask is not None else []
    given += ["given places"] if prompt is not None or examples.prompt is not None else []
    given += list(chain.condition)
    return f"p(x | {', '.join(given)})" if given else "p(x)"


def prepare(
    model: TokenModel,
    data: Examples | Tensor | Any,
    run: Run | None = None,
    *,
    grid: Grid | None = None,
    condition: Mapping[str, Tensor] | None = None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
    watch: Callable[[float, float], None] | None = None,
) -> Prepared[TokenModel, TokenChain]:
    """`data` under `model`, checked, as `nelbo.bound.prepare` does it for images."""
    examples = examples_of(data)
    setup = Setup.of(model.for_data(examples.data), examples, run, grid)
    model = setup.model
    check_same_symbols(model.provenance.get("data", {}), examples.facts, examples.name)
    checked = model.domain.checked(examples.data)
    scored = scored_places(checked, prompt, mask)
    if examples.prompt is not None or examples.mask is not None:
        scored = scored_places(
            checked, ~scored if examples.prompt is None else examples.prompt | ~scored, examples.mask
        )
    model.check_symbols(checked, scored)
    made = NoisedChain if not model.kernel.absorbing else MaskedChain if model.reverse.block is None else BlockChain
    chain = made(
        model=setup.in_precision(),
        data=checked,
        scored=scored,
        condition=condition_rows(condition, len(checked)),
        seed=setup.run.seed,
        device=setup.device,
    )
    size = max(1, model.domain.length * model.domain.vocabulary // SYMBOLS)
    return setup.prepared(checked, chain, size, in_bits(watch, chain.dimensions))


def trial(chain: TokenChain, runner: Runner) -> list[str]:
    """As of `nelbo.bound.trial`, and what the logits themselves say against their declaration."""
    denoiser, seen = chain.model.denoiser, []
    watch = denoiser.register_forward_hook(lambda module, given, logits: seen.append(logits))
    try:
        notes = tried(denoiser, runner, lambda: _asked(chain))
    finally:
        watch.remove()
    if not seen or not isinstance(denoiser, NetworkTokenDenoiser):
        return notes
    found = answers.of_logits(seen[0], denoiser.predicts, denoiser.coarse)
    return notes + [answer.amiss for answer in found if answer.amiss is not None]


def with_last_step(chain: TokenChain, estimate: Estimate) -> Estimate:
    """The estimate with the exact step from all places hidden, which the estimators take for the prior, as part of the
    diffusion term."""
    if not isinstance(chain, MaskedChain) or chain.all_hidden is None:
        return estimate
    every = torch.arange(chain.examples).split(256)
    last = torch.cat([chain.last_step(rows) for rows in every])
    prior = torch.cat([TokenChain.prior(chain, rows) for rows in every])
    old = estimate.diffusion
    rows = estimate.per_example
    near, far = (chain.position_of_edge(k) for k in (-2, -1))
    step = Stratum(far[0], near[0], far[1], near[1], float(last.mean()), 0.0, 1)
    if rows is not None:
        rows = PerExample(rows.nats, rows.standard_error, prior, rows.diffusion + last, rows.reconstruction)
    return dataclasses.replace(
        estimate,
        prior=TermEstimate.of(prior, torch.zeros_like(prior)),
        # the prior of sequences of one length is the same for all, so that this term has all of their spread
        diffusion=TermEstimate(
            old.mean + float(last.mean()), old.variance, estimate.total.data_variance, estimate.total.spread
        ),
        strata=(*estimate.strata, step),
        per_example=rows,
    )


def worse_than_none(chain: TokenChain, estimate: Estimate) -> list[str]:
    """A note where the bound is above log V a token, which no network at all would reach."""
    places = float(chain.number.double().mean())
    none = places * math.log(chain.model.domain.vocabulary)
    if not estimate.total.mean - 4 * math.sqrt(max(0.0, estimate.total.variance)) > none * (1 + ROUNDING):
        return []
    value, uniform = (v / places / LOG_2 for v in (estimate.total.mean, none))
    return [
        f"the network is worse than none: {value:.4g} bits/token, and a uniform law over the vocabulary has "
        f"{uniform:.4g}; check the mask's number, whether its logits are those of the next place (shift=True), the "
        "time that it is told, and that the symbols are those of its tokenizer"
    ]


def _asked(chain: TokenChain) -> tuple[Tensor, Tensor, Tensor]:
    """Costs of two sequences in the middle of the chain, of the second alone, and of both again."""
    model, rows = chain.model, torch.tensor([0, min(1, chain.examples - 1)])
    x, scored = chain.rows(rows)
    u = Purpose.TRIAL_NOISE.uniform(chain.seed, torch.arange(2), shape=(x.shape[1], 2), device=chain.device)
    at = None if model.counted else chain.levels[torch.full((2,), len(chain.levels) // 2)].to(chain.device)
    if isinstance(model.kernel, Absorbing):
        hidden = counts.subset(u[..., 0], scored, (scored.sum(1) + 1) // 2)
        z = x.masked_fill(hidden, model.kernel.mask)
    else:
        assert at is not None  # a chain of noise has levels
        hidden, z = (
            torch.zeros_like(scored),
            torch.where(scored, chain.kernel.noised(x, at, u, model.domain.vocabulary), x),
        )
    condition = chain.condition_of(rows)

    def costs(start: int) -> Tensor:
        some = {name: v[start:] for name, v in condition.items()}
        with torch.no_grad():
            nats = model.costs(x[start:], z[start:], hidden[start:], None if at is None else at[start:], some)
        return nats.clamp(max=50.0)  # a symbol that is nearly impossible, or certain to be

    return costs(0), costs(1), costs(0)

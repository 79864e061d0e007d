"""From models, data and conditions to what a contrast draws from: the chain, and its alternatives.

Images: one chain whose network is asked under many conditions at once. Symbols: a chain for every condition, all of
which hide the same places, as the key of a draw does not know the condition; a condition is a row of a keyword of the
network, or what stands at the given places (`PROMPT`). A latent model: the chain of its prior, averaged over q(z | x);
conditions share the likelihood of the pixels, which is not computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.contrast.alternatives import Alternatives, Chains, Conditions, UnderConditions
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.latent import evaluate as of_latents
from nelbo.bound.latent.chain import LatentChain
from nelbo.bound.prepare import Prepared, prepare
from nelbo.bound.problem import Problem
from nelbo.bound.runner import Runner
from nelbo.bound.tokens import evaluate as of_tokens
from nelbo.bound.tokens.chain import TokenChain
from nelbo.bound.trial import trial
from nelbo.errors import DomainError, ShapeError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.model.frozen import FrozenModel
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.domain import scored_places
from nelbo.model.tokens.model import TokenModel
from nelbo.workers import Run

Scored = DiffusionModel | TokenModel | LatentModel
"""A model of any kind."""
PROMPT = "prompt"
"""The condition that is the symbols at the given places."""


@dataclass(frozen=True, eq=False)
class Places:
    """Of sequences (N, L) of symbols: prompt, the places that are given (a number: so many first ones), and mask, those
    that are scored; bools, none and all where None."""

    prompt: Tensor | int | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What is prepared (of two models, of the first), what is contrasted, a trial of the networks, and what the state
    of a run must agree with besides model and data."""

    one: Prepared[Any, Any]
    alternatives: Alternatives
    trial: Callable[[Runner], list[str]]
    models: tuple[FrozenModel, ...]
    how: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """While the networks are asked."""
        with contextlib.ExitStack() as stack:
            for model in self.models:
                stack.enter_context(model.denoiser.inference())
            yield

    def overlap(self) -> list[str]:
        """Notes on examples that were trained on."""
        return list(dict.fromkeys(note for model in self.models for note in checks.overlap(model, self.one.examples)))


def conditions_of(
    model: Scored,
    data: Examples | Tensor | Any,
    conditions: Conditions,
    run: Run | None,
    given: Mapping[str, Tensor] | None,
    places: Places | None = None,
) -> Asked:
    """One model under conditions. Errors: those of `prepare`; UsageError, ShapeError and DomainError for prompts."""
    how = {
        "contrast": repr((conditions.name, conditions.shown)),
        "rows": repr({name: Examples(rows).fingerprint for name, rows in conditions.rows.items()}),
    }
    if isinstance(model, TokenModel):
        return _of_symbols(model, data, conditions, run, given, places or Places(), how)
    one = _prepared(model, data, run, given, places)
    chain = one.chain.inner if isinstance(one.chain, LatentChain) else one.chain
    tried = replace(chain, condition={**chain.condition, **conditions.first(chain.examples)})
    alternatives = UnderConditions(chain, conditions.rows, conditions.absent)
    return Asked(one, alternatives, lambda runner: trial(tried, runner), (one.chain.model,), how)


def models_of(
    model: Scored,
    other: Scored,
    data: Examples | Tensor | Any,
    run: Run | None,
    given: Mapping[str, Tensor] | None,
    places: Places | None = None,
) -> Asked:
    """Two models at the same levels. Errors: those of `prepare`; UsageError where domains or levels differ."""
    if type(model) is not type(other) or model.domain.to_config() != other.domain.to_config():
        raise UsageError(
            f"the models score unlike data: {model.domain.to_config()} and {other.domain.to_config()}",
            "give models of one data domain: same shape, bins and range, or vocabulary and length",
        )
    a = _prepared(model, data, run, given, places)
    b = _prepared(other, a.examples, run, given, places)
    if not same_chain(a.chain, b.chain):
        raise UsageError(
            "the models have chains of other levels, whose draws have nothing in common",
            "evaluate both on one grid: model.with_grid(nelbo.grids.even(100)), say; or compare them by nelbo.compare",
        )

    def tried(runner: Runner) -> list[str]:
        return list(dict.fromkeys(note for one in (a, b) for note in _trial(one.chain, runner)))

    both = Chains((a.chain, b.chain), priors_differ=True)
    return Asked(a, both, tried, (a.chain.model, b.chain.model), {"other": str(b.fingerprint)})


def _prepared(
    model: Scored,
    data: Examples | Tensor | Any,
    run: Run | None,
    given: Mapping[str, Tensor] | None,
    places: Places | None,
) -> Prepared[Any, Any]:
    if isinstance(model, TokenModel):
        places = places or Places()
        return of_tokens.prepare(model, data, run, condition=given, prompt=places.prompt, mask=places.mask)
    if isinstance(model, LatentModel):
        return of_latents.prepare(model, data, run, condition=given)
    return prepare(model, data, run, condition=given)


def _trial(chain: Problem, runner: Runner) -> list[str]:
    if isinstance(chain, GaussianChain):
        return trial(chain, runner)
    if isinstance(chain, LatentChain):
        return of_latents.trials(chain, runner)
    assert isinstance(chain, TokenChain)  # there are no others
    return of_tokens.trial(chain, runner)


def same_chain(a: Problem, b: Problem) -> bool:
    """Whether two chains have the same levels, such that the same noise makes the same z_t."""
    if isinstance(a, LatentChain) and isinstance(b, LatentChain):
        return same_chain(a.inner, b.inner) and a.model.latent_shape == b.model.latent_shape
    if isinstance(a, GaussianChain) and isinstance(b, GaussianChain):
        same = a.model.schedule.path is b.model.schedule.path
    else:
        assert isinstance(a, TokenChain) and isinstance(b, TokenChain)  # as of one kind of model
        same = type(a) is type(b) and a.model.kernel.to_config() == b.model.kernel.to_config()
    return (
        same
        and a.cells.continuous == b.cells.continuous
        and len(a.cells) == len(b.cells)
        and torch.allclose(a.cells.place, b.cells.place, rtol=0, atol=1e-9)
    )


def _of_symbols(
    model: TokenModel,
    data: Examples | Tensor | Any,
    conditions: Conditions,
    run: Run | None,
    given: Mapping[str, Tensor] | None,
    places: Places,
    how: dict[str, str],
) -> Asked:
    one = _prepared(model, data, run, given, places)
    if conditions.name == PROMPT and places.prompt is not None:
        rows = conditions.rows[PROMPT]
        if bool(conditions.absent.any()):
            raise UsageError("a prompt that is None", "give a row of symbols for each")
        prompt = ~scored_places(one.chain.data, places.prompt, None)
        chains = tuple(replace(one.chain, data=_with_prompt(one.chain, prompt, row)) for row in rows)
    else:
        chains = tuple(_under(one.chain, conditions, c) for c in range(len(conditions)))
    return Asked(one, Chains(chains), lambda runner: of_tokens.trial(chains[0], runner), (one.chain.model,), how)


def _under(chain: TokenChain, conditions: Conditions, c: int) -> TokenChain:
    """The chain under condition c."""
    if bool(conditions.absent[c]):
        return chain
    rows = {name: rows[c].expand(chain.examples, *rows.shape[1:]) for name, rows in conditions.rows.items()}
    return replace(chain, condition={**chain.condition, **rows})


def _with_prompt(chain: TokenChain, prompt: Tensor, row: Tensor) -> Tensor:
    """The sequences with the symbols `row` (P,) at the given places of every one."""
    number = prompt.sum(1)
    if bool((number != number[0]).any()) or row.shape != (int(number[0]),):
        shape, several = tuple(row.shape), sorted(set(number.tolist()))
        raise ShapeError(
            f"a prompt of shape {shape} for sequences with {several} given places", "give a symbol for each of them"
        )
    if row.is_floating_point() or int(row.min()) < 0 or int(row.max()) >= chain.model.domain.vocabulary:
        raise DomainError(
            f"a prompt with symbols from {row.min():g} to {row.max():g}",
            f"give whole numbers below {chain.model.domain.vocabulary}",
        )
    return chain.data.masked_scatter(prompt, row.to(chain.data).repeat(len(prompt)))

"""The verb that scores the same examples under different conditions: `contrast`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.adapters.choices import Overrides
from nelbo.adapters.load import Model
from nelbo.ambient import neutral
from nelbo.api import options
from nelbo.api.inputs import Data, Device, Inputs, LatentInputs, Progress, TokenInputs, opened
from nelbo.arguments import numbers
from nelbo.bound.contrast import asked
from nelbo.bound.contrast import contrast as contrasts
from nelbo.bound.contrast.alternatives import Conditions
from nelbo.bound.contrast.options import options_of
from nelbo.bound.contrast.race import Goal
from nelbo.bound.contrast.result import Contrast
from nelbo.data import classes
from nelbo.errors import DataError, UsageError
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.nets.classes import ClassConditional
from nelbo.nets.transformer import Transformer
from nelbo.process.grid import Grid
from nelbo.progress import callback, shows_progress
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run, Workers


@shows_progress("contrasting")
@numbers
@neutral()
def contrast(
    model: Model,
    data: Data,
    condition: str | None = None,
    values: Sequence[Any] | Tensor | Mapping[str, Any] | None = None,
    *,
    model_b: Model | None = None,
    confidence: float | None = 0.99,
    indifference: float = 0.0,
    tolerance: float | None = None,
    posterior_tolerance: float | None = None,
    max_nfe: int | None = None,
    prior: Sequence[float] | None = None,
    given: Condition | None = None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
    labels: Sequence[int] | Tensor | None = None,
    grid: Grid | None = None,
    limit: int | None = None,
    overrides: Overrides | None = None,
    trust_code: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: Device | None = None,
    precision: str = "float32",
    progress: Progress | None = None,
    state: str | Path | None = None,
    workers: Workers | None = None,
) -> Contrast:
    """Which of several conditions explains each example best: differences of bounds at common noise, with their errors.

    A model of p(x | c) bounds −log p(x | c) for every condition c. With that of the best one, c*,

        difference_c = bound(x | c) − bound(x | c*) ≥ 0 nats,        posterior_c ∝ prior_c exp(−difference_c)

    The bounds are not computed one by one: all conditions share the places and the noise of every draw, a draw is a
    pair of ε and −ε, and draws are made where differences vary, by a pilot on a few examples. Draws are added until the
    example is decided; conditions that cannot be the best are eliminated on the way and cost nothing from then on. The
    probability that the best condition is ever eliminated is at most 1 − confidence.

    What is contrasted:
        condition: the keyword of the network. values: its values, one for each condition: numbers, names of the model's
        classes, rows of one shape, or None for a call without the keyword; all classes of a class-conditional network
        of nelbo's own where it is None. A table {keyword: (C, …)} gives rows of several keywords at once. given:
        further keywords, one row an example. prior: probabilities of the conditions, even where None; the best
        condition is that of the highest posterior. model_b: another model at the same levels in the place of
        conditions; `values` of the result are then "a" and "b".
        mask: what is there of examples of different size, as of `evaluate`; so is a list of arrays.
        Of a TokenModel, prompt and mask (N, L) are as of `evaluate`; all conditions hide the same places, and with
        condition="prompt" values are rows of symbols, what stands at the given places.
        With condition="answer", data are prompts (texts or symbols in a list, or DATA) and values C answers to all of
        them, or a list of C for each, of any length: difference is that of −log p(answer | prompt), a sum over the
        answer's symbols and never a mean; `Contrast.lengths` says over how many. Answers to one prompt hide the same
        positions, and the network sees each by itself, without padding. labels: of every example the number of the
        right value, in the place of the data's own, −1 for none; `Contrast.accuracy` is by these.
    When it stops:
        confidence: decide at this level; None: eliminate nothing. indifference: conditions within so many nats of the
        best need not be told apart. tolerance: go on until the standard error of every difference that is left is at
        most so many nats; posterior_tolerance: until that of every posterior probability is. max_nfe: at most so many
        evaluations in all. An example gets 8192 draws a condition at most.

    model, data, grid, limit, overrides, trust_code, seed, batch_size, device, precision, progress, state and workers
    are as of `evaluate`.

    A bound is not −log p: where it is looser for one condition than for another the posterior inherits the difference,
    and it is usually overconfident.

    Errors: those of `evaluate`; UsageError, ShapeError, DomainError for conditions and priors that are none.
    Source: Li et al. 2023 (diffusion classifiers, with ε-MSE in the place of the bound); Smyth 2004 (moderated t);
    Holm 1979.

    >>> import nelbo, torch
    >>> from nelbo import testing
    >>> schedule, laws = nelbo.schedules.linear(50), [nelbo.exact.GaussianData([m], [[0.1]]) for m in (-1.0, 1.0)]
    >>> nets = [testing.as_network(testing.oracle(law), schedule, "eps", "index") for law in laws]
    >>> network = lambda z, t, y: torch.where(y[:, None] == 0, nets[0](z, t), nets[1](z, t))
    >>> model = nelbo.from_callable(network, schedule=schedule, domain=nelbo.DataDomain((1,)), predicts="eps")
    >>> nelbo.contrast(model, torch.tensor([[-0.9], [1.2]]), "y", [0, 1]).best.tolist()
    [0, 1]
    """
    run = Run(device, precision, batch_size, seed, state, workers or Alone(), callback(progress))
    loaded = opened(model, overrides, trust_code)
    goal = Goal(confidence, indifference, tolerance, posterior_tolerance)
    how: Json = {"goal": goal, "max_nfe": max_nfe, "prior": prior}
    if condition == options.ANSWER and isinstance(loaded, TokenModel) and model_b is None:
        if given is not None or prompt is not None or mask is not None:
            raise UsageError("given=, prompt= or mask= with answers", "the prompts are data, and are not scored")
        loaded = loaded if grid is None else loaded.with_grid(grid)
        asked_of = options.questions(loaded, data, values, labels, limit)
        under, notes = options_of(loaded, asked_of, run)
        named = options.ANSWER, asked_of.shown
        result = contrasts.contrast(under, named, labels=asked_of.labels, notes=notes, **how)
        return dataclasses.replace(result, lengths=asked_of.lengths)
    examples, rows, places = read(loaded, data, limit, given, grid, prompt, mask)
    loaded = loaded if grid is None else loaded.with_grid(grid)
    if model_b is not None:
        if condition is not None or values is not None:
            raise UsageError("a second model and values of a condition", "contrast either models or conditions")
        other = opened(model_b, overrides, trust_code)
        both = asked.models_of(loaded, other if grid is None else other.with_grid(grid), examples, run, rows, places)
        result = contrasts.contrast(both, ("model", ("a", "b")), **how)
    else:
        conditions = conditions_of(loaded, condition, values)
        right, notes = _labels(examples, loaded, conditions)
        if labels is not None:
            right, notes = options.numbers_of(labels, len(examples), limit), []
        under = asked.conditions_of(loaded, examples, conditions, run, rows, places)
        named = conditions.name, conditions.shown
        result = contrasts.contrast(under, named, labels=right, notes=notes, **how)
    return dataclasses.replace(result, overrides=(overrides or Overrides()).to_json())


def read(
    model: asked.Scored,
    data: Data,
    limit: int | None,
    given: Condition | str | None,
    grid: Grid | None,
    prompt: Tensor | int | None = None,
    mask: Tensor | None = None,
) -> tuple[Examples, Condition | None, asked.Places | None]:
    """Examples, the rows of a condition, and the places of sequences, for a model of either kind. Errors: as of
    `Inputs`; UsageError for places of images."""
    if isinstance(model, TokenModel):
        tokens = TokenInputs.of(data, limit=limit, condition=given, grid=grid, prompt=prompt, mask=mask)
        return tokens.examples, tokens.condition, asked.Places(tokens.prompt, tokens.mask)
    if prompt is not None:
        raise UsageError("a prompt with a model of images", "it is of sequences of symbols")
    if isinstance(model, LatentModel):
        if mask is not None:
            raise UsageError("a mask with a latent model", "its encoder is one of whole images")
        of_images = LatentInputs.of(model, data, limit=limit, condition=given, grid=grid)
        return of_images.examples, of_images.condition, None
    inputs = Inputs.of(model, data, limit=limit, condition=given, grid=grid, mask=mask)
    return inputs.examples, inputs.condition, None


def conditions_of(
    model: asked.Scored, name: str | None, values: Sequence[Any] | Tensor | Mapping[str, Any] | None
) -> Conditions:
    """The conditions as given, or the model's own classes. Errors: UsageError."""
    name = check_keyword(name)
    names = classes.recorded(model, name)
    if values is None:
        kinds = (ClassConditional, Transformer)
        own = next((m for m in model.denoiser.modules() if isinstance(m, kinds) and m.keyword == name), None)
        if own is None or own.classes is None:
            raise UsageError(
                f"the values of the condition {name!r} are not known: the network is no class-conditional one of nelbo",
                "give values=range(10), say, or one row a condition",
            )
        return Conditions.of(name, range(own.classes), names or None)
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise UsageError(f"values={values!r}", "give a list of values")
    if isinstance(values, Mapping) or not any(isinstance(value, str) for value in values):
        return Conditions.of(name, values)
    unknown = [value for value in values if isinstance(value, str) and value not in names]
    if unknown:
        known = f"knows the classes {classes.shortened(names)}" if names else "has no names of classes"
        raise UsageError(
            f"the conditions {classes.shortened(unknown)}, and the model {known}", "give those, or numbers"
        )
    return Conditions.of(name, [names.index(v) if isinstance(v, str) else v for v in values], tuple(values))


def _labels(examples: Examples, model: asked.Scored, conditions: Conditions) -> tuple[Tensor | None, list[str]]:
    """Of every example the index of the condition that its label names, −1 where there is none; None where the data
    have no labels, or the conditions are no numbers; and a note where the labels cannot be read."""
    rows = conditions.rows.get(conditions.name)
    if examples.labels is None or rows is None or rows.dim() != 1 or rows.is_floating_point():
        return None, []
    try:
        labels = classes.of_model(examples, model, conditions.name).labels
    except DataError as error:
        return None, [f"accuracy is not measured: {error}"]
    assert labels is not None  # as before
    same = (labels[:, None] == rows[None]) & ~conditions.absent
    return torch.where(same.any(1), same.long().argmax(1), -1), []


def check_keyword(name: Any) -> str:
    """The name. Errors: UsageError where it cannot be that of a keyword."""
    if name is None:
        raise UsageError("a contrast of nothing", "give condition='y' with its values, or model_b=…")
    if not isinstance(name, str) or not name.isidentifier():
        given = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
        raise UsageError(f"condition={given}", "give the name of the network's keyword, such as 'y' or 'theta'")
    return name

"""Declarations of a network over symbols with one thing otherwise: shift, mask, time, schedule, output, law, rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nelbo.model.tokens.denoiser import NetworkTokenDenoiser, TokenLaw, TokenOutput, TokenTime
from nelbo.model.tokens.model import TokenModel, grid_for
from nelbo.model.tokens.reverse import AllMasked, MatchedMask, Rule
from nelbo.process.tokens.kernel import Absorbing, Uniform
from nelbo.process.tokens.survival import AlphaTable, Cosine, Linear, Survival
from nelbo.typing import Json

NEAR_THE_BEGINNING = 5
"""Vocabularies begin with their special symbols: so many are tried as the mask."""


@dataclass(frozen=True)
class Sibling:
    """One change of a declaration. claim: a clause that holds if it is right; change: the line of code to write; of:
    the model that it declares. choice: whether it is another model of the same network rather than another reading.
    unusual: whether one that saves about as much is preferred to it."""

    name: str
    declaration: Json
    claim: str
    change: str
    of: Callable[[], TokenModel]
    choice: bool = False
    unusual: bool = False


def siblings(model: TokenModel, data: Tensor, scored: Tensor) -> list[Sibling]:
    """Everything that is declared otherwise, one thing at a time; none of a network whose output is not declared."""
    if not isinstance(model.denoiser, NetworkTokenDenoiser):
        return []
    kinds = (_shift, _masks, _times, _schedules, _outputs, _laws, _rules)
    return [sibling for kind in kinds for sibling in kind(model, model.denoiser, data[scored])]


def _of(model: TokenModel, denoiser: NetworkTokenDenoiser, **parts: Any) -> TokenModel:
    """The model with its network read otherwise: its other parts follow where they have to."""
    schedule: Survival | None = parts.pop("schedule", model.schedule)
    kernel = parts.get("kernel", model.kernel)
    if kernel.absorbing:
        schedule = (schedule or Linear()) if denoiser.timed else None
        last = 0.0 if schedule is None else float(schedule.alpha(torch.ones(1, dtype=torch.float64)))
        parts["prior"] = MatchedMask() if last > 0 else AllMasked()
        if (model.schedule is None) != (schedule is None):
            parts["grid"] = grid_for(kernel, schedule)
    return dataclasses.replace(model, denoiser=denoiser, schedule=schedule, **parts)


def _network(denoiser: NetworkTokenDenoiser, **otherwise: Any) -> NetworkTokenDenoiser:
    how = {"time": denoiser.time, "law": denoiser.law, "predicts": denoiser.predicts, "shift": denoiser.shift}
    how |= {"stochastic": denoiser.stochastic, **otherwise}
    return NetworkTokenDenoiser(denoiser.net, denoiser.vocabulary, how.pop("time"), **how)


def _shift(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    other = not denoiser.shift
    where = "the logits at a place are those of the next one" if other else "the logits at a place are its own"
    yield Sibling(
        f"shift={other}",
        {"shift": other},
        where,
        f"shift={other}",
        lambda: _of(model, _network(denoiser, shift=other)),
    )


def _masks(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    """Symbols that no sequence holds, at the ends of the vocabulary and near the declared one."""
    if not isinstance(model.kernel, Absorbing):
        return
    V, declared = model.domain.vocabulary, model.kernel.mask
    numbers = (*range(NEAR_THE_BEGINNING), declared - 1, declared + 1, V - 2, V - 1, V)
    held = set(symbols.unique().tolist())
    for mask in sorted({k for k in numbers if 0 <= k <= V and k != declared} - held):
        reverse = dataclasses.replace(
            model.reverse, absent=tuple(sorted({*model.reverse.absent} - {mask}))
        )  # the mask itself is no such symbol
        yield Sibling(
            f"mask={mask}",
            {"mask": mask},
            f"the mask of this network is symbol {mask}",
            f"kernel=nelbo.tokens.absorbing({mask})",
            lambda mask=mask, reverse=reverse: _of(model, denoiser, kernel=Absorbing(mask), reverse=reverse),
        )


def _times(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    masked = model.kernel.absorbing
    words = {
        TokenTime.NONE: "nothing besides z",
        TokenTime.COUNT: "the count of hidden places",
        TokenTime.MASK_FRACTION: "the share of hidden places",
        TokenTime.UNIT: "unit time t",
        TokenTime.SIGMA: "σ = −log α",
    }
    for time, what in words.items():
        if time is denoiser.time or (model.schedule is None and not masked) or (not masked and not time.timed):
            continue
        if time.timed and (model.reverse.block is not None or not model.reverse.carry_over):
            continue
        value = None if time is TokenTime.NONE else time.value
        change = f"time={value!r}" + (", schedule=…" if time.timed and model.schedule is None else "")
        yield Sibling(
            f"time={value!r}",
            {"time": value},
            f"this network is told {what}",
            change,
            lambda time=time: _of(model, _network(denoiser, time=time)),
            unusual=time.timed is not denoiser.timed,  # who declares a time has one in mind
        )


def _schedules(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    """Other laws of survival, where the network is told t; σ says the same under all of them."""
    if denoiser.time is not TokenTime.UNIT or model.schedule is None or isinstance(model.schedule, AlphaTable):
        return
    laws = {"linear()": Linear(), "linear(0.001)": Linear(1e-3), "cosine()": Cosine()}
    for code, law in laws.items():
        if law.to_config() != model.schedule.to_config():
            yield Sibling(
                f"schedule {code}",
                {"schedule": law.to_config()},
                f"this network was trained with the schedule {code}",
                f"schedule=nelbo.tokens.{code}",
                lambda law=law: _of(model, denoiser, schedule=law),
            )


def _outputs(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    words = {
        TokenOutput.LOGITS: "logits",
        TokenOutput.PROBABILITIES: "probabilities",
        TokenOutput.LOG_RATIOS: "log-ratios of a noised law",
    }
    for output, what in words.items():
        ratios = output is TokenOutput.LOG_RATIOS
        if output is denoiser.predicts or (ratios and not isinstance(model.kernel, Uniform)):
            continue  # of masks, ratios are read as logits are
        law = TokenLaw.LEAVE_ONE_OUT if ratios else denoiser.law
        yield Sibling(
            f"predicts={output.value!r}",
            {"predicts": output.value},
            f"this network predicts {what}",
            f"predicts={output.value!r}",
            lambda output=output, law=law: _of(model, _network(denoiser, predicts=output, law=law)),
        )


def _laws(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    if model.kernel.absorbing or denoiser.predicts is TokenOutput.LOG_RATIOS:
        return
    posterior = denoiser.law is TokenLaw.POSTERIOR
    law = TokenLaw.LEAVE_ONE_OUT if posterior else TokenLaw.POSTERIOR
    given = "z without that place" if posterior else "all of z"
    yield Sibling(
        f"law={law.value!r}",
        {"law": law.value},
        f"this network gives the law of a place given {given}",
        f"law={law.value!r}",
        lambda: _of(model, _network(denoiser, law=law)),
    )


def _rules(model: TokenModel, denoiser: NetworkTokenDenoiser, symbols: Tensor) -> Iterator[Sibling]:
    """Other models of the same network: the mask's probability removed, or the other reverse step."""
    if model.kernel.absorbing and not model.reverse.remove_mask:
        yield Sibling(
            "remove_mask=True",
            {"remove_mask": True},
            "without the probability that the network puts on the mask",
            "remove_mask=True",
            lambda: dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, remove_mask=True)),
            choice=True,
        )
    if not model.kernel.absorbing:
        plugged = Rule.parse(model.reverse.rule) is Rule.PLUG_IN
        rule = (Rule.MIXTURE if plugged else Rule.PLUG_IN).value
        yield Sibling(
            f"reverse={rule!r}",
            {"reverse": rule},
            f"with the reverse step {rule!r}",
            f"reverse={rule!r}",
            lambda: dataclasses.replace(model, reverse=dataclasses.replace(model.reverse, rule=rule)),
            choice=True,
        )

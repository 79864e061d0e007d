"""Networks over symbols with one mistake of declaration each, of data whose exact network is known.

A network that is told something degrades where it is told otherwise: its logits shrink by the distance of what it is
told from the share of hidden places, as far as that is no chance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

import nelbo
from nelbo.process.tokens.kernel import Uniform
from nelbo.process.tokens.survival import Linear
from tests.model.tokens import checks

V, L = 3, 12
tokens = nelbo.tokens


@functools.cache
def data(length: int = L) -> Tensor:
    return checks.markov(length).sample(128, seed=7)


@functools.cache
def network(length: int) -> Any:
    return checks.markov(length).model().denoiser


def exact(z: Tensor, mask: int = V) -> Tensor:
    """Logits (B, L, V) of the exact network, whatever the mask's number is."""
    hidden = z == mask
    return network(z.shape[1])(z.masked_fill(hidden, V).clamp(max=V), hidden, None).clamp_min(-30)


def ahead(z: Tensor) -> Tensor:
    """Logits of the next place, as a network made from a left-to-right one has them."""
    return exact(z).roll(-1, 1)


def inside(z: Tensor) -> Tensor:
    """Of a vocabulary in which symbol 0 is the mask."""
    return pad(exact((z - 1).clamp(max=V - 1).where(z > 0, V)), (1, 0), value=-5.0)


def degraded(z: Tensor, told: Tensor, strength: float = 12.0, chance: float = 0.35) -> Tensor:
    true = (z == V).double().mean(1)
    return exact(z) * torch.exp(-strength * ((told.double() - true).abs() - chance).clamp(min=0))[:, None, None]


def noise_told(z: Tensor, noise: Tensor) -> Tensor:
    """Of sequences of 48 places, whose share of hidden places is nearly 1 − α."""
    return degraded(z, noise, 40.0, 0.16)


def of_cosine(z: Tensor, t: Tensor) -> Tensor:
    return noise_told(z, tokens.cosine().noise(t.double()))


TOLD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "count": lambda z, count: degraded(z, count / L),
    "mask_fraction": degraded,
    "unit": noise_told,
    "sigma": lambda z, sigma: noise_told(z, 1 - torch.exp(-sigma.double())),
}


def around(x: Tensor) -> Tensor:
    """With symbol 3 before every sequence."""
    return pad(x, (1, 0), value=3)[:, :L]


def long(x: Tensor) -> Tensor:
    """Other sequences of the same chain, of 48 places."""
    return data(48)


def padded(x: Tensor) -> Tensor:
    """Every second sequence ends with five places of symbol 3."""
    x = x.clone()
    x[::2, -5:] = 3
    return x


def attends(z: Tensor) -> Tensor:
    """Logits that depend on how many places of padding, symbol 4, there are."""
    left = pad(z, (1, 0), value=0)[:, :-1].clamp(max=V - 1)
    full = pad(checks.TRANSITION.log()[left], (0, 2), value=-20.0)
    return full * (1 - 0.1 * (z == 4).double().sum(1))[:, None, None]


def of_uniform_noise(z: Tensor, t: Tensor, output: str) -> Tensor:
    """What the exact network says under uniform noise: its leave-one-out law, its posterior, or log-ratios."""
    schedule, markov = Linear(0.1), checks.markov(L)
    at = schedule.at(t.double())
    law = markov.denoiser(Uniform(), "posterior" if output == "posterior" else "leave_one_out")
    logits = law(z, z == 9, at).log_softmax(-1)
    if output != "log_ratios":
        return logits
    ratios = Uniform().marginal(logits.exp(), at).log()
    return ratios - ratios.gather(-1, z[..., None])


@dataclass(frozen=True)
class Case:
    """A declaration: what the network is and what is said of it; found: the row that is first, or None; check: the name
    of the check that fails, or None."""

    fn: Callable[..., Tensor]
    given: dict[str, Any]
    found: str | None = None
    check: str | None = None
    data: Callable[[Tensor], Tensor] = lambda x: x
    examples: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nelbo.TokenModel:
        given = {"vocabulary": V, "length": L, "kernel": tokens.absorbing(V), **self.given}
        return tokens.from_callable(self.fn, **given)

    def sequences(self) -> nelbo.Examples:
        return nelbo.Examples(self.data(data()), **self.examples)


LINEAR, COSINE = {"schedule": tokens.linear()}, {"schedule": tokens.cosine()}
FOUR, LONG = {"vocabulary": 4}, {"length": 48}
UNIFORM = {"kernel": tokens.uniform(), "time": "unit", "schedule": tokens.linear(0.1)}
said = {name: functools.partial(of_uniform_noise, output=name) for name in ("posterior", "leave_one_out", "log_ratios")}

MISTAKES = {
    "logits of the next place": Case(ahead, {}, "shift=True"),
    "a shift that is none": Case(exact, {"shift": True}, "shift=False"),
    "another mask of the vocabulary": Case(
        inside, {**FOUR, "kernel": tokens.absorbing(4)}, "mask=0", data=lambda x: x + 1
    ),
    "a mask of its own that is a symbol": Case(
        lambda z: pad(exact(z), (0, 1), value=-5.0), {**FOUR, "kernel": tokens.absorbing(4)}, "mask=3"
    ),
    "probabilities as logits": Case(
        lambda z: exact(z).softmax(-1), {}, "predicts='probabilities'", "output"
    ),
    "the share for the count": Case(TOLD["count"], {"time": "mask_fraction"}, "time='count'"),
    "the count for the share": Case(TOLD["mask_fraction"], {"time": "count"}, "time='mask_fraction'"),
    "σ for t": Case(TOLD["unit"], {**LONG, "time": "sigma", **LINEAR}, "time='unit'", data=long),
    "t for σ": Case(TOLD["sigma"], {**LONG, "time": "unit", **LINEAR}, "time='sigma'", data=long),
    "linear for cosine": Case(of_cosine, {**LONG, "time": "unit", **LINEAR}, "schedule cosine()", data=long),
    "nothing told, which needs a time": Case(TOLD["count"], {}, "time='count'"),
    "logits of 8 bits": Case(lambda z: exact(z).bfloat16().float(), {}, None, "precision of the logits"),
    "logits in bf16": Case(lambda z: exact(z).bfloat16(), {}, None, "precision of the logits"),
    "a special symbol scored": Case(
        lambda z: pad(exact(z.masked_fill(z == 3, 0), 4), (0, 1), value=-9.0),
        {**FOUR, "kernel": tokens.absorbing(4)}, None, "special symbols", around,
    ),
    "padding scored": Case(
        lambda z: pad(exact(z.masked_fill(z == 3, 0), 4), (0, 1), value=-9.0),
        {**FOUR, "kernel": tokens.absorbing(4)}, None, "padding", padded,
    ),
    "ratios as logits": Case(said["log_ratios"], UNIFORM, "predicts='log_ratios'"),
    "leave-one-out for the posterior": Case(said["posterior"], {**UNIFORM, "law": "leave_one_out"}, "law='posterior'"),
    "the posterior for leave-one-out": Case(said["leave_one_out"], UNIFORM, "law='leave_one_out'"),
}  # fmt: skip
RIGHT = {
    "logits": Case(exact, {}),
    "shifted": Case(ahead, {"shift": True}),
    "a mask inside": Case(inside, {**FOUR, "kernel": tokens.absorbing(0)}, data=lambda x: x + 1),
    "probabilities": Case(lambda z: exact(z).softmax(-1), {"predicts": "probabilities"}),
    "the count": Case(TOLD["count"], {"time": "count"}),
    "the share": Case(TOLD["mask_fraction"], {"time": "mask_fraction"}),
    "t": Case(TOLD["unit"], {**LONG, "time": "unit", **LINEAR}, data=long),
    "σ": Case(TOLD["sigma"], {**LONG, "time": "sigma", **LINEAR}, data=long),
    "cosine": Case(of_cosine, {**LONG, "time": "unit", **COSINE}, data=long),
    "blocks": Case(exact, {"block": 4}),
    "the posterior": Case(said["posterior"], UNIFORM),
    "ratios": Case(said["log_ratios"], {**UNIFORM, "predicts": "log_ratios"}),
    "nothing known": Case(lambda z: one_hot(z.clamp(max=V - 1), V).double() * 0, {}),
}

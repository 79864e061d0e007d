"""The fit of a calibration to answers, and the choice of its parts on answers about other sequences.

Each part is fitted jointly with those that are kept so far, by the bound itself (a convex function of masked places'
parameters), with a prior of unit width around a network that is right as it is, which counts as one place. It is kept
where the bound of the other sequences falls by more than `SURE` standard errors of their paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.bound.planned import error_bars
from nelbo.maths.units import bits_per_dim
from nelbo.model.tokens.calibration import COEFFICIENTS, Calibration, NGramTable
from nelbo.model.tokens.denoiser import TokenLaw
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.ngrams import PATTERNS
from nelbo.model.tokens.reverse import Rule
from nelbo.tightening.tokens.answers import Answers
from nelbo.typing import Json

SURE = 2.0
ITERATIONS = 60


@dataclass(frozen=True)
class Trial:
    """A part that was tried: what it gained on other sequences in bits a token, with the standard error of that."""

    name: str
    gain: float
    standard_error: float

    @property
    def kept(self) -> bool:
        """Whether that is more than chance."""
        return self.gain > SURE * self.standard_error

    def to_dict(self) -> Json:
        """As JSON."""
        return {**vars(self), "kept": self.kept}


def calibrated(
    model: TokenModel, fit: Answers, choice: Answers, ngrams: NGramTable | None
) -> tuple[list[tuple[str, TokenModel]], list[Trial]]:
    """The models after every part that is kept, and all parts that were tried. ngrams: those that the answers have been
    told of."""
    kept: list[tuple[str, TokenModel]] = []
    trials: list[Trial] = []
    best, costs = model, _costs(choice, model)
    of_token = float(bits_per_dim(1.0, choice.dimensions))

    def consider(name: str, other: TokenModel) -> None:
        nonlocal best, costs
        those = _costs(choice, other)
        gain = costs - those
        value, variance, *_ = error_bars.of_draws([gain], [1.0])
        trial = Trial(name, value * of_token, math.sqrt(variance) * of_token)
        trials.append(trial)
        if trial.kept:
            best, costs = other, those
            kept.append((name, other))

    if Rule.parse(model.reverse.rule) is Rule.PLUG_IN and model.denoiser.law is TokenLaw.POSTERIOR:
        consider("leave-one-out conversion", replace(model, reverse=replace(model.reverse, rule="mixture")))
    for name, part in _parts(model, ngrams):
        start = best.calibration or Calibration(torch.ones(1, dtype=torch.float64))
        consider(name, replace(best, calibration=fitted(best, fit, part(start))))
    return kept, trials


def _costs(answers: Answers, model: TokenModel) -> Tensor:
    with torch.no_grad():
        return answers.costs(model, model.calibration)


def _parts(model: TokenModel, ngrams: NGramTable | None) -> list[tuple[str, Callable[[Calibration], Calibration]]]:
    """What is added to a calibration, one after the other."""
    V = model.domain.vocabulary
    curve = torch.zeros(COEFFICIENTS, dtype=torch.float64)

    def along(c: Calibration) -> Calibration:
        more = curve.clone()
        more[: len(c.coefficients)] = c.coefficients
        return replace(c, coefficients=more)

    parts: list[tuple[str, Callable[[Calibration], Calibration]]] = [
        ("temperature", lambda c: c),
        ("temperature along the chain", along),
        ("bias of symbols", lambda c: replace(c, bias=torch.zeros(V, dtype=torch.float64))),
    ]
    if ngrams is not None:
        weights = torch.zeros(PATTERNS, dtype=torch.float64)
        parts.append(("n-grams", lambda c: replace(c, weights=weights, ngrams=ngrams)))
    return parts


def fitted(model: TokenModel, answers: Answers, start: Calibration) -> Calibration:
    """The calibration with the parts of `start` of the least cost of `answers`, by L-BFGS from there."""
    names = [name for name in ("coefficients", "bias", "weights") if getattr(start, name) is not None]
    values = {name: getattr(start, name).clone().requires_grad_() for name in names}
    centre = {name: torch.zeros_like(value) for name, value in values.items()}
    centre["coefficients"][0] = 1.0
    a_place = answers.sequences * answers.dimensions / answers.places
    optimizer = torch.optim.LBFGS(
        list(values.values()), max_iter=ITERATIONS, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        cost = answers.costs(model, replace(start, **values)).mean()
        prior = sum((0.5 * (values[name] - centre[name]).square().sum() for name in names), torch.zeros(()))
        total = (cost + prior * a_place / answers.sequences) / answers.dimensions
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]  # a closure that returns a tensor
    return replace(start, **{name: value.detach() for name, value in values.items()})

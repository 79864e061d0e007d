"""`score`: the gradient of the summed log-likelihood in a parameter, by the bound, with its Monte Carlo error.

One number by central differences, two evaluations a draw; several by the gradient of the network, which costs about
three evaluations a draw however many there are. Draws are pairs of ε and −ε at places where the differences of
neighbours vary, as in a profile; strata double until the error is a small share of the spread of the data's scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nelbo.bound import checks
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives, UnderConditions
from nelbo.bound.contrast.places import Places
from nelbo.bound.contrast.profile import Sums
from nelbo.bound.contrast.race import ENOUGH, LAST_STRATA, TOGETHER
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.noised import check_finite
from nelbo.bound.planned import cost
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.bound.runner import Runner
from nelbo.bound.trial import trial
from nelbo.errors import NumericalError, UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.typing import Json
from nelbo.workers import Run

GRADIENT_COST = 3
"""Evaluations that a gradient is counted as: a call and twice as much backwards."""
_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Score:
    """value (P,): Σ_i ∂ log p(x_i | θ)/∂θ by the bound. covariance (P, P) of it by Monte Carlo, standard_error (P,) its
    roots. per_observation (N, P): the terms of the sum; their squares sum to the information of the data."""

    value: Tensor
    covariance: Tensor
    per_observation: Tensor
    nfe_total: int

    @property
    def standard_error(self) -> Tensor:
        """By the draws."""
        return self.covariance.diagonal().clamp_min(0).sqrt()

    def to_dict(self) -> Json:
        """Numbers as JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("value", "standard_error", "per_observation")}
        return {**arrays, "covariance": self.covariance.tolist(), "nfe_total": self.nfe_total}

    def __repr__(self) -> str:
        pairs = zip(self.value.tolist(), self.standard_error.tolist(), strict=True)
        return f"<Score: {', '.join(f'{v:.4g} ± {e:.2g}' for v, e in pairs)}, {self.nfe_total} evaluations>"


def score(
    model: DiffusionModel,
    data: Examples | Tensor | Any,
    name: str,
    at: Tensor,
    run: Run | None = None,
    *,
    step: float,
    tolerance: float = 0.1,
    max_nfe: int | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> Score:
    """See `nelbo.score`. at: a number, or (P,) numbers that are one row of the keyword `name`."""
    cost.check_budget(max_nfe, False)
    for what, value in (("step", step), ("tolerance", tolerance)):
        if not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{what}={value!r}", "give a number above 0")
    one = prepare(model, data, run, condition=given)
    runner, N = one.runner, one.chain.examples
    theta = at.double().reshape(-1)
    P = len(theta)
    both = theta + step * torch.cat([torch.eye(P), -torch.eye(P)]).double()
    rows = {name: both[:, 0] if at.dim() == 0 else both}
    around = UnderConditions(one.chain, rows, torch.zeros(2 * P, dtype=torch.bool))
    how = {"score": repr((name, theta.tolist())), "step": repr(step), "tolerance": repr(tolerance)}
    one.agree("score", **how)
    one.open_state(**how)
    here = {name: at.double()[None].expand(N, *at.shape)}
    try:
        with one.chain.model.denoiser.inference():
            notes = trial(replace(one.chain, condition={**one.chain.condition, **here}), runner)
            along = places.piloted(around, runner, together=True)
            sums = _summed(one.chain, around, along, runner, name, at, step, tolerance, max_nfe)
    finally:
        runner.close()
    checks.warn(notes)
    return Score(-sums.curves.sum(0), sums.covariance, -sums.curves, runner.nfe)


def _summed(
    chain: GaussianChain,
    around: Alternatives,
    along: Places,
    runner: Runner,
    name: str,
    at: Tensor,
    step: float,
    tolerance: float,
    max_nfe: int | None,
) -> Sums:
    """Gradients of the bounds (N, P), and the covariance of their sum."""
    N, P = chain.examples, max(1, at.numel())
    examples, S, price = torch.arange(N), TOGETHER, 2 if P == 1 else GRADIENT_COST
    sums = Sums(0, torch.zeros(N, P, dtype=torch.float64), torch.zeros(P, P, dtype=torch.float64))
    everyone = torch.ones(N, len(around), dtype=torch.bool)
    while sums.strata < LAST_STRATA:
        if max_nfe is not None and sums.strata and runner.nfe + 2 * price * S * N > max_nfe:
            break
        looks = []
        for part in examples.split(max(1, _AT_ONCE // (2 * price * S))):
            if P == 1:
                drawn = places.draw(around, runner, along, part, everyone[part], sums.strata, S).values
                looks.append((drawn[..., :1] - drawn[..., 1:]) / (2 * step))
            else:
                nats = functools.partial(_gradients, chain, runner, name, at)
                looks.append(places.drawn(chain, along, part, sums.strata, S, P, nats).values)
        sums = sums.with_look(torch.cat(looks))
        S = sums.strata
        spread = sums.curves.square().sum(0)
        if sums.strata >= ENOUGH and bool((sums.covariance.diagonal() <= tolerance**2 * spread).all()):
            break
    return sums


def _gradients(chain: GaussianChain, runner: Runner, name: str, at: Tensor, draws: Draws, asked: Tensor) -> Tensor:
    """∂ term/∂θ of every draw, (n, P)."""
    compute = functools.partial(_gradient, chain, name, at, draws)
    return runner.rows(len(draws), at.numel(), GRADIENT_COST, compute)


def _gradient(chain: GaussianChain, name: str, at: Tensor, draws: Draws, rows: Tensor) -> Tensor:
    with torch.no_grad():
        noised = chain.noised(draws, rows)
    with torch.enable_grad():
        theta = at.double()[None].repeat(len(rows), *[1] * at.dim()).to(chain.device).requires_grad_()
        nats = chain.term(noised, {**chain.condition_of(noised.examples), name: theta})[0]
        if not nats.requires_grad:
            raise UsageError(
                f"the network's output does not depend on {name!r} by anything that can be differentiated",
                "give one number, whose score is a difference, or a network that takes it as a tensor of real numbers",
            )
        gradient = torch.autograd.grad(nats.sum(), theta)[0]
    check_finite(nats.detach()[:, None], noised)
    if not bool(torch.isfinite(gradient).all()):
        raise NumericalError(f"a gradient in {name!r} is not finite", "check the network at this value")
    return gradient.flatten(1).double().cpu()

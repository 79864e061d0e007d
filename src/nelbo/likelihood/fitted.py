"""Fitted dequantisation: a small flow q(z_1 | x) on the bin of x, fitted to the model in seconds.

    z_1 = α_1 (x + (u − ½) w),    u_d = T(v_d; h_d),    v_d ~ U(0, 1),    log q(z_1 | x) = −Σ_d log (α_1 w T′(v_d; h_d))

T is a monotone spline, an element at a time; a small network says its knots from h: the value x_d, and the slope
α_1 w ∂ log p(z_1)/∂z_1,d of the model at the middle of the bin. The fit minimises E_q [log q(z_1 | x) − log p(z_1)],
whose gradient takes no solve of the flow, for the model's own prediction says the score:

    ∇ log p(z_1) = (α_1 x̂(z_1) − z_1)/σ_1²,        d/dφ E log p(z_1) = E [∇ log p(z_1) · ∂z_1/∂φ]

Where the prediction is not exact the fit is less good, and the bound is still one: it holds for any q that lives on the
bin. The draws of the fit are none of those that are scored. Source: Ho et al. 2019 (Flow++), §3.1; Durkan et al. 2019.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound.problem import Problem
from nelbo.likelihood.dequantisation import Start, bin_width
from nelbo.maths import random, spline
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.levels import Levels, column
from nelbo.typing import Condition

PIECES, HIDDEN = 6, 16
EXAMPLES, BATCH, STEPS, RATE = 256, 32, 200, 0.02
"""What a fit sees: so many examples, a batch a step, that many steps of Adam at a rate that falls to nothing."""
_ELEMENTS = 1 << 16
"""Elements whose splines are worked out at once."""
_FIT_LEVEL = 2**31
"""Level key of the fit's draws, which no other draw has."""


@dataclass(frozen=True, eq=False)
class DequantisationFlow:
    """The fitted q(z_1 | x): weights of the network that says the splines, float64."""

    weights: tuple[Tensor, ...]

    @classmethod
    def begun(cls, seed: int, device: torch.device) -> DequantisationFlow:
        """Keyed weights; the last layer is 0, so that T is the identity and q is uniform."""
        sizes = (2, HIDDEN, HIDDEN, spline.parameters(PIECES))
        weights: list[Tensor] = []
        for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
            w = random.normal(seed, layer, _FIT_LEVEL, 0, (n, m), stream=random.Stream.PROBE, device=device)[0]
            weights += [w / n**0.5 * (layer < 2), torch.zeros(m, dtype=torch.float64, device=device)]
        return cls(tuple(weights))

    def unit(self, v: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """u and log du/dv at v (…), for values x in [−1, 1] and slopes a bin, all of one shape."""
        h = torch.stack([x, torch.asinh(slope)], -1)
        for k in range(0, len(self.weights), 2):
            h = h @ self.weights[k] + self.weights[k + 1]
            h = torch.tanh(h) if k + 2 < len(self.weights) else h
        return spline.rational_quadratic(v, h)

    def start(self, v: Tensor, x: Tensor, slope: Tensor, first: Levels, model: DiffusionModel) -> Start:
        """z_1 from uniforms v (B, …), with log q(z_1 | x); slope (B, …) as of `slopes`."""
        domain = model.domain
        shown = (2 * x - domain.low - domain.high) / (domain.high - domain.low)
        rows = max(1, _ELEMENTS // domain.dimensions)
        parts = [self.unit(*some) for some in zip(*(t.split(rows) for t in (v, shown, slope)), strict=True)]
        u, log_slope = (torch.cat(p) for p in zip(*parts, strict=True))
        width = first.alpha * bin_width(domain)
        z = column(first.alpha, x) * x + column(width, x) * (u - 0.5)
        log_q = -log_slope.flatten(1).sum(1) - domain.dimensions * width.log()
        return Start(z, log_q, torch.zeros_like(width))


def score(model: DiffusionModel, z: Tensor, first: Levels, condition: Condition | None) -> Tensor:
    """∇ log p(z_1) = (α_1 x̂ − z_1)/σ_1², (B, …): one evaluation."""
    with torch.no_grad():
        x0 = model.predict(z, first, condition).x0
    return (column(first.alpha, z) * x0 - z) / column(first.sigma, z).square()


def slopes(model: DiffusionModel, x: Tensor, first: Levels, condition: Condition | None) -> Tensor:
    """α_1 w ∇ log p at the middle of the bin of x (B, …): by how much log p rises over the bin. One evaluation."""
    width = first.alpha * bin_width(model.domain)
    return column(width, x) * score(model, column(first.alpha, x) * x, first, condition)


def fit(problem: Problem) -> tuple[DequantisationFlow, int]:
    """The flow fitted to a problem's model on its first `EXAMPLES` examples, and the evaluations that it took.

    It depends on the seed, the model and those examples; every process makes its own and takes that of rank 0.
    """
    model, device = problem.model, problem.device
    count = min(EXAMPLES, problem.examples)
    rows = torch.arange(count)
    x = problem.values(rows)
    condition = {k: v[rows].to(device) for k, v in problem.condition.items()}
    one = problem.levels[:1]
    parts = []
    for some in rows.split(BATCH):
        given = {k: v[some.to(device)] for k, v in condition.items()}
        parts.append(slopes(model, x[some.to(device)], one.expand(len(some)), given))
    slope = torch.cat(parts)
    flow = DequantisationFlow.begun(problem.seed, device)
    for w in flow.weights:
        w.requires_grad_()
    optimiser = torch.optim.Adam(flow.weights, RATE, betas=(0.9, 0.99))
    shape, spent = model.domain.shape, count
    for step in range(STEPS):
        drawn = random.uniform(problem.seed, step, _FIT_LEVEL, 0, (BATCH,), stream=random.Stream.SELECT)[0]
        some = (drawn * count).long()
        key = {"stream": random.Stream.FORWARD, "device": device}
        v = random.uniform(problem.seed, torch.arange(BATCH), _FIT_LEVEL, step, shape, **key)
        there = some.to(device)
        given = {k: c[there] for k, c in condition.items()}
        first = one.expand(BATCH)
        with torch.enable_grad():
            begun = flow.start(v, x[there], slope[there], first, model)
            gained = (score(model, begun.z.detach(), first, given) * begun.z).flatten(1).sum(1)
            loss = (begun.log_q - gained).mean() / model.domain.dimensions
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.weights, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        optimiser.step()
        spent += BATCH
        problem.advance(BATCH)
    return _shared(problem, flow), spent


def _shared(problem: Problem, flow: DequantisationFlow) -> DequantisationFlow:
    """The flow of rank 0, on every process."""
    weights = tuple(w.detach() for w in flow.weights)
    if problem.workers.size > 1:
        flat = problem.workers.gather(torch.cat([w.flatten() for w in weights])[:, None].cpu())[0][:, 0]
        parts = flat.to(problem.device).split([w.numel() for w in weights])
        weights = tuple(p.reshape(w.shape) for p, w in zip(parts, weights, strict=True))
    return DequantisationFlow(weights)

"""Dequantisation: where the flow starts. A law q(z_1 | x) gives a bound by the density of z_1,

    −log p(x) ≤ E_q [ −log p(x | z_1) − log p(z_1) + log q(z_1 | x) ],

with p(z_1) of the flow. Each kind fixes q, and with it p(x | z_1):

    variational        q = N(α_1 x, σ_1²), as in the variational bound; p(x | z_1) is the model's decoder
    uniform            q = uniform on the bin of x, of width α_1 w; p(x | z_1) = 1 in the bin, 0 elsewhere
    truncated_normal   q = N(α_1 x, σ_1²) truncated to that bin; p(x | z_1) as for uniform
    flow               q on that bin is a small flow fitted to the model, see below; p(x | z_1) as for uniform
    none               z_1 = α_1 x: no bound, the density of data that have the noise of the first level

w = (high − low)/(K − 1) of the data domain. The bins of `uniform`, `truncated_normal` and `flow` are of equal width,
the end ones too: the probability that the model puts outside them is lost, and the bound still holds.

The flow is a monotone spline T for each element, fitted in seconds:

    z_1 = α_1 (x + (u − ½) w),    u_d = T(v_d; h_d),    v_d ~ U(0, 1),    log q(z_1 | x) = −Σ_d log (α_1 w T′(v_d; h_d))

A small network computes the knots of T from h: the value x_d, and the slope α_1 w ∂ log p(z_1)/∂z_1,d of the model at
the middle of the bin. The fit minimises E_q [log q(z_1 | x) − log p(z_1)], whose gradient needs no solve of the ODE,
because the model's own prediction gives the score:

    ∇ log p(z_1) = (α_1 x̂(z_1) − z_1)/σ_1²,        d/dφ E log p(z_1) = E [∇ log p(z_1) · ∂z_1/∂φ]

Where the prediction is not exact the fit is less good, and the bound still holds: it does for any q on the bin. The
draws of the fit are not those that are scored. Source: Song et al. 2021, app. D.2; Ho et al. 2019 (Flow++), §3.1; Theis
et al. 2016, eq. 12; Durkan et al. 2019; Zheng et al. 2023 (i-DODE), §3.2; Ho et al. 2020, eq. 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.runner import Runner
from nelbo.errors import UsageError
from nelbo.maths import bins, gaussian, spline
from nelbo.maths.keys import Purpose
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction
from nelbo.typing import Choice, Condition

PIECES, HIDDEN = 6, 16
"""Pieces of a spline, and width of the network that computes their knots."""
EXAMPLES, BATCH, STEPS, RATE = 256, 32, 200, 0.02
"""Examples of a fit, examples a step, steps of Adam, and its first rate, which falls linearly to 0. Half or twice
the batch, the rate, the pieces or the width, or half the steps, changed the bound of codes of four values by at most
0.03 bits/dim, where the flow gains 0.28 (at λ_1 = 3) and 3.7 (at λ_1 = 5) over uniform dequantisation."""
_ELEMENTS = 1 << 16
"""Elements whose splines are computed at once, which bounds the memory."""


class Dequantisation(Choice, noun="dequantisation"):
    """The law q(z_1 | x) of the flow's starting point."""

    VARIATIONAL = "variational"
    UNIFORM = "uniform"
    TRUNCATED_NORMAL = "truncated_normal"
    FLOW = "flow"
    NONE = "none"

    @property
    def random(self) -> bool:
        """Whether z_1 is drawn."""
        return self is not Dequantisation.NONE

    def calls_network(self, model: DiffusionModel) -> bool:
        """Whether a starting point takes an evaluation: to score x at z_1, or for the slope that T depends on."""
        return self is Dequantisation.FLOW or (self is Dequantisation.VARIATIONAL and model.decoder.calls_network)

    @property
    def on_the_bin(self) -> bool:
        """Whether z_1 stays in the bin of x, so that p(x | z_1) = 1."""
        return self in (Dequantisation.UNIFORM, Dequantisation.TRUNCATED_NORMAL, Dequantisation.FLOW)

    def check(self, domain: DataDomain) -> None:
        """Raise UsageError where this start makes no sense on the domain."""
        if self.on_the_bin and not domain.discrete:
            raise UsageError(
                f"dequantisation {self.value!r} of real data of shape {domain.shape}, which have no bins",
                "use 'variational', the bound with the model's decoder, or 'none', the density at the first level",
            )
        if self is Dequantisation.NONE and domain.discrete:
            raise UsageError(
                f"dequantisation 'none' of data of {domain.bins} bins: a density at integer codes is no likelihood",
                "use 'variational', 'uniform', 'truncated_normal' or 'flow', each a bound of −log P(codes)",
            )


@dataclass(frozen=True, eq=False)
class Start:
    """z_1 (B, …), log q(z_1 | x) (B,) and −log p(x | z_1) (B,), in nats."""

    z: Tensor
    log_q: Tensor
    reconstruction: Tensor


def bin_width(domain: DataDomain) -> float:
    """w, the distance of neighbouring codes as values."""
    return (domain.high - domain.low) / (domain._bins() - 1)


def start(
    kind: Dequantisation,
    model: DiffusionModel,
    data: Tensor,
    first: Levels,
    *,
    seed: int,
    examples: Tensor,
    draw: int,
    condition: Condition | None = None,
    flow: DequantisationFlow | None = None,
    reconstruction: Callable[[Tensor, Tensor, Levels, Prediction | None], Tensor] | None = None,
    there: Tensor | None = None,
) -> Start:
    """The starting points of `data` (B, *shape), codes or values; first (B,) levels, examples (B,) their indices.

    Noise is keyed by (seed, example, draw): that of `variational` is the noise of the bound's reconstruction term.
    flow: the fitted flow, where the kind is that. there (B, *shape), reconstruction: of examples of different size what
    is there, and their −log p(x | z_1) of codes or values, z_1, levels and prediction; z_1 means nothing elsewhere.
    """
    domain = model.domain
    x = domain.values(data)
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    centre = column(first.alpha, x) * x
    if kind is Dequantisation.NONE:
        # the density of x, not of z_1: log p(x) = log p(z_1) + D log α_1, less log_volume where x is standardised
        return Start(centre, -first.log_alpha * _numbers(domain, there), nothing + domain.log_volume)
    if kind is Dequantisation.VARIATIONAL:
        eps = Purpose.ODE_START.normal(seed, examples, 0, draw, domain.shape, device=x.device)
        z = forward.noised(x, eps, first)
        if there is not None:
            z = z.where(there, torch.zeros_like(z))
        log_q = summed(gaussian.log_density(z, centre, column(first.sigma, x).square()), there)
        with torch.no_grad():
            target = data.long() if domain.discrete else x
            prediction = model.predict(z, first, condition) if model.decoder.calls_network else None
            if reconstruction is not None:
                return Start(z, log_q, reconstruction(data, z, first, prediction))
            return Start(z, log_q, terms.reconstruction(model, target, z, prediction, first))
    u = Purpose.ODE_START.uniform(seed, examples, 0, draw, domain.shape, device=x.device)
    if kind is Dequantisation.UNIFORM:
        return uniform(u, centre, first, domain, there)
    if kind is Dequantisation.FLOW:
        if flow is None:
            raise UsageError("dequantisation 'flow' before it was fitted", "use nelbo.ode_likelihood, which fits it")
        return flow.start(u, x, slopes(model, x, first, condition), first, model)
    return truncated_normal(u, centre, first, domain, there)


def summed(values: Tensor, there: Tensor | None) -> Tensor:
    """Sums (B,) of values (B, …), of those that are there."""
    return (values if there is None else values.where(there, torch.zeros_like(values))).flatten(1).sum(1)


def _numbers(domain: DataDomain, there: Tensor | None) -> Tensor | int:
    """D, or that of every example, (B,)."""
    return domain.dimensions if there is None else there.flatten(1).sum(1)


def uniform(u: Tensor, centre: Tensor, first: Levels, domain: DataDomain, there: Tensor | None = None) -> Start:
    """z_1 = α_1 (x + (u − ½) w), log q = −D log(α_1 w), for uniforms u (B, …)."""
    width = first.alpha * bin_width(domain)
    z = centre + column(width, centre) * (u - 0.5)
    return Start(z, -_numbers(domain, there) * width.log(), torch.zeros_like(width))


def truncated_normal(
    u: Tensor, centre: Tensor, first: Levels, domain: DataDomain, there: Tensor | None = None
) -> Start:
    """z_1 = α_1 x + σ_1 ε with |ε| ≤ c = α_1 w/(2 σ_1): log q = Σ [log N(ε; 0, 1) − log σ_1 − log(2Φ(c) − 1)].

    ε is the normal's quantile of Φ(−c) + u (Φ(c) − Φ(−c)), from the lower tail on either side.
    """
    c = first.alpha * bin_width(domain) / (2 * first.sigma)
    low, log_mass = torch.special.ndtr(-c), bins.interval_log_mass(-c, c)
    side = torch.where(u < 0.5, 1.0, -1.0)
    tail = torch.where(u < 0.5, u, 1 - u)
    eps = side * torch.special.ndtri(column(low, u) + tail * column(log_mass.exp(), u))
    log_q = summed(gaussian.log_density(eps, torch.zeros_like(eps), torch.ones_like(eps)), there)
    log_q = log_q - _numbers(domain, there) * (first.log_sigma + log_mass)
    return Start(centre + column(first.sigma, centre) * eps, log_q, torch.zeros_like(c))


@dataclass(frozen=True, eq=False)
class DequantisationFlow:
    """The fitted q(z_1 | x): weights of the network that computes the knots of the splines, float64."""

    weights: tuple[Tensor, ...]

    @classmethod
    def initial(cls, seed: int, device: torch.device) -> DequantisationFlow:
        """Keyed weights; the last layer is 0, so that T is the identity and q is uniform."""
        sizes = (2, HIDDEN, HIDDEN, spline.parameters(PIECES))
        weights: list[Tensor] = []
        for layer, (n, m) in enumerate(itertools.pairwise(sizes)):
            w = Purpose.FLOW_WEIGHTS.normal(seed, layer, 0, 0, (n, m), device=device)[0]
            weights += [w / n**0.5 * (layer < 2), torch.zeros(m, dtype=torch.float64, device=device)]
        return cls(tuple(weights))

    def transform(self, v: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """u and log du/dv at v (…), for values x scaled to [−1, 1] and slopes of log p over a bin, all of one shape."""
        h = torch.stack([x, torch.asinh(slope)], -1)
        for k in range(0, len(self.weights), 2):
            h = h @ self.weights[k] + self.weights[k + 1]
            h = torch.tanh(h) if k + 2 < len(self.weights) else h
        return spline.rational_quadratic(v, h)

    def start(self, v: Tensor, x: Tensor, slope: Tensor, first: Levels, model: DiffusionModel) -> Start:
        """z_1 from uniforms v (B, …), with log q(z_1 | x); slope (B, …) as of `slopes`."""
        domain = model.domain
        scaled = (2 * x - domain.low - domain.high) / (domain.high - domain.low)
        rows = max(1, _ELEMENTS // domain.dimensions)
        parts = [self.transform(*some) for some in zip(*(t.split(rows) for t in (v, scaled, slope)), strict=True)]
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
    """α_1 w ∇ log p(z_1) at the middle of the bin of x (B, …): the rise of log p over the bin. One evaluation."""
    width = first.alpha * bin_width(model.domain)
    return column(width, x) * score(model, column(first.alpha, x) * x, first, condition)


def fit(chain: GaussianChain, runner: Runner) -> DequantisationFlow:
    """The flow fitted to the chain's model on its first `EXAMPLES` examples.

    It depends on the seed, the model and those examples. Every process fits one, and all use that of rank 0.
    """
    model, device = chain.model, chain.device
    count = min(EXAMPLES, chain.examples)
    rows = torch.arange(count)
    x = chain.values(rows)
    condition = chain.condition_of(rows)
    one = chain.levels[:1]
    parts = []
    for batch in rows.to(device).split(BATCH):
        given = {k: v[batch] for k, v in condition.items()}
        parts.append(slopes(model, x[batch], one.expand(len(batch)), given))
    slope = torch.cat(parts)
    runner.count(count)
    flow = DequantisationFlow.initial(chain.seed, device)
    for w in flow.weights:
        w.requires_grad_()
    optimiser = torch.optim.Adam(flow.weights, RATE, betas=(0.9, 0.99))
    shape = model.domain.shape
    for step in range(STEPS):
        batch = (Purpose.FLOW_EXAMPLES.uniform(chain.seed, step, 0, 0, (BATCH,))[0] * count).long().to(device)
        v = Purpose.FLOW_NOISE.uniform(chain.seed, torch.arange(BATCH), 0, step, shape, device=device)
        given = {k: c[batch] for k, c in condition.items()}
        first = one.expand(BATCH)
        with torch.enable_grad():
            start = flow.start(v, x[batch], slope[batch], first, model)
            log_p = (score(model, start.z.detach(), first, given) * start.z).flatten(1).sum(1)  # its gradient only
            loss = (start.log_q - log_p).mean() / model.domain.dimensions
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.weights, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        optimiser.step()
        runner.count(BATCH)
    return _shared(chain, runner, flow)


def _shared(chain: GaussianChain, runner: Runner, flow: DequantisationFlow) -> DequantisationFlow:
    """The flow of rank 0, on every process."""
    weights = tuple(w.detach() for w in flow.weights)
    if runner.workers.size > 1:
        flat = runner.workers.gather(torch.cat([w.flatten() for w in weights])[:, None].cpu())[0][:, 0]
        parts = flat.to(chain.device).split([w.numel() for w in weights])
        weights = tuple(p.reshape(w.shape) for p, w in zip(parts, weights, strict=True))
    return DequantisationFlow(weights)

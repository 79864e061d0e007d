"""Dequantisation: where the flow starts. A law q(z_1 | x) that makes a bound of the density of z_1,

    −log p(x) ≤ E_q [ −log p(x | z_1) − log p(z_1) + log q(z_1 | x) ],

with p(z_1) of the flow. Each kind says q, and with it what p(x | z_1) is:

    variational        q = N(α_1 x, σ_1²), as in the variational bound; p(x | z_1) is the model's decoder
    uniform            q = uniform on the bin of x, of width α_1 w; p(x | z_1) = 1 in the bin, 0 elsewhere
    truncated_normal   q = N(α_1 x, σ_1²) cut to that bin; p(x | z_1) as for uniform
    flow               q on that bin is a small flow, fitted to the model (`fitted`); p(x | z_1) as for uniform
    none               z_1 = α_1 x: no bound, the density of data that have the noise of the first level

w = (high − low)/(K − 1) of the data domain. The bins of `uniform`, `truncated_normal` and `flow` are of equal
width, the end ones too: what the flow puts outside them is lost, which a bound may do.
Source: Song et al. 2021, app. D.2; Ho et al. 2019 (Flow++), §3.1; Theis et al. 2016, eq. 12; Zheng et al. 2023
(i-DODE), §3.2; Ho et al. 2020, eq. 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.errors import UsageError
from nelbo.maths import bins, gaussian, random
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.process import forward
from nelbo.process.levels import Levels, column
from nelbo.typing import Choice, Condition


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
        """Whether a starting point takes an evaluation: to score x at z_1, or to say the slope that a flow is told."""
        return self is Dequantisation.FLOW or (self is Dequantisation.VARIATIONAL and model.decoder.calls_network)

    @property
    def on_the_bin(self) -> bool:
        """Whether z_1 stays in the bin of x, which then is what z_1 says."""
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


Fitted = Callable[[Tensor, Tensor, Levels, Condition | None], Start]


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
    fitted: Fitted | None = None,
) -> Start:
    """The starting points of `data` (B, *shape), codes or values; first (B,) levels, examples (B,) their indices.

    Noise is keyed by (seed, example, draw): that of `variational` is the noise of the bound's reconstruction term.
    fitted: of `flow`, (u, x, first, condition) → the start at uniforms u.
    """
    domain = model.domain
    x = domain.values(data)
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    centre = column(first.alpha, x) * x
    if kind is Dequantisation.NONE:
        # the density of x, not of z_1: log p(x) = log p(z_1) + D log α_1, less log_volume where x is standardised
        return Start(centre, -first.log_alpha * domain.dimensions, nothing + domain.log_volume)
    if kind is Dequantisation.VARIATIONAL:
        eps = random.normal(seed, examples, 0, draw, domain.shape, device=x.device)
        z = forward.noised(x, eps, first)
        log_q = gaussian.log_density(z, centre, column(first.sigma, x).square()).flatten(1).sum(1)
        with torch.no_grad():
            target = data.long() if domain.discrete else x
            return Start(z, log_q, terms.reconstruction_at(model, target, z, first, condition))
    u = random.uniform(seed, examples, 0, draw, domain.shape, stream=random.Stream.FORWARD, device=x.device)
    if kind is Dequantisation.UNIFORM:
        return uniform(u, centre, first, domain)
    if kind is Dequantisation.FLOW:
        if fitted is None:
            raise UsageError("dequantisation 'flow' before it was fitted", "use nelbo.ode_likelihood, which fits it")
        return fitted(u, x, first, condition)
    return truncated_normal(u, centre, first, domain)


def uniform(u: Tensor, centre: Tensor, first: Levels, domain: DataDomain) -> Start:
    """z_1 = α_1 (x + (u − ½) w), log q = −D log(α_1 w), for uniforms u (B, …)."""
    width = first.alpha * bin_width(domain)
    z = centre + column(width, centre) * (u - 0.5)
    return Start(z, -domain.dimensions * width.log(), torch.zeros_like(width))


def truncated_normal(u: Tensor, centre: Tensor, first: Levels, domain: DataDomain) -> Start:
    """z_1 = α_1 x + σ_1 ε with |ε| ≤ c = α_1 w/(2 σ_1): log q = Σ [log N(ε; 0, 1) − log σ_1 − log(2Φ(c) − 1)].

    ε is the normal's quantile of Φ(−c) + u (Φ(c) − Φ(−c)), from the lower tail on either side.
    """
    c = first.alpha * bin_width(domain) / (2 * first.sigma)
    low, log_mass = torch.special.ndtr(-c), bins.interval_log_mass(-c, c)
    side = torch.where(u < 0.5, 1.0, -1.0)
    tail = torch.where(u < 0.5, u, 1 - u)
    eps = side * torch.special.ndtri(column(low, u) + tail * column(log_mass.exp(), u))
    per_dimension = gaussian.log_density(eps, torch.zeros_like(eps), torch.ones_like(eps)).flatten(1).sum(1)
    log_q = per_dimension - domain.dimensions * (first.log_sigma + log_mass)
    return Start(centre + column(first.sigma, centre) * eps, log_q, torch.zeros_like(c))


def entropy(kind: Dequantisation, first: Levels, domain: DataDomain) -> Tensor:
    """H(q(z_1 | x)) in nats an example, (B,), in closed form:

    uniform D log(α_1 w); normal ½ D log(2πe σ_1²); cut at c, with Z = 2Φ(c) − 1: ½ log(2π σ_1²) + log Z + ½ − c φ(c)/Z.
    """
    D = domain.dimensions
    if kind is Dequantisation.UNIFORM:
        return D * (first.log_alpha + math.log(bin_width(domain)))
    if kind is Dequantisation.TRUNCATED_NORMAL:
        c = first.alpha * bin_width(domain) / (2 * first.sigma)
        log_mass = bins.interval_log_mass(-c, c)
        variance_lost = c * (gaussian.log_density(c, torch.zeros_like(c), torch.ones_like(c)) - log_mass).exp()
        return D * (0.5 * math.log(2 * math.pi) + first.log_sigma + log_mass + 0.5 - variance_lost)
    if kind is Dequantisation.VARIATIONAL:
        return D * gaussian.entropy(first.sigma.square())
    raise UsageError(
        f"the entropy of dequantisation {kind.value!r}, which has no closed form", "ask for 'uniform', say"
    )

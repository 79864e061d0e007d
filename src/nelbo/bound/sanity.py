"""What a reader should be told about a number that may not mean what he thinks: a chain that does not end at its prior,
and a network that is worse than none.

Without any network x̂ = z/α errs by σ²/α² an element and x̂ = the middle of the data by the data's second moment R²
about it, so that the better of the two leaves at most

    KL of a step with ‖x − x̂‖² = D min(σ_t²/α_t², R²),          ½ ∫ D min(1, SNR R²) dλ where the grid is continuous.

A network that costs much more than that somewhere is not what it was declared to be: it says v where ε was declared, is
told another time, or was trained on another range of data. No network is asked; the check is free.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bound.estimate import Estimate
from nelbo.bound.problem import Problem
from nelbo.maths import gaussian
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.denoiser import CategoricalDenoiser, NetworkDenoiser
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

PRIOR = 0.002
"""Bits/dim of the prior term from which a chain is said not to end at its prior."""
EXCESS = 0.5
"""Bits/dim above the bound of no network from which a network is said to be worse than none."""


def notes(problem: Problem, estimate: Estimate) -> list[str]:
    """Lines for the reader; none where nothing is amiss."""
    D = problem.model.domain.dimensions
    found = []
    prior = float(bits_per_dim(estimate.prior.mean, D))
    if prior > PRIOR:
        last = float(problem.levels.logsnr[-1])
        found.append(
            f"the chain does not end at its prior: the prior term is {prior:.4g} bits/dim, since the last level still "
            f"has log-SNR {last:.4g} (signal {math.sqrt(1 / (1 + math.exp(-last))):.3g} of the whole); it is part of "
            "the bound, and sampling starts from a distribution that the chain never reaches"
        )
    excess, where = _excess(problem, estimate)
    if float(bits_per_dim(excess, D)) > EXCESS and where is not None:
        low, high, mean, without = where
        found.append(
            f"the network is worse than none: between log-SNR {high:.3g} and {low:.3g} its term is "
            f"{float(bits_per_dim(mean, D)):.4g} bits/dim, and without a network it is "
            f"{float(bits_per_dim(without, D)):.4g}; {_hint(problem)}"
        )
    elif (least := _reconstruction_without(problem)) is not None:
        said = estimate.reconstruction
        if said.mean - 4 * math.sqrt(said.variance) > least + float(nats(1.0, D)):
            found.append(
                f"the network is worse than none at the first level: the reconstruction term is "
                f"{float(bits_per_dim(said.mean, D)):.4g} bits/dim, and with x̂ = z/α it is "
                f"{float(bits_per_dim(least, D)):.4g}; if its first levels were never trained, begin at the first that "
                "was: first_level=1, say"
            )
    return found


def _hint(problem: Problem) -> str:
    denoiser, domain = problem.model.denoiser, problem.model.domain
    if isinstance(denoiser, NetworkDenoiser):
        declared = f"declared: {denoiser.output.value}", f"declared: {denoiser.time.value}"
    elif isinstance(denoiser, CategoricalDenoiser):
        declared = "a categorical head", f"declared: {denoiser.time.value}"
    else:
        declared = "", ""
    network, time = (f" ({said})" if said else "" for said in declared)
    return (
        f"check what it predicts{network}, the time it is told{time}, the schedule, the range of the data "
        f"([{domain.low:g}, {domain.high:g}]), and that it was trained"
    )


def _spread(problem: Problem) -> float:
    """R², the second moment of an element of the data about the middle of their range (about their mean, if real)."""
    x = problem.values(torch.arange(min(problem.examples, 1024)))
    domain = problem.model.domain
    middle = 0.5 * (domain.low + domain.high) if domain.discrete else float(x.mean())
    return float((x - middle).square().mean())


def without_network(problem: Problem) -> Tensor:
    """The diffusion term of every cell with x̂ = z/α or the middle of the data, in nats an example, (M,)."""
    D, spread, cells = problem.model.domain.dimensions, _spread(problem), problem.cells
    if cells.continuous:
        return D * cells.scale * (cells.logsnr.exp() * spread).clamp(max=1.0)
    s, t = cells.levels[:-1], cells.levels[1:]
    q = forward.posterior(s, t)
    error = torch.minimum((t.sigma / t.alpha).square(), torch.full_like(t.sigma, spread)).sqrt()
    return D * gaussian.kl_from_difference(q.x_coefficient * error, q.variance, _fixed(problem, s, t, q.variance))


def _fixed(problem: Problem, s: Levels, t: Levels, otherwise: Tensor) -> Tensor:
    """The variance of the steps; that of the posterior where the network says its own, which should be better."""
    typical = problem.model.reverse.variance.typical(s, t)
    return otherwise if typical is None else typical


def _excess(problem: Problem, estimate: Estimate) -> tuple[float, tuple[float, float, float, float] | None]:
    """Nats above the term without a network, summed over the strata that are; and the worst stratum: its log-SNRs, its
    mean, and the term without a network there."""
    if len(problem.cells) == 0:
        return 0.0, None
    terms = without_network(problem)
    edges = torch.cat([problem.cells.upper, problem.cells.lower[-1:]]).cpu()
    sums = torch.cat([torch.zeros(1).double(), terms.cumsum(0).cpu()])

    def until(logsnr: float) -> float:
        """The terms above λ, straight between the edges of cells."""
        right = int(torch.searchsorted(-edges, -logsnr).clamp(1, len(edges) - 1))
        part = float((edges[right - 1] - logsnr) / (edges[right - 1] - edges[right]))
        return float(sums[right - 1] + min(max(part, 0.0), 1.0) * terms[right - 1])

    total, worst, where = 0.0, 0.0, None
    for stratum in estimate.strata:
        without = until(stratum.logsnr_t) - until(stratum.logsnr_s)
        over = stratum.mean - 4 * math.sqrt(max(0.0, stratum.variance)) - without
        total += max(0.0, over)
        if over > worst:
            worst, where = over, (stratum.logsnr_t, stratum.logsnr_s, stratum.mean, without)
    return total, where


def _reconstruction_without(problem: Problem) -> float | None:
    """−log p(x | z_1) with x̂ = z/α in nats an example, a code in the middle of the range; None for other decoders."""
    model = problem.model
    decoder, domain = model.decoder, model.domain
    if not isinstance(decoder, DiscretizedGaussian) or decoder.variance is None:
        return None
    first = model.levels()[:1]
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    code = torch.full((64, 1), domain._bins() // 2)
    x0 = domain.values(code) + (-0.5 * first.logsnr).exp() * torch.special.ndtri(u)[:, None]
    nll = decoder.nll(code, x0, first.expand(64), Prediction(x0), domain)
    return domain.dimensions * float(nll.mean())

"""What a reader should be told about a number that may not mean what they think.

- The model was trained on some of the examples.
- The chain does not end at its prior.
- The network is worse than none. Without any network x̂ = z/α errs by σ²/α² an element and x̂ = the middle of the data by
  the data's second moment R² about it, so that the better of the two leaves at most

      KL of a step with ‖x − x̂‖² = D min(σ_t²/α_t², R²),          ½ ∫ D min(1, SNR R²) dλ where the grid is continuous.

  A network that costs much more than that somewhere is not what it was declared to be: it says v where ε was declared,
  is told another time, or was trained on another range of data. No network is asked; the check is free.
- A coarser precision of the network moves the value. Rounding moves it the same way in every draw, and no number of
  draws shows it; the difference of one draw in two precisions is all rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from nelbo.bound import causes
from nelbo.bound.estimate import Estimate
from nelbo.bound.estimators import diffusion_total
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.planned.laps import random_examples
from nelbo.bound.problem import Draws, Problem
from nelbo.bound.runner import Runner
from nelbo.errors import CostError
from nelbo.maths import gaussian
from nelbo.maths.keys import Purpose
from nelbo.maths.units import bits_per_dim, nats
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.examples import Examples
from nelbo.model.frozen import FrozenModel
from nelbo.process import forward
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

PRIOR = 0.002
"""Bits/dim of the prior term from which a chain is said not to end at its prior: less is no more than an error bar."""
EXCESS = 0.5
"""Bits/dim above the bound of no network from which a network is said to be worse than none: far above an error bar,
and a network that is told the wrong time or output exceeds it."""
FIRST_EXCESS = 1.0
"""The same at the first level, whose term varies more between examples."""
PAIRED_DRAWS = 256
"""Draws of two precisions, paired: their difference varies little."""
NUMBERS = 1 << 21
"""Numbers of the data from which their spread is known well enough."""
LEAST_PAIRED = 16
"""Fewer draws than these say too little."""

_OURS = (str(Path(__file__).parents[1]), str(contextlib.__file__))
"""Files whose lines are none of the user's; contextlib calls what is decorated with a context."""


class NelboWarning(UserWarning):
    """Something that does not stop an evaluation but changes what its number means."""


def warn(notes: Iterable[str]) -> None:
    """Every note as a warning at the line of the user's that called nelbo, however deep in nelbo it arises."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    for note in notes:
        warnings.warn(note, NelboWarning, stacklevel=level)


def with_notes(error: CostError, notes: list[str]) -> CostError:
    """The error with what is amiss with the model, as far as the pilot shows it."""
    whole = CostError("; ".join([error.message, *notes]), error.hint)
    whole.evaluations, whole.pilot = error.evaluations, error.pilot
    return whole


def overlap(model: FrozenModel, examples: Examples) -> list[str]:
    """A note where some examples are among those the model was trained on, else none."""
    if model.trained_on is None:
        return []
    seen = int(torch.isin(examples.hashes, model.trained_on).sum())
    if seen == 0:
        return []
    return [f"{seen} of {len(examples)} examples are among those the model was trained on; the bound flatters it"]


def sanity(chain: GaussianChain, estimate: Estimate) -> list[str]:
    """Notes on the prior and on a network that is worse than none; none where nothing is amiss."""
    D = chain.dimensions
    notes = []
    prior = float(bits_per_dim(estimate.prior.mean, D))
    if prior > PRIOR:
        last = float(chain.levels.logsnr[-1])
        notes.append(
            f"the chain does not end at its prior: the prior term is {prior:.4g} bits/dim, since the last level still "
            f"has log-SNR {last:.4g} (signal {math.sqrt(1 / (1 + math.exp(-last))):.3g} of the whole); it is part of "
            "the bound, and sampling starts from a distribution that the chain never reaches"
        )
    excess, worst = _excess(chain, estimate)
    if float(bits_per_dim(excess, D)) > EXCESS and worst is not None:
        low, high, mean, without = worst
        notes.append(
            f"the network is worse than none: between log-SNR {high:.3g} and {low:.3g} its term is "
            f"{float(bits_per_dim(mean, D)):.4g} bits/dim, and without a network it is "
            f"{float(bits_per_dim(without, D)):.4g}; {causes.likely(chain, (high, low))}"
        )
    elif (least := _reconstruction_without(chain)) is not None:
        term = estimate.reconstruction
        if term.mean - 4 * math.sqrt(term.variance) > least + float(nats(FIRST_EXCESS, D)):
            notes.append(
                f"the network is worse than none at the first level: the reconstruction term is "
                f"{float(bits_per_dim(term.mean, D)):.4g} bits/dim, and with x̂ = z/α it is "
                f"{float(bits_per_dim(least, D)):.4g}; if its first levels were never trained, begin at the first that "
                "was: first_level=1, say"
            )
    return notes


def _spread(chain: GaussianChain) -> float:
    """R², the second moment of an element of the data about the middle of their range (about their mean, if real)."""
    looked_at = max(16, min(1024, NUMBERS // chain.dimensions))
    x = chain.values(torch.arange(min(chain.examples, looked_at)))
    domain = chain.model.domain
    middle = 0.5 * (domain.low + domain.high) if domain.discrete else float(x.mean())
    return float((x - middle).square().mean())


def without_network(chain: GaussianChain) -> Tensor:
    """The diffusion term of every cell with x̂ = z/α or the middle of the data, in nats an example, (M,)."""
    D, spread, cells = chain.dimensions, _spread(chain), chain.cells
    if cells.continuous:
        return D * cells.scale * ((-cells.place).exp() * spread).clamp(max=1.0)
    levels = chain.model.levels()
    s, t = levels[:-1], levels[1:]
    q = forward.posterior(s, t)
    error = torch.minimum((t.sigma / t.alpha).square(), torch.full_like(t.sigma, spread)).sqrt()
    return D * gaussian.kl_from_difference(q.x_coefficient * error, q.variance, _fixed(chain, s, t, q.variance))


def _fixed(chain: GaussianChain, s: Levels, t: Levels, otherwise: Tensor) -> Tensor:
    """The variance of the steps; that of the posterior where the network says its own, which should be better."""
    typical = chain.model.reverse.variance.typical(s, t)
    return otherwise if typical is None else typical


def _excess(chain: GaussianChain, estimate: Estimate) -> tuple[float, tuple[float, float, float, float] | None]:
    """Nats above the term without a network, summed over the strata that are; and the worst stratum: its log-SNRs, its
    mean, and the term without a network there."""
    if len(chain.cells) == 0:
        return 0.0, None
    terms = without_network(chain)
    edges = -torch.cat([chain.cells.start, chain.cells.stop[-1:]]).cpu()
    sums = torch.cat([torch.zeros(1).double(), terms.cumsum(0).cpu()])

    def until(logsnr: float) -> float:
        """The terms above λ, straight between the edges of cells."""
        right = int(torch.searchsorted(-edges, -logsnr).clamp(1, len(edges) - 1))
        part = float((edges[right - 1] - logsnr) / (edges[right - 1] - edges[right]))
        return float(sums[right - 1] + min(max(part, 0.0), 1.0) * terms[right - 1])

    total, most, worst = 0.0, 0.0, None
    for stratum in estimate.strata:
        without = until(stratum.logsnr_t) - until(stratum.logsnr_s)
        over = stratum.mean - 4 * math.sqrt(max(0.0, stratum.variance)) - without
        total += max(0.0, over)
        if over > most:
            most, worst = over, (stratum.logsnr_t, stratum.logsnr_s, stratum.mean, without)
    return total, worst


def _reconstruction_without(chain: GaussianChain) -> float | None:
    """−log p(x | z_1) with x̂ = z/α in nats an example, a code in the middle of the range; None for other decoders."""
    model = chain.model
    decoder, domain = model.decoder, model.domain
    if not isinstance(decoder, DiscretizedGaussian) or decoder.variance is None:
        return None
    first = model.levels()[:1]
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    code = torch.full((64, 1), domain._bins() // 2)
    x0 = domain.values(code) + (-0.5 * first.logsnr).exp() * torch.special.ndtri(u)[:, None]
    nll = decoder.nll(code, x0, first.expand(64), Prediction(x0), domain)
    return domain.dimensions * float(nll.mean())


def precision_shift(chain: Problem, runner: Runner, reference: FrozenModel, precision: str, max_nfe: int | None) -> str:
    """A note on how far `precision` moves the bound from that of `reference`, whose network is in float32.

    Costs up to 4·PAIRED_DRAWS evaluations, which are counted and kept within max_nfe.
    """
    each = 2 * (chain.cell_cost + chain.first_cost)
    n = PAIRED_DRAWS if max_nfe is None or not each else min(PAIRED_DRAWS, (max_nfe - runner.nfe) // each)
    shifts = f"{precision} shifts the value"
    if n < LEAST_PAIRED:
        return f"{shifts}; by how much was not measured, for max_nfe={max_nfe} left no evaluations for it"
    try:
        ours = _paired_draws(chain, runner, n)
        with reference.denoiser.inference():
            other = dataclasses.replace(chain, model=reference)  # type: ignore[type-var]
            difference = ours - _paired_draws(other, runner, n)
    except KeyboardInterrupt:
        runner.stop()
        return f"{shifts}; by how much was not measured, for it was interrupted"
    D = chain.dimensions
    value = float(bits_per_dim(float(difference.mean()), D))
    error = float(bits_per_dim(float(difference.std()) / math.sqrt(n), D))
    return f"{shifts} by {value:+.2g} bits/dim against float32 ({n} paired draws, SE {error:.1g})"


def _paired_draws(chain: Problem, runner: Runner, n: int) -> Tensor:
    """n draws (n,) in nats whose mean is that of diffusion and reconstruction together."""
    number = torch.arange(n)
    draws = Purpose.PRECISION_NOISE.draw + number
    N = chain.examples
    examples = random_examples(chain.seed, torch.full((N,), 1 / N), 0, number)
    total = runner.nats(chain, Draws.first_level(examples, draws))
    if len(chain.cells):
        inside = Purpose.PRECISION_PLACE.uniform(chain.seed, 0, 0, number)
        keys = torch.ones_like(examples)
        total = total + diffusion_total(chain, runner, examples, (number + inside) / n, keys, draws)
    return total

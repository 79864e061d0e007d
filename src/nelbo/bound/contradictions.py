"""What the draws of a pilot contradict of a model's declaration: the output it predicts, an output that is cut off, a
table of variances in another form.

No network is asked: the chain keeps a few numbers of every draw of the pilot (`readings.observed`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.bound import readings, variances
from nelbo.bound.estimate import Estimate
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.readings import Evidence, Reading
from nelbo.bound.visited import levels_at, terms_at
from nelbo.maths.units import bits_per_dim
from nelbo.model.decoder import ContinuousGaussian, DiscretizedGaussian
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.process.prediction import Output, Prediction

CUT = 0.002
"""Share of an output's elements at its two ends from which it is said to be cut off."""


def notes(chain: GaussianChain, estimate: Estimate) -> list[str]:
    """Notes on the output; none where the draws agree with the declaration, or were not observed."""
    denoiser, cells = chain.model.denoiser, chain.observations.of_cells()
    if not isinstance(denoiser, NetworkDenoiser) or not cells:
        return []
    notes = [*cut_off(denoiser, cells, chain.dimensions), *_misread(chain, denoiser, cells, estimate)]
    return [*notes, *variances.notes(chain, cells)]


def _misread(
    chain: GaussianChain, denoiser: NetworkDenoiser, cells: dict[int, Tensor], estimate: Estimate
) -> list[str]:
    first, nodes = cells.get(-1), torch.tensor([cell for cell in cells if cell >= 0])
    if len(nodes) < readings.LEAST_LEVELS:
        return []
    levels, edm = levels_at(chain, nodes), denoiser.output.edm
    rows = [cells[int(node)] for node in nodes]
    fixed, weights = terms_at(chain, nodes)
    declared = readings.declared(denoiser)
    tried = [declared, *readings.siblings(denoiser, levels)]
    evidence = {reading: Evidence.of(reading, levels, rows, edm) for reading in tried}
    reading = readings.best(evidence, weights)
    own, other = evidence[declared], evidence[reading]
    if reading == declared or not readings.explains_better(other, own, rows, weights):
        return []
    diffusion = float((fixed + weights * torch.stack([e.mean() for e in other.errors])).sum())
    reconstruction = _reconstruction(chain, denoiser, reading, first, estimate.reconstruction.mean)
    total = estimate.prior.mean + diffusion + reconstruction
    D = chain.dimensions
    return [
        f"the network seems to predict {reading.name}, not {denoiser.output.value} as declared: at "
        f"{sum(other.contradicts(own))} of the {len(nodes)} noise levels that were looked at its output is nearer to "
        f"{reading.name}, and read so the bound would be about {float(bits_per_dim(total, D)):.3g} bits/dim instead of "
        f"{float(bits_per_dim(estimate.total.mean, D)):.4g}; declare {remedy(reading)}, and let `nelbo diagnose` "
        "compare this with other declarations"
    ]


def remedy(reading: Reading) -> str:
    """What to write for a network of this reading."""
    line = f"predicts={reading.output.value!r}"
    if reading.sigma_data is not None:
        line += f", sigma_data={reading.sigma_data:g}"
    return line if reading.sign > 0 else f"{line} of the network with its sign changed, lambda z, t: -net(z, t)"


def _reconstruction(
    chain: GaussianChain, denoiser: NetworkDenoiser, reading: Reading, first: Tensor | None, nats: float
) -> float:
    """The reconstruction term in nats under a reading: that of the estimate, changed as a Gaussian error's would be."""
    if first is None or not len(first):
        return nats
    level, edm = chain.model.levels()[:1], denoiser.output.edm
    costs = []
    for r in (readings.declared(denoiser), reading):
        a, b = (float(c) for c in r.coefficients(level, edm))
        cost = nats_of_error(chain.model, float(readings.errors(first, a, b).mean()) / chain.dimensions)
        if cost is None:
            return nats
        costs.append(cost)
    return nats * costs[1] / costs[0] if chain.model.domain.discrete else nats + costs[1] - costs[0]


def nats_of_error(model: DiffusionModel, square: float) -> float | None:
    """−log p(x | z_1) in nats an example where x̂ errs by a Gaussian of this mean square, for a code in the middle of
    the range; None where the decoder's variance is no number."""
    decoder, domain = model.decoder, model.domain
    if not isinstance(decoder, (DiscretizedGaussian, ContinuousGaussian)) or decoder.variance is None:
        return None
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    deviation = square**0.5 * torch.special.ndtri(u)[:, None]
    first = model.levels()[:1].expand(64)
    if domain.discrete:
        target = torch.full((64, 1), domain._bins() // 2)
        x0 = domain.values(target) + deviation
    else:
        target, x0 = torch.zeros_like(deviation), deviation
    return domain.dimensions * float(decoder.nll(target, x0, first, Prediction(x0), domain).mean())


def cut_off(denoiser: NetworkDenoiser, cells: dict[int, Tensor], D: int) -> list[str]:
    """A note on an output with many elements exactly at a largest and a smallest value that most draws share."""
    if denoiser.output in (Output.X0, Output.EDM_D):
        return []  # a prediction of x may be clipped to the range of the data
    top, at_top, bottom, at_bottom = torch.cat(list(cells.values()))[:, 7:].unbind(1)
    high, low = float(top.mode().values), float(bottom.mode().values)
    above, below = top == high, bottom == low
    share = float(at_top[above].sum() + at_bottom[below].sum()) / (len(top) * D)
    if high <= low or len(at_top[above].unique()) == 1:  # the same output everywhere has its ends, too
        return []
    if 4 * min(int(above.sum()), int(below.sum())) < len(top) or share < CUT:
        return []
    name = denoiser.output.value
    return [
        f"the network's output is cut off at [{low:g}, {high:g}]: {share:.2g} of its elements are exactly there; "
        f"{name} is not bounded by the range of the data, so evaluate the network without that step, and clip x̂ by "
        "clip=True if it is to be clipped"
    ]

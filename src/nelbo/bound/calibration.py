"""Whether a network's output is calibrated: what the best linear combination of output and input would gain.

A network that has learned its posterior mean errs by nothing that follows from z: x − x̂ is uncorrelated with z and with
the output v, so that at every level the regression of x on z and v is x̂ = a z + b v itself, with the a and b of the
declaration. A network that is told another time, is given another schedule or range, or is read as another output, is
off by a factor that depends on the level, and another a and b do better. How much better follows from the inner
products that the pilot keeps. The draws of a level are halved, and each half is predicted with the best a and b of the
other, so that a calibrated network gains nothing in expectation.

A network that was hardly trained is not calibrated either. Those of a few hundred steps gain less than `SHARE` of the
diffusion term once their bound is below that of no model, and less than `WORTHLESS` of it before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nelbo.bound import readings
from nelbo.bound.estimate import Estimate
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.visited import levels_at, terms_at
from nelbo.maths.units import bits_per_dim
from nelbo.model.denoiser import NetworkDenoiser

SHARE, WORTHLESS = 0.1, 0.2
"""Share of the diffusion term that is gained, from which it is said; and where the bound is above log2(bins)."""
LEAST = 0.05
"""Bits/dim that are gained, from which it is said."""


def notes(chain: GaussianChain, estimate: Estimate) -> list[str]:
    """A note on an output that is not calibrated; none where it is, where few draws were seen, where the network says
    its own variance, and of networks that nelbo trained."""
    denoiser, cells = chain.model.denoiser, chain.observations.of_cells()
    if not isinstance(denoiser, NetworkDenoiser) or not cells:
        return []
    nodes = torch.tensor([cell for cell, rows in cells.items() if cell >= 0 and len(rows) >= readings.LEAST_DRAWS])
    own = not denoiser.foreign and "diffusers" not in chain.model.provenance
    if own or denoiser.learned_variance or len(nodes) < readings.LEAST_LEVELS:
        return []
    rows = [cells[int(node)] for node in nodes]
    levels = levels_at(chain, nodes)
    fixed, weights = terms_at(chain, nodes)
    total, gain, variance = float(fixed.sum()), 0.0, 0.0
    for w, values in zip(weights.tolist(), rows, strict=True):
        used = values[:, 6]  # the error of x̂ after clipping
        saved = used - fitted_errors(values)
        total += w * float(used.mean())
        gain += w * float(saved.mean())
        variance += w**2 * float(saved.var()) / len(saved)
    D, domain = chain.dimensions, chain.model.domain
    bound = float(bits_per_dim(estimate.total.mean, D))
    share = WORTHLESS if domain.bins is not None and bound > math.log2(domain.bins) else SHARE
    bits = float(bits_per_dim(gain, D))
    if gain < share * total or bits < LEAST or gain < readings.DEVIATIONS * math.sqrt(variance):
        return []
    ends = f"between log-SNR {float(levels.logsnr.max()):.3g} and {float(levels.logsnr.min()):.3g}"
    return [
        f"the network's output is not calibrated: {ends} the best factors of its output and its input would make the "
        f"bound about {bits:.2g} bits/dim lower than {bound:.4g}, and a network that has learned its posterior mean "
        "leaves nothing to that; if it was trained enough, and on data like these, something is declared falsely (its "
        "output or time, the schedule, the range or order of the data): let `nelbo diagnose` look for it"
    ]


def fitted_errors(values: Tensor) -> Tensor:
    """‖x − a z − b v‖² of the draws of a level (n, COLUMNS), (n,), each half with the best a and b of the other."""
    half = torch.arange(len(values)) % 2 == 0
    out = torch.empty(len(values), dtype=torch.float64)
    for fit, other in ((half, ~half), (~half, half)):
        _, xz, zz, xv, zv, vv = values[fit][:, :6].mean(0).unbind()
        a, b = (
            torch.linalg.lstsq(torch.stack([zz, zv, zv, vv]).reshape(2, 2), torch.stack([xz, xv])[:, None])
            .solution[:, 0]
            .tolist()
        )
        out[other] = readings.errors(values[other], a, b)
    return out

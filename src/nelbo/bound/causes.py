"""The likely causes of a network that is worse than none, for the model at hand.

A foreign network was declared, and its declaration may be false; one that nelbo trained knows its output, time and
schedule, and has rather not converged, or was trained on other data. Where x̂ lies far outside of the range of the data,
which is known from the draws of the pilot, clipping lowers the bound whatever the cause: the data are inside. Few steps
make that more likely, because each of them weighs the error of its level, (σ/α)² ‖ε − ε̂‖² for an ε-network, by more.
"""

from __future__ import annotations

import math

import torch

from nelbo.bound import readings
from nelbo.bound.gaussian_chain import GaussianChain
from nelbo.bound.visited import levels_at
from nelbo.model.denoiser import CategoricalDenoiser, Denoiser, NetworkDenoiser
from nelbo.typing import Json

OUTSIDE = 1.2
"""Root mean square of x̂, in units of the largest value of the data, from which x̂ is said to leave their range."""
COARSE = 50
"""Steps of a grid below which its being coarse is named."""


def likely(chain: GaussianChain, stretch: tuple[float, float]) -> str:
    """What to check and what to do; stretch: the log-SNRs, falling, between which the network is worst."""
    model = chain.model
    training = model.provenance.get("config")
    own = not model.denoiser.foreign
    network = isinstance(model.denoiser, (NetworkDenoiser, CategoricalDenoiser))
    if own and isinstance(training, dict):
        causes = [_trained(model.provenance, training)]
    elif own and network and "diffusers" not in model.provenance:  # a network of diffusers was trained elsewhere
        causes = ["the network is one of nelbo's that was never trained, as far as the model says"]
    else:
        causes = [_declared(chain, model.denoiser)]
    size = _size(chain, *stretch)
    largest = max(abs(model.domain.low), abs(model.domain.high))
    if model.domain.discrete and size is not None and size > OUTSIDE * largest:
        steps = model.steps
        coarse = f" with a grid of {steps} steps, each of which weighs it more," if steps and steps < COARSE else ""
        causes.append(
            f"x̂ is outside of the range of the data (its root mean square is {size:.3g} there){coarse} and is not "
            "clipped: clip=True keeps it inside and lowers the bound"
        )
    return "; ".join(causes)


def _declared(chain: GaussianChain, denoiser: Denoiser) -> str:
    domain = chain.model.domain
    if isinstance(denoiser, NetworkDenoiser):
        declared = f" (declared: {denoiser.output.value})", f" (declared: {denoiser.time.value})"
    elif isinstance(denoiser, CategoricalDenoiser):
        declared = " (a categorical head)", f" (declared: {denoiser.time.value})"
    else:
        declared = "", ""
    data = f"the range of the data ([{domain.low:g}, {domain.high:g}])"
    if not domain.discrete:
        x = chain.values(torch.arange(min(chain.examples, 1024)))
        data = (
            f"the scale of the data, which are real (mean {float(x.mean()):.3g}, standard deviation "
            f"{float(x.std()) if x.numel() > 1 else 0.0:.3g}): a network expects that of its training"
        )
    return (
        f"check what it predicts{declared[0]}, the time it is told{declared[1]}, the schedule, {data}, and that it was "
        "trained"
    )


def _trained(provenance: Json, training: Json) -> str:
    steps = provenance.get("stopped_after", training.get("steps"))
    data = provenance.get("data", {})
    name = f" on {data['name']}" if isinstance(data, dict) and data.get("name") else ""
    return (
        f"it was trained by nelbo for {steps} steps{name}: it has not converged (train it longer, and watch its "
        "validation bound), or these examples are unlike those"
    )


def _size(chain: GaussianChain, high: float, low: float) -> float | None:
    """The root mean square of an element of x̂ at the levels that the pilot visited from log-SNR `high` to `low`, or at
    the nearest to them; None where it visited none, or where x̂ is clipped."""
    denoiser = chain.model.denoiser
    if not isinstance(denoiser, NetworkDenoiser) or chain.model.reverse.clip is not None:
        return None
    logsnr = -chain.cells.place.cpu()
    seen = {k: v for k, v in chain.observations.of_cells().items() if k >= 0}
    if not seen:
        return None
    nearest = min(seen, key=lambda k: abs(float(logsnr[k]) - 0.5 * (low + high)))
    rows = {k: v for k, v in seen.items() if k == nearest or low <= float(logsnr[k]) <= high}
    levels, edm = levels_at(chain, torch.tensor([*rows])), denoiser.output.edm
    coefficients = zip(*(c.tolist() for c in readings.declared(denoiser).coefficients(levels, edm)), strict=True)
    squares = []
    for (a, b), values in zip(coefficients, rows.values(), strict=True):
        zz, zv, vv = values[:, 2], values[:, 4], values[:, 5]
        squares.append(float((a * a * zz + 2 * a * b * zv + b * b * vv).mean()))
    return math.sqrt(max(0.0, max(squares)) / chain.dimensions)

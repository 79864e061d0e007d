"""Decoders at the first level: which kinds there are, how each is fitted at a level, and what it then costs.

The further from the data a chain begins, the fewer steps are left to pay for and the more the decoder has to say. All
kinds are fitted to the same measurements and differ in what they know:

    own            the model's own decoder, as it is
    gaussian       N(x̂, v) in bins (a density for real data), v fitted
    histogram      N(z; αx, σ²) × histogram of codes: no evaluation of the network
    pixel          the same with a histogram for every pixel
    context        reads the codes before it (`ContextGaussian`): a correlated Gaussian, its scale following the image
"""

from __future__ import annotations

import torch
from torch import Tensor

from nelbo.maths import bins
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.tightening.context import fit_context
from nelbo.tightening.levels import Measured, Node
from nelbo.typing import Choice

FITTED = 120
"""Examples that a decoder is tried with, more where they are small: `_NUMBERS` of data in all."""
SCORED = 48
"""Examples that it is then scored on; more, likewise."""
_NUMBERS = 40_000
_AT_ONCE = 16
_FACTORS = (0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.15)
"""Of the mean square of x − x̂, among which the variance of a Gaussian is chosen: bins and outliers move it."""


class DecoderKind(Choice, noun="decoder"):
    """A kind of decoder that a fit may choose."""

    OWN = "own"
    GAUSSIAN = "gaussian"
    HISTOGRAM = "histogram"
    PIXEL = "pixel"
    CONTEXT = "context"


def kinds(domain: DataDomain) -> list[DecoderKind]:
    """The kinds that make sense on a domain."""
    return list(DecoderKind) if domain.discrete else [DecoderKind.OWN, DecoderKind.GAUSSIAN]


def counts(examples: int, dimensions: int) -> tuple[int, int]:
    """How many of the examples decoders are fitted to when they are tried, and how many they are scored on."""
    whole, third = min(examples, _NUMBERS // dimensions), examples - 2 * examples // 3
    return min(max(FITTED, 2 * whole // 3), 2 * examples // 3), min(max(SCORED, whole // 3), third)


def calls(kind: DecoderKind, model: DiffusionModel) -> bool:
    """Whether a decoder of the kind calls the network."""
    if kind is DecoderKind.OWN:
        return model.decoder.calls_network
    return kind in (DecoderKind.GAUSSIAN, DecoderKind.CONTEXT)


def fit(kind: DecoderKind, model: DiffusionModel, node: Node) -> Decoder:
    """The decoder of a kind at a node's level, fitted to the node's examples."""
    domain = model.domain
    if kind is DecoderKind.OWN:
        return model.decoder
    if kind is DecoderKind.GAUSSIAN:
        mean_square = float((node.x - node.prediction.x0).square().mean().clamp_min(1e-12))
        if not domain.discrete:
            return ContinuousGaussian(mean_square)
        tried = [DiscretizedGaussian(mean_square * factor) for factor in _FACTORS]
        return min(tried, key=lambda decoder: float(score(decoder, model, node.rows(slice(SCORED))).mean()))
    if kind is DecoderKind.HISTOGRAM:
        return Categorical.from_histogram(node.data, domain)
    if kind is DecoderKind.PIXEL:
        return Categorical(_of_pixels(node.data, domain))
    histogram = Categorical.from_histogram(node.data, domain).log_prior
    assert histogram is not None
    return fit_context(node.data.long(), node.prediction.x0, node.z, node.level, domain, histogram)


def score(decoder: Decoder, model: DiffusionModel, node: Node) -> Tensor:
    """−log p(x | z) of the node's examples in nats, (n,)."""
    found = []
    for i in range(0, len(node.x), _AT_ONCE):
        some = node.rows(slice(i, i + _AT_ONCE))
        target = some.data.long() if model.domain.discrete else some.x
        t = node.level.expand(len(target))
        found.append(decoder.nll(target, some.z, t, some.prediction, model.domain))
    return torch.cat(found)


def cost(kind: DecoderKind, measured: Measured, i: int) -> float:
    """Nats an example of a kind at node i: fitted to the examples for fitting, scored on the others."""
    rows = slice(measured.fitted, len(measured.data))
    if kind is DecoderKind.OWN and measured.own is not None:
        return float(measured.own[i, rows].mean())
    decoder = fit(kind, measured.model, measured.node(i, slice(measured.fitted)))
    return float(score(decoder, measured.model, measured.node(i, rows)).mean())


def _of_pixels(codes: Tensor, domain: DataDomain) -> Tensor:
    """log of (counts of a pixel + √N times the histogram of all)/(N + √N), (*shape, K): few examples say little of a
    pixel."""
    everywhere = Categorical.from_histogram(codes, domain).log_prior
    assert everywhere is not None
    counts = bins.counts(codes, domain._bins())
    extra = len(codes) ** 0.5
    return ((counts + extra * everywhere.exp()) / (len(codes) + extra)).log()

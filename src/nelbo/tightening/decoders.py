"""Decoders of the first level: the kinds, how each is fitted at a level, and what it then costs.

The further from the data a chain begins, the fewer steps it pays for and the more its decoder has to explain. All kinds
are fitted to the same predictions and differ in what they model:

    own            the model's own decoder, unchanged
    gaussian       N(x̂, v) in bins (a density for real data), v fitted
    histogram      N(z; αx, σ²) × histogram of codes: no evaluation of the network
    pixel          the same with a histogram for every pixel
    context        autoregressive: a correlated Gaussian whose scale follows the image (`ContextGaussian`)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nelbo.maths import bins
from nelbo.model.decoder import Categorical, ContinuousGaussian, Decoder, DiscretizedGaussian
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.fitted.context import KAPPA, ContextGaussian
from nelbo.model.fitted.neighbours import (
    ENERGIES,
    Context,
    allowed,
    mean_design,
    mean_features,
    planes,
    scale_design,
)
from nelbo.process.levels import Levels
from nelbo.tightening.candidates import LevelSample, NodePredictions
from nelbo.tightening.regression import fit_gamma
from nelbo.typing import Choice

FITTED = 120
"""Examples that a decoder is fitted to while levels are compared; more of small ones, `_NUMBERS` of data in all."""
SCORED = 48
"""Examples that it is then scored on; likewise more of small ones."""
_NUMBERS = 40_000
_SCORED_AT_ONCE = 16
"""Examples scored at once, which bounds the memory."""
_FACTORS = (0.15, 0.3, 0.5, 0.7, 0.85, 1.0, 1.15)
"""Multiples of the mean square of x − x̂ among which the variance of a Gaussian is chosen. Outliers raise the mean
square above the best variance, the width of a bin can put the best variance slightly above it."""


class DecoderKind(Choice, noun="decoder"):
    """A kind of decoder that a fit may choose."""

    OWN = "own"
    GAUSSIAN = "gaussian"
    HISTOGRAM = "histogram"
    PIXEL = "pixel"
    CONTEXT = "context"


def suitable_kinds(domain: DataDomain) -> list[DecoderKind]:
    """The kinds that make sense on a domain."""
    return list(DecoderKind) if domain.discrete else [DecoderKind.OWN, DecoderKind.GAUSSIAN]


def sample_sizes(examples: int, dimensions: int) -> tuple[int, int]:
    """How many of the examples decoders are fitted to while levels are compared, and how many they are scored on."""
    whole, third = min(examples, _NUMBERS // dimensions), examples - 2 * examples // 3
    return min(max(FITTED, 2 * whole // 3), 2 * examples // 3), min(max(SCORED, whole // 3), third)


def calls_network(kind: DecoderKind, model: DiffusionModel) -> bool:
    """Whether a decoder of the kind calls the network."""
    if kind is DecoderKind.OWN:
        return model.decoder.calls_network
    return kind in (DecoderKind.GAUSSIAN, DecoderKind.CONTEXT)


def fit_decoder(kind: DecoderKind, model: DiffusionModel, sample: LevelSample) -> Decoder:
    """The decoder of a kind at a sample's level, fitted to the sample."""
    domain = model.domain
    if kind is DecoderKind.OWN:
        return model.decoder
    if kind is DecoderKind.GAUSSIAN:
        mean_square = float((sample.x - sample.prediction.x0).square().mean().clamp_min(1e-12))
        if not domain.discrete:
            return ContinuousGaussian(mean_square)
        candidates = [DiscretizedGaussian(mean_square * factor) for factor in _FACTORS]
        return min(candidates, key=lambda decoder: float(score(decoder, model, sample.rows(slice(SCORED))).mean()))
    if kind is DecoderKind.HISTOGRAM:
        return Categorical.from_histogram(sample.data, domain)
    if kind is DecoderKind.PIXEL:
        return Categorical(_pixel_histograms(sample.data, domain))
    histogram = Categorical.from_histogram(sample.data, domain).log_prior
    assert histogram is not None
    return fit_context(sample.data.long(), sample.prediction.x0, sample.z, sample.level, domain, histogram)


def score(decoder: Decoder, model: DiffusionModel, sample: LevelSample) -> Tensor:
    """−log p(x | z) of the sample's examples in nats, (n,)."""
    nats = []
    for i in range(0, len(sample.x), _SCORED_AT_ONCE):
        part = sample.rows(slice(i, i + _SCORED_AT_ONCE))
        target = part.data.long() if model.domain.discrete else part.x
        t = sample.level.expand(len(target))
        nats.append(decoder.nll(target, part.z, t, part.prediction, model.domain) + model.domain.log_volume)
    return torch.cat(nats)


def cross_validated_cost(kind: DecoderKind, predictions: NodePredictions, node: int) -> float:
    """Nats an example of a kind at a node: fitted to the examples for fitting, scored on the others."""
    held_out = slice(predictions.fitted, len(predictions.data))
    if kind is DecoderKind.OWN and predictions.own is not None:
        return float(predictions.own[node, held_out].mean())
    decoder = fit_decoder(kind, predictions.model, predictions.at(node, slice(predictions.fitted)))
    return float(score(decoder, predictions.model, predictions.at(node, held_out)).mean())


def _pixel_histograms(codes: Tensor, domain: DataDomain) -> Tensor:
    """log of (counts of a pixel + √N times the histogram of all pixels)/(N + √N), (*shape, K).

    The common histogram regularises a pixel's own counts, which are noisy for few examples.
    """
    common = Categorical.from_histogram(codes, domain).log_prior
    assert common is not None
    counts = bins.counts(codes, domain._bins())
    weight = len(codes) ** 0.5
    return ((counts + weight * common.exp()) / (len(codes) + weight)).log()


# ---------------------------------------------------------------- the fit of a ContextGaussian

CLASSES = 12
"""Most classes of log s that have a mixture of their own."""
_CLASS = 400
"""Codes that a class needs at least."""
_DESIGNED_AT_ONCE = 16
"""Examples whose design is in memory at once."""
_CODES = 120_000
"""Most codes a channel that the scale and the mixture are fitted to."""
_ROUNDS = 30
"""Rounds of EM."""


def fit_context(
    codes: Tensor, x0: Tensor, z: Tensor, level: Levels, domain: DataDomain, log_histogram: Tensor
) -> ContextGaussian:
    """The decoder at `level` (one level) fitted to examples: codes, x̂ and z_1, each (N, *shape).

    Least squares for the mean, with weights (Σ f fᵀ/v + ridge)⁻¹ Σ f r/v over design rows f: first v = 1, then the
    variances of the fitted scale. Gamma regression for the scale, log v = a·g of squares d². EM for the mixture.
    """
    C = planes(domain.shape)[0]
    quantum = ((domain.high - domain.low) / (domain._bins() - 1)) ** 2 / 12

    def innovations(weights: Tensor) -> Iterator[tuple[Context, Tensor, Tensor, Tensor]]:
        """Of some examples after the other: context, residuals r, designs of the mean and innovations d."""
        for i in range(0, len(codes), _DESIGNED_AT_ONCE):
            rows = slice(i, i + _DESIGNED_AT_ONCE)
            guess = x0[rows].double()
            context = Context.of(guess, z[rows].double(), level.expand(len(guess)), domain)
            r = domain.values(codes[rows]).reshape(context.x0.shape) - context.x0
            design = mean_design(r, context)
            yield context, r, design, r - (design @ weights.mT).permute(0, 3, 1, 2)

    usable = allowed(C)
    no_weights = torch.zeros(C, mean_features(C), dtype=torch.float64)
    weights = _least_squares(((r, design, None) for _, r, design, _ in innovations(no_weights)), usable)
    scale = _fit_scale(innovations(weights), C, domain, quantum)

    def weighted() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for context, r, design, d in innovations(weights):
            log_v = (scale_design(d, context, domain) * scale[:, None, None]).sum(-1)
            yield r, design, torch.exp(log_v).clamp_min(quantum / 10)

    weights = _least_squares(weighted(), usable)
    scale = _fit_scale(innovations(weights), C, domain, quantum)
    uniform = torch.zeros(1, 1 + len(KAPPA), dtype=torch.float64)
    gaussian = ContextGaussian(weights, scale, torch.zeros(0).double(), uniform, log_histogram)
    return _with_mixture(gaussian, codes, x0, z, level, domain)


def _least_squares(rows: Iterator[tuple[Tensor, Tensor, Tensor | None]], usable: Tensor) -> Tensor:
    """Weights (C, ·) of r (B, C, H, W) on design (B, H, W, ·), each row with 1/variance where one is given."""
    C, G = usable.shape
    gram, moment = torch.zeros(C, G, G).double(), torch.zeros(C, G).double()
    for r, design, variance in rows:
        f = design.reshape(-1, G)
        for c in range(C):
            y = r[:, c].reshape(-1)
            g = f if variance is None else f / variance[:, c].reshape(-1, 1)
            gram[c] += g.mT @ f
            moment[c] += g.mT @ y
    weights = torch.zeros(C, G).double()
    for c in range(C):
        on = usable[c]
        A = gram[c][on][:, on]
        # a relative ridge of 1e-3, and an absolute one for features that never vary
        A = A + torch.diag(1e-3 * A.diagonal() + 1e-12 * A.diagonal().max().clamp_min(1e-300))
        weights[c, on] = torch.linalg.solve(A, moment[c, on])
    return weights


def _fit_scale(rows: Iterator[tuple[Context, Tensor, Tensor, Tensor]], C: int, domain, quantum: float) -> Tensor:
    """Weights (C, ENERGIES) of log v, from evenly chosen codes where there are many."""
    designs, squares = [], []
    for context, _, _, d in rows:
        designs.append(scale_design(d, context, domain).transpose(0, 1).reshape(C, -1, ENERGIES).float())
        squares.append(d.square().transpose(0, 1).reshape(C, -1))
    design, y = torch.cat(designs, 1), torch.cat(squares, 1)
    every = -(-y.shape[1] // _CODES)
    # a code determines its value only to half a bin, so a square below 1/100 of a bin's variance says no more
    y = y[:, ::every].clamp_min(quantum / 100)
    # the gamma regression has its constant first, the design last
    return fit_gamma(design[:, ::every].flip(-1), y, 1e-4).flip(-1)


def _with_mixture(
    gaussian: ContextGaussian, codes: Tensor, x0: Tensor, z: Tensor, level: Levels, domain: DataDomain
) -> ContextGaussian:
    """The decoder with classes of log s of about equal size and the mixture of largest likelihood in each."""
    parts, scales = [], []
    every = -(-codes.numel() // (2 * _CODES))
    for i in range(0, len(codes), _DESIGNED_AT_ONCE):
        rows = slice(i, i + _DESIGNED_AT_ONCE)
        t = level.expand(len(codes[rows]))
        m, log_s = gaussian.moments(codes[rows], x0[rows].double(), z[rows].double(), t, domain)
        k, m, log_s = (v.reshape(-1)[::every] for v in (codes[rows].reshape(m.shape), m, log_s))
        parts.append(gaussian.parts(k, m, log_s, domain))
        scales.append(log_s)
    part, log_s = torch.cat(parts), torch.cat(scales)
    classes = max(1, min(CLASSES, len(log_s) // _CLASS))
    quantiles = torch.arange(1, classes, dtype=torch.float64) / classes
    cuts = log_s.sort().values[(quantiles * len(log_s)).long()].unique()
    members = torch.bucketize(log_s, cuts)
    mixture = torch.stack([_mixture_weights(part[members == b]) for b in range(len(cuts) + 1)])
    return ContextGaussian(gaussian.mean_weights, gaussian.scale, cuts, mixture, gaussian.log_histogram)


def _mixture_weights(log_masses: Tensor) -> Tensor:
    """log π (1 + len(KAPPA),) by EM from log masses (n, ·), with half a code added to every component."""
    pi = torch.full((log_masses.shape[1],), 1 / log_masses.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):
        share = (log_masses + pi.log()).softmax(-1).sum(0) + 0.5
        pi = share / share.sum()
    return pi.log()

"""Fits of `ContextGaussian`: least squares for the mean, gamma regression for the scale, EM for the mixture.

With design rows f and y = r (for the mean) the weights are (Σ f fᵀ/v + ridge)⁻¹ Σ f y/v, first with v = 1 and then with
the variances that the scale's fit says. The scale's weights a minimise Σ log v + d²/v with log v = a·g, the likelihood
of a Gaussian. The mixture's weights are those of the largest likelihood of the codes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nelbo.model.domain import DataDomain
from nelbo.model.fitted.context import (
    ENERGIES,
    KAPPA,
    Context,
    ContextGaussian,
    allowed,
    mean_design,
    mean_features,
    planes,
    scale_design,
)
from nelbo.process.levels import Levels
from nelbo.tightening import gamma

CLASSES = 12
"""Most classes of log s that have a mixture of their own."""
_CLASS = 400
"""Codes that a class needs."""
_EXAMPLES = 16
"""Examples whose design is in memory at once."""
_CODES = 120_000
"""Most codes a channel that the scale and the mixture are fitted to."""
_ROUNDS = 30


def fit_context(
    codes: Tensor, x0: Tensor, z: Tensor, level: Levels, domain: DataDomain, log_histogram: Tensor
) -> ContextGaussian:
    """The decoder at `level` (one level) fitted to examples: codes, x̂ and z_1, each (N, *shape)."""
    C = planes(domain.shape)[0]
    quantum = ((domain.high - domain.low) / (domain._bins() - 1)) ** 2 / 12

    def pieces() -> Iterator[tuple[Tensor, Context, Tensor]]:
        for i in range(0, len(codes), _EXAMPLES):
            some = slice(i, i + _EXAMPLES)
            guess = x0[some].double()
            context = Context.of(guess, z[some].double(), level.expand(len(guess)), domain)
            yield codes[some].reshape(context.x0.shape), context, domain.values(codes[some]).reshape(context.x0.shape)

    def innovations(weights: Tensor) -> Iterator[tuple[Tensor, Context, Tensor, Tensor, Tensor]]:
        for k, context, x in pieces():
            r = x - context.x0
            design = mean_design(r, context)
            yield k, context, r, design, r - (design @ weights.mT).permute(0, 3, 1, 2)

    usable = allowed(C)
    weights = _least_squares(((r, design, None) for _, _, r, design, _ in innovations(_none(C))), usable)
    scale = _scale(innovations(weights), C, domain, quantum)

    def weighted() -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        for _, context, r, design, d in innovations(weights):
            log_v = (scale_design(d, context, domain) * scale[:, None, None]).sum(-1)
            yield r, design, torch.exp(log_v).clamp_min(quantum / 10)

    weights = _least_squares(weighted(), usable)
    scale = _scale(innovations(weights), C, domain, quantum)
    plain = ContextGaussian(weights, scale, torch.zeros(0).double(), _uniform(1), log_histogram)
    return _with_mixture(plain, codes, x0, z, level, domain)


def _none(channels: int) -> Tensor:
    return torch.zeros(channels, mean_features(channels), dtype=torch.float64)


def _uniform(classes: int) -> Tensor:
    return torch.zeros(classes, 1 + len(KAPPA), dtype=torch.float64)


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
        A = A + torch.diag(1e-3 * A.diagonal() + 1e-12 * A.diagonal().max().clamp_min(1e-300))
        weights[c, on] = torch.linalg.solve(A, moment[c, on])
    return weights


def _scale(rows: Iterator[tuple[Tensor, Context, Tensor, Tensor, Tensor]], C: int, domain, quantum: float) -> Tensor:
    """Weights (C, ENERGIES) of log v from designs and squares of d; of many rows evenly chosen ones."""
    designs, squares = [], []
    for _, context, _, _, d in rows:
        designs.append(scale_design(d, context, domain).transpose(0, 1).reshape(C, -1, ENERGIES).float())
        squares.append(d.square().transpose(0, 1).reshape(C, -1))
    design, y = torch.cat(designs, 1), torch.cat(squares, 1)
    every = -(-y.shape[1] // _CODES)
    # a code is known to half a bin only: less than a hundredth of a bin's variance is no information
    y = y[:, ::every].clamp_min(quantum / 100)
    # the gamma regression has its constant first
    return gamma.fit(design[:, ::every].flip(-1), y, 1e-4).flip(-1)


def _with_mixture(
    plain: ContextGaussian, codes: Tensor, x0: Tensor, z: Tensor, level: Levels, domain: DataDomain
) -> ContextGaussian:
    """The decoder with classes of log s of about equal numbers and the likeliest mixture of each."""
    parts, scales = [], []
    every = -(-codes.numel() // (2 * _CODES))
    for i in range(0, len(codes), _EXAMPLES):
        some = slice(i, i + _EXAMPLES)
        t = level.expand(len(codes[some]))
        m, log_s = plain.moments(codes[some], x0[some].double(), z[some].double(), t, domain)
        k, m, log_s = (v.reshape(-1)[::every] for v in (codes[some].reshape(m.shape), m, log_s))
        parts.append(plain.parts(k, m, log_s, domain))
        scales.append(log_s)
    part, log_s = torch.cat(parts), torch.cat(scales)
    classes = max(1, min(CLASSES, len(log_s) // _CLASS))
    at = torch.arange(1, classes, dtype=torch.float64) / classes
    cuts = log_s.sort().values[(at * len(log_s)).long()].unique()
    members = torch.bucketize(log_s, cuts)
    mixture = torch.stack([_likeliest(part[members == b]) for b in range(len(cuts) + 1)])
    return ContextGaussian(plain.mean_weights, plain.scale, cuts, mixture, plain.log_histogram)


def _likeliest(parts: Tensor) -> Tensor:
    """log π (1 + len(KAPPA),) by EM from log masses (n, ·), with two codes added to every component."""
    pi = torch.full((parts.shape[1],), 1 / parts.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):
        share = (parts + pi.log()).softmax(-1).sum(0) + 0.5
        pi = share / share.sum()
    return pi.log()

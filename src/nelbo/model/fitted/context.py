"""`ContextGaussian`: a decoder that reads the codes it has already said, pixel after pixel, as image coders do.

What a network leaves, r = x − x̂(z_1), is correlated. With e = z_1/α − x̂ and codes taken in raster order, the
channels of a pixel one after the other,

    p(x | z_1) = Π_i p(x_i | x_<i, z_1)
    m_i        = x̂_i + w_c · [r of the causal neighbours, e and x̂ of all neighbours, 1]
    log s_i²   = a_c · [log energies of r − m, e and the gradient of x̂ around i; x̂_i; 1]
    p(x_i | …) = Σ_k π_{b k} (mass of N(m_i, (κ_k s_i)²) in the bin of x_i) + π_{b 0} h(x_i),   b the class of s_i

What w_c is to the residuals are rows of the inverse Cholesky factor of a stationary covariance, shared by all pixels of
a channel. Every factor is a mixture of masses that sum to one, so that their product is a probability of codes whatever
the weights are, and h, the histogram of codes, bounds what one surprise can cost. z_1, x̂ and e are known to the reader
in whole, so that their neighbours on all sides count. One network evaluation, as of a plain Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nelbo.errors import ShapeError
from nelbo.maths import bins
from nelbo.model.decoder import Decoder, _given
from nelbo.model.domain import DataDomain
from nelbo.model.fitted.neighbours import (
    CAUSAL,
    ENERGIES,
    NEAR,
    RADIUS,
    Context,
    allowed,
    energies,
    mean_design,
    mean_features,
    planes,
    quantum_of,
    scale_design,
)
from nelbo.process.levels import Levels
from nelbo.process.prediction import Prediction

KAPPA = (0.25, 0.5, 1.0, 2.0, 4.0)
_ROWS = 8
"""Examples whose features are in memory at once."""


@dataclass(frozen=True, eq=False)
class ContextGaussian(Decoder, kind="context_gaussian"):
    """The decoder of this file. mean_weights (C, ·): w_c; scale (C, ENERGIES): a_c, s in units of x; cuts (b − 1,):
    rising log s between the classes; mixture (b, 1 + len(KAPPA)): log π, h first; log_histogram (K,): log h."""

    mean_weights: Tensor
    scale: Tensor
    cuts: Tensor
    mixture: Tensor
    log_histogram: Tensor
    calls_network = True

    def __post_init__(self):
        C = len(self.mean_weights)
        shapes = {
            "mean_weights": (self.mean_weights, (C, mean_features(C))),
            "scale": (self.scale, (C, ENERGIES)),
            "mixture": (self.mixture, (len(self.cuts) + 1, 1 + len(KAPPA))),
        }
        for name, (given, wanted) in shapes.items():
            if tuple(given.shape) != wanted:
                raise ShapeError(f"a context decoder with {name} of shape {tuple(given.shape)}", f"give {wanted}")
        mask = allowed(C).to(self.mean_weights.device)
        if bool((self.mean_weights[~mask] != 0).any()):
            raise ShapeError(
                "a context decoder whose mean reads a code that is not said yet",
                "the weights of a channel's own and later residuals at the pixel itself are 0",
            )
        object.__setattr__(self, "mixture", _normalised(self.mixture))
        object.__setattr__(self, "log_histogram", _normalised(self.log_histogram))

    def check(self, domain: DataDomain) -> None:
        super().check(domain)
        C = planes(domain.shape)[0]
        if len(self.mean_weights) != C or self.log_histogram.shape != (domain.bins,):
            raise ShapeError(
                f"a context decoder of {len(self.mean_weights)} channels and {len(self.log_histogram)} codes for a "
                f"domain of shape {domain.shape} with {domain.bins} bins",
                "fit it on data of this domain",
            )

    def nll(self, target: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        log_p = [
            self._log_p(target[i : i + _ROWS], z[i : i + _ROWS], t[i : i + _ROWS], prediction, i, domain)
            for i in range(0, len(z), _ROWS)
        ]
        return -torch.cat(log_p)

    def _log_p(
        self, codes: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, start: int, domain: DataDomain
    ) -> Tensor:
        x0 = _given(prediction).x0[start : start + len(z)]
        m, s = self.moments(codes, x0, z, t, domain)
        codes = codes.reshape(m.shape)
        return self.log_mass(codes, m, s, domain).flatten(1).sum(1)

    def moments(self, codes: Tensor, x0: Tensor, z: Tensor, t: Levels, domain: DataDomain) -> tuple[Tensor, Tensor]:
        """m and log s of every code given those before it, (B, C, H, W)."""
        context = Context.of(x0, z, t, domain)
        r = domain.values(codes).to(x0.dtype).reshape(context.x0.shape) - context.x0
        shift = (mean_design(r, context) @ self.mean_weights.to(r).mT).permute(0, 3, 1, 2)
        design = scale_design(r - shift, context, domain)
        log_s = 0.5 * (design * self.scale.to(r)[:, None, None]).sum(-1)
        return context.x0 + shift, _bounded(log_s, domain)

    def log_mass(self, codes: Tensor, m: Tensor, log_s: Tensor, domain: DataDomain) -> Tensor:
        """log p of codes given m and log s of their own, elementwise."""
        parts = self.parts(codes, m, log_s, domain)
        return torch.logsumexp(parts + self.mixture.to(m)[self.classes(log_s)], -1)

    def parts(self, codes: Tensor, m: Tensor, log_s: Tensor, domain: DataDomain) -> Tensor:
        """Log masses of codes under h and each Gaussian, (…, 1 + len(KAPPA))."""
        s = log_s.exp()
        K, low, high = domain._bins(), domain.low, domain.high
        found = [bins.bin_log_mass(codes, m, kappa * s, K, low, high) for kappa in KAPPA]
        return torch.stack([self.log_histogram.to(m)[codes], *found], -1)

    def classes(self, log_s: Tensor) -> Tensor:
        """The class of every pixel by its log s, int64."""
        return torch.bucketize(log_s.contiguous(), self.cuts.to(log_s))

    def draw(self, u: Tensor, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        C, H, W = planes(domain.shape)
        values = iter(u.reshape(len(u), C, H, W).permute(2, 3, 1, 0).reshape(H * W * C, len(u)))
        return self.in_order(z, t, prediction, domain, lambda m, log_s: self._drawn(next(values), m, log_s, domain))

    def in_order(
        self,
        z: Tensor,
        t: Levels,
        prediction: Prediction | None,
        domain: DataDomain,
        code: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Codes (B, *shape), one after the other: `code` makes each from its m and log s (B,). Row after row, and in a
        pixel channel after channel."""
        x0 = _given(prediction).x0
        context = Context.of(x0, z, t, domain)
        _, C, H, W = context.x0.shape
        codes = torch.zeros_like(context.x0, dtype=torch.int64)
        r, d = (F.pad(torch.zeros_like(context.x0), (RADIUS,) * 4) for _ in range(2))
        w, a = self.mean_weights.to(x0), self.scale.to(x0)
        down = torch.tensor([y for y, _ in CAUSAL]) + RADIUS
        right = torch.tensor([x for _, x in CAUSAL]) + RADIUS
        for y in range(H):
            for x in range(W):
                around = r[:, :, y + down, x + right].flatten(1)
                squares = d[:, :, y + down, x + right].square()
                for c in range(C):
                    here = (y + RADIUS, x + RADIUS)
                    features = torch.cat([around, r[:, :, *here], context.of_mean[:, y, x]], 1)
                    shift = features @ w[c]
                    same = d[:, :c, *here].square().mean(1) if c else torch.zeros_like(shift)
                    near, wide = squares[:, c, NEAR].mean(-1), squares.mean((1, 2))
                    design = energies(near, wide, same, context.of_scale[:, c, y, x], quantum_of(domain))
                    m, log_s = context.x0[:, c, y, x] + shift, _bounded(0.5 * design @ a[c], domain)
                    codes[:, c, y, x] = code(m, log_s)
                    r[:, c, *here] = domain.values(codes[:, c, y, x]).to(r) - context.x0[:, c, y, x]
                    d[:, c, *here] = r[:, c, *here] - shift
        return codes.reshape(z.shape)

    def _drawn(self, u: Tensor, m: Tensor, log_s: Tensor, domain: DataDomain) -> Tensor:
        """A code each (B,) from uniforms (B,): the first part of u chooses the component, what is left the value."""
        weights = self.mixture.to(m)[self.classes(log_s)].exp()
        total = weights.cumsum(-1)
        k = (u[:, None] * total[:, -1:] > total).sum(-1).clamp(max=weights.shape[-1] - 1)
        chosen = weights.gather(-1, k[:, None])[:, 0]
        rest = ((u * total[:, -1] - (total.gather(-1, k[:, None])[:, 0] - chosen)) / chosen).clamp(1e-15, 1 - 1e-15)
        kappa = torch.tensor((1.0, *KAPPA), dtype=m.dtype, device=m.device)[k]
        gaussian = domain.codes(m + kappa * log_s.exp() * torch.special.ndtri(rest))
        histogram = self.log_histogram.to(m).exp().cumsum(0)
        plain = torch.searchsorted(histogram, (rest * histogram[-1]).contiguous()).clamp(max=len(histogram) - 1)
        return torch.where(k == 0, plain, gaussian)

    def mean(self, z: Tensor, t: Levels, prediction: Prediction | None, domain: DataDomain) -> Tensor:
        return _given(prediction).x0


def _normalised(log_p: Tensor) -> Tensor:
    """log p with Σ p = 1 over the last axis; what sums to one already stays, to the bit."""
    log_p = log_p.double()
    total = log_p.logsumexp(-1, keepdim=True)
    return log_p if bool((total.abs() < 1e-12).all()) else log_p - total


def _bounded(log_s: Tensor, domain: DataDomain) -> Tensor:
    """log s between a thirtieth of a bin and the whole range."""
    width = (domain.high - domain.low) / (domain._bins() - 1)
    low, high = torch.tensor([width / 30, domain.high - domain.low], dtype=torch.float64).log().tolist()
    return log_s.clamp(low, high)

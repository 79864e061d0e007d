"""A Gaussian surrogate of the data, x ~ N(μ, C): its denoising error is a control variate with a known mean.

Its exact noise prediction ε_G at log-SNR λ (snr = e^λ) gives, with C = V diag(w) Vᵀ and y = Vᵀ(x − μ),

    ε − ε_G = V [ p ⊙ Vᵀε − q ⊙ y ],     p = snr w/(1 + snr w),     q = √snr/(1 + snr w)
    h       = ‖ε − ε_G‖²,                E[h | x] = Σ p² + Σ q² y².

h follows the network's own ‖ε − ε̂‖² from draw to draw, and E[h | x] follows it from example to example, on any
schedule and path: both are free of network evaluations. The fit need not be good for the estimate to be unbiased.
Beyond the leading `rank` directions the variance is taken to be the same in all that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.equation import equation


@dataclass(frozen=True, eq=False)
class GaussianSurrogate:
    """mean (D,) and basis (D, r) in float32; variances (r,) and the variance `rest` of the other directions."""

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def fit(cls, x: Tensor, rank: int = 256) -> GaussianSurrogate:
        """From values x (n, D): mean and leading principal directions, exact and the same on every machine."""
        x = x.double()
        n, D = x.shape
        mean = x.mean(0)
        centred = x - mean
        total = float(centred.square().sum()) / n
        r = min(rank, D, max(1, n - 1))
        if n >= D:
            w, V = torch.linalg.eigh(centred.mT @ centred / n)
            w, V = w[-r:].flip(0), V[:, -r:].flip(1)
        else:
            w, U = torch.linalg.eigh(centred @ centred.mT / n)
            w, U = w[-r:].flip(0), U[:, -r:].flip(1)
            V = centred.mT @ U / (n * w.clamp_min(1e-12)).sqrt()
            V, _ = torch.linalg.qr(V)
            w = (centred @ V).square().mean(0)
        w = w.clamp_min(1e-9)
        rest = max(1e-9, (total - float(w.sum())) / max(1, D - r))
        return cls(mean.float(), V.float().contiguous(), w, rest)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    def to(self, device: torch.device) -> GaussianSurrogate:
        """The same surrogate on another device."""
        return GaussianSurrogate(self.mean.to(device), self.basis.to(device), self.variances.to(device), self.rest)

    def _gains(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p, q (B, r) of the basis and p, q (B,) of the other directions, at λ (B,)."""
        snr = logsnr.exp()[:, None] * self.variances
        rest = logsnr.exp() * self.rest
        root = (0.5 * logsnr).exp()
        return snr / (1 + snr), root[:, None] / (1 + snr), rest / (1 + rest), root / (1 + rest)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y = Vᵀ(x − μ) (B, r), and ‖(x − μ) outside the basis‖² (B,), for x (B, …)."""
        centred = x.flatten(1).float() - self.mean
        y = centred @ self.basis
        return y, (centred.square().sum(1) - y.square().sum(1)).clamp_min(0).double()

    def expected(self, x: Tensor, logsnr: Tensor) -> Tensor:
        """E[h | x] at every λ of `logsnr` (K,), (B, K)."""
        y, outside = self.coordinates(x)
        p, q, p0, q0 = self._gains(logsnr)
        others = self.dimensions - len(self.variances)
        fixed = p.square().sum(1) + others * p0.square()
        return fixed + y.double().square() @ q.square().mT + outside[:, None] * q0.square()

    @equation("eps-optimal-predictor")
    def excess(self, x: Tensor, eps: Tensor, logsnr: Tensor) -> Tensor:
        """h − E[h | x], (B,), for x, ε (B, …) and λ (B,): a draw of mean zero over ε, for every x."""
        y, _ = self.coordinates(x)
        noise = eps.flatten(1).float()
        e = noise @ self.basis
        p, q, p0, q0 = self._gains(logsnr)
        inside = (p * e - q * y).square().sum(1) - p.square().sum(1) - (q * y).square().sum(1)
        others = self.dimensions - len(self.variances)
        if others == 0:
            return inside
        centred = x.flatten(1).float() - self.mean
        cross = (noise * centred).sum(1).double() - (e * y).sum(1).double()
        square = noise.square().sum(1).double() - e.square().sum(1).double()
        return inside + p0.square() * (square - others) - 2 * p0 * q0 * cross

"""Noise levels: the letters α, σ, λ of one or many points of the chain.

Everything derives from the log signal-to-noise ratio λ = log(α²/σ²), held in float64. Which α and σ belong to
a λ is the business of the path:

    VP    α² = sigmoid(λ),     σ² = sigmoid(−λ)       (DDPM, VDM: α² + σ² = 1)
    VE    α  = 1,              σ² = exp(−λ)           (score matching with Langevin, EDM)
    FLOW  α  = sigmoid(λ/2),   σ  = sigmoid(−λ/2)     (flow matching, optimal transport: α + σ = 1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nelbo.equation import equation
from nelbo.typing import Choice


class Path(Choice, noun="path"):
    """How signal and noise share a level: variance preserving, variance exploding, or straight (flow)."""

    VP = "vp"
    VE = "ve"
    FLOW = "flow"

    def log_alpha(self, logsnr: Tensor) -> Tensor:
        """log α at log-SNR λ, elementwise."""
        if self is Path.VP:
            return 0.5 * torch.nn.functional.logsigmoid(logsnr)
        if self is Path.FLOW:
            return torch.nn.functional.logsigmoid(0.5 * logsnr)
        return torch.zeros_like(logsnr)

    def log_sigma(self, logsnr: Tensor) -> Tensor:
        """log σ at log-SNR λ, elementwise."""
        if self is Path.VP:
            return 0.5 * torch.nn.functional.logsigmoid(-logsnr)
        if self is Path.FLOW:
            return torch.nn.functional.logsigmoid(-0.5 * logsnr)
        return -0.5 * logsnr

    def dlog_sigma(self, logsnr: Tensor) -> Tensor:
        """d log σ/dλ, elementwise; d log α/dλ is ½ more, since λ = 2 log α − 2 log σ."""
        if self is Path.VP:
            return -0.5 * torch.sigmoid(logsnr)
        if self is Path.FLOW:
            return -0.5 * torch.sigmoid(0.5 * logsnr)
        return torch.full_like(logsnr, -0.5)


@equation("snr-definition", "schedule-definitions")
@dataclass(frozen=True, eq=False)
class Levels:
    """Noise levels as parallel float64 tensors of one shape: along a chain (L,), or one an example (B,).

    t: unit time in [0, 1], 0 = data; logsnr: λ; index: position in the table of betas (int64, DDPM step − 1; float
    where a table is interpolated) or None where there is no table. time: the schedule's own time, which a network is
    told and a velocity is a derivative to, where that is not t; slope: dλ/dtime, None for a table, which has none.
    """

    t: Tensor
    logsnr: Tensor
    path: Path
    index: Tensor | None = None
    time: Tensor | None = None
    slope: Tensor | None = None

    @property
    def alpha(self) -> Tensor:
        """Signal scale α = α(λ)."""
        return self.path.log_alpha(self.logsnr).exp()

    @property
    def sigma(self) -> Tensor:
        """Noise scale σ = σ(λ)."""
        return self.path.log_sigma(self.logsnr).exp()

    @property
    def log_alpha(self) -> Tensor:
        """log α, exact where α underflows a product."""
        return self.path.log_alpha(self.logsnr)

    @property
    def log_sigma(self) -> Tensor:
        """log σ."""
        return self.path.log_sigma(self.logsnr)

    def __len__(self) -> int:
        return len(self.logsnr)

    def __getitem__(self, which: Tensor | slice | int) -> Levels:
        return self._each(lambda values: values[which])

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Levels:
        """The same levels on another device or in another floating dtype (tables stay float64; steps may not)."""
        return self._each(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def expand(self, batch: int) -> Levels:
        """One level, shape () or (1,), repeated for every example of a batch."""
        return self._each(lambda values: values.reshape(-1).expand(batch))

    def joined(self, other: Levels) -> Levels:
        """These levels and then the others, of the same schedule, in the dtype of these."""

        def both(mine: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if mine is None or theirs is None else torch.cat([mine, theirs.to(mine)])

        pairs = {k: both(getattr(self, k), getattr(other, k)) for k in ("t", "logsnr", "index", "time", "slope")}
        return replace(self, **pairs)

    def on(self, path: Path) -> Levels:
        """The levels of the same log-SNR on another path."""
        return replace(self, path=path)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Levels:
        index, time, slope = (None if v is None else change(v) for v in (self.index, self.time, self.slope))
        return Levels(change(self.t), change(self.logsnr), self.path, index, time, slope)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1), so that per-example numbers broadcast over the examples of `like` (B, …)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))

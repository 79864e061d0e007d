"""The controls of a Gaussian chain: excesses over their mean of the errors of surrogates, whose denoisers are exact.

Column by column, each of mean zero over the noise for every example and level: the excess of a Gaussian of all data
(`surrogate.py`), ‖ε‖² − D, and of images that of a surrogate of each of them (`local_surrogate.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nelbo.bound.local_surrogate import LocalSurrogate
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.maths import tiles
from nelbo.workers import Workers

_RIDGE = 0.1
"""Strength of the ridge by which `share` is fitted, of the mean squares."""


class Controls(NamedTuple):
    """The surrogate that features are made of, and the same in the precision of the control columns; that of single
    images, None of other data, and its share of the expected errors (`features.of`). follows: whether the network
    taught the surrogate, since it predicts about as that does."""

    surrogate: GaussianSurrogate
    of_draws: GaussianSurrogate
    local: LocalSurrogate | None
    share: float = 0.0
    follows: bool = False

    @classmethod
    def fit(
        cls, x: Tensor | None, shape: tuple[int, ...], workers: Workers, device: torch.device, dtype: torch.dtype
    ) -> Controls:
        """Fitted to x (n, D) of data of `shape` by the worker of rank 0, the only one that needs them. All take its
        numbers: another machine may round otherwise, and all are to plan the same draws."""
        surrogate = shared(None if x is None else GaussianSurrogate.fit(x), math.prod(shape), workers).to(device)
        return cls(surrogate, surrogate.in_precision(dtype), LocalSurrogate.of(surrogate.mean, shape))

    def taught(self, surrogate: GaussianSurrogate) -> Controls:
        """With another Gaussian of all data."""
        surrogate = surrogate.to(self.surrogate.mean.device)
        of_draws = surrogate.in_precision(self.of_draws.basis.dtype)
        return self._replace(surrogate=surrogate, of_draws=of_draws, follows=True)

    def columns(self, x: Tensor, eps: Tensor, logsnr: Tensor, of: Tensor | None) -> Tensor:
        """(b, C) float64 for x, ε (b, *shape) and λ (b,); of (b,): the row of x of each row of ε, where examples are
        shared."""
        dimensions = self.surrogate.dimensions
        columns = [self.of_draws.excess(x, eps, logsnr, of).double(), tiles.squared_norm(eps).double() - dimensions]
        if self.local is not None:
            dtype = self.of_draws.basis.dtype
            columns.append(self.local.excess(x.to(dtype), eps.to(dtype), logsnr, of))
        return torch.stack(columns, 1)

    def weighed(self, x: Tensor, logsnr: Tensor, columns: Tensor) -> Controls:
        """With the share of the local surrogate that the terms of P examples x at K log-SNRs say; columns
        (P, K, 1 + C), of term and controls."""
        assert self.local is not None
        expected = (one.expected(x, logsnr).double().cpu() for one in (self.surrogate, self.local))
        return self._replace(share=share(columns, *expected))


def shared(surrogate: GaussianSurrogate | None, dimensions: int, workers: Workers) -> GaussianSurrogate:
    """That of the worker of rank 0, the only one that gives one, in the memory of all."""
    table, scale = torch.zeros(0, dimensions, dtype=torch.float64), torch.zeros(0, 1, dtype=torch.float64)
    if workers.size == 1 and surrogate is not None:
        return surrogate
    if surrogate is not None:
        table = torch.cat([surrogate.mean[None], surrogate.basis.mT]).double()
        scale = torch.cat([surrogate.variances, torch.tensor([surrogate.rest])])[:, None].double()
    table, scale = workers.gather(table)[0], workers.gather(scale)[0][:, 0]
    return GaussianSurrogate(table[0].float(), table[1:].mT.float().contiguous(), scale[:-1], float(scale[-1]))


def share(columns: Tensor, gaussian: Tensor, local: Tensor) -> float:
    """The share, from 0 to 1, of the local surrogate, by terms and controls (P, K, 1 + C) of P examples at K nodes and
    the expected errors (P, K) of both surrogates.

    A term relative to its mean is regressed on the logarithms of the expected errors, and on the controls, which take
    noise away: the share is that of the local surrogate in the sum of both slopes.
    """
    relative = columns / columns[..., :1].mean(0).abs().clamp_min(1e-300)
    whole = torch.cat([relative, gaussian[..., None].log(), local[..., None].log()], 2)
    whole = (whole - whole.mean(0)).flatten(0, 1)
    y, regressors = whole[:, :1], whole[:, 1:]
    gram = regressors.mT @ regressors
    ridge = torch.diag(_RIDGE * gram.diagonal().clamp_min(1e-300))
    slopes = torch.linalg.solve(gram + ridge, regressors.mT @ y)[-2:, 0].clamp_min(0)
    total = float(slopes.sum())
    return float(slopes[1]) / total if total > 0 else 0.0

"""Variances whose logarithm is linear in features of the network's prediction, with coefficients tabulated over levels.

    log V = w_0 + Σ_k w_k g_k + h_k max(g_k, 0),     g_k = clip((f_k − m_k)/s_k, ±4)

w, h, m and s are tables over log-SNR. Coordinates that share their coefficients form a group; each feature f_k has a
value at every position of a group. The features are functions of z_t and x̂, so that V is known before z_s is drawn:
p_θ(z_s | z_t) stays a Gaussian with an exact KL.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from nelbo.errors import ShapeError
from nelbo.model.fitted.variance import Fitted, check_table, interpolated, log_error_at
from nelbo.process.levels import Levels, column
from nelbo.process.prediction import Prediction

CLIP = 4.0
"""Standard deviations beyond which a feature is clipped: no data supported the fit there."""
NOISE_FLOOR = 0.05
"""Added to an energy of ε̂, whose mean is about 1, before its logarithm is taken."""


class LogLinearVariance(Fitted):
    """Abstract: a log-linear V. A subclass is a dataclass with these fields and defines the features.

    logsnr (N,), falling; weights (N, *groups, 1 + 2k): w_0, w and h; centres m and scales s (N, *groups, k);
    mean (N,), the mean of V; floor: added to an energy of x̂ before its logarithm is taken, in units of x².
    """

    logsnr: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    mean: Tensor
    floor: float
    reads_state = True

    @abstractmethod
    def features(self, t: Levels, prediction: Prediction) -> Iterator[Tensor]:
        """The k features at levels t (B,), each broadcastable to (B, *groups, rows, columns)."""

    @abstractmethod
    def assembled(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Values (B, *groups, rows, columns) in the shape of examples (B, …)."""

    def error(self, t: Levels, prediction: Prediction) -> Tensor:
        t = t.expand(len(prediction.x0))
        log_V = log_linear(t, self.logsnr, self.weights, self.centres, self.scales, self.features(t, prediction))
        return self.assembled(log_V, prediction.x0.shape).to(prediction.x0.dtype).exp()

    def mean_error(self, t: Levels) -> Tensor:
        return log_error_at(self.logsnr, self.mean.log(), t).exp()

    def check_tables(self, groups: tuple[int, ...], features: int, what: str) -> None:
        """Errors: UsageError for log-SNRs that do not fall, ShapeError for tables of other groups or features."""
        tables = {"weights": self.weights, "centres": self.centres, "scales": self.scales}
        check_table(self.logsnr, *tables.values(), self.mean)
        for name, table in tables.items():
            expected = (*groups, 1 + 2 * features if name == "weights" else features)
            if 0 in groups or tuple(table.shape[1:]) != expected:
                raise ShapeError(
                    f"{name} of shape {tuple(table.shape[1:])} a level for {what}",
                    f"give {expected} a level; fit the policy again",
                )


def log_linear(
    t: Levels, logsnr: Tensor, weights: Tensor, centres: Tensor, scales: Tensor, features: Iterable[Tensor]
) -> Tensor:
    """log V (B, *groups, rows, columns) at levels t (B,); the tables and features are those of `LogLinearVariance`."""
    count = centres.shape[-1]
    # w_0 is a log V and is extrapolated like one; everything else is constant beyond the nodes
    w0 = log_error_at(logsnr, weights[..., 0], t)
    w, m, s = (interpolated(logsnr, v, t) for v in (weights[..., 1:], centres, scales))
    eta = column(w0, w0[..., None, None])
    w, h = w.split(count, -1)
    for k, f in enumerate(features):
        g = f.sub(m[..., k, None, None]).div_(s[..., k, None, None]).clamp_(-CLIP, CLIP)
        eta = torch.addcmul(eta, g, w[..., k, None, None])
        eta = eta.addcmul_(g.clamp_min_(0), h[..., k, None, None])
    return eta

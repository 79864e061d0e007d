"""Running moments of Monte Carlo values, mergeable in any order, and z-scores.

Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances"
(Stanford STAN-CS-79-773), equations 2.1; and the same authors 1983, "Algorithms for computing the sample variance".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Count n, mean and m2 = sum (x - mean)^2 of values: three float64 tensors that broadcast, any shape, per element.

    Floats are taken too and become float64 tensors. An element whose count is 0 has mean 0 and m2 0.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    def __post_init__(self):
        device = next((v.device for v in (self.count, self.mean, self.m2) if isinstance(v, Tensor)), None)
        for name in ("count", "mean", "m2"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64, device=device)
            object.__setattr__(self, name, value)

    @classmethod
    def empty(cls) -> Moments:
        """Moments of no values, the identity of `merge`; takes the shape of what it is merged with."""
        return cls(0.0, 0.0, 0.0)  # type: ignore[arg-type]

    @classmethod
    def of(cls, values: Tensor, axis: int | tuple[int, ...] = 0) -> Moments:
        """Moments over `axis` (or several) of `values`; the other axes remain. Two passes in float64.

        The second pass subtracts the rounding of the first mean (Chan et al. 1983, equation 1.7).
        """
        values = torch.as_tensor(values).to(torch.float64)
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        n = 1
        for a in axes:
            n *= values.shape[a]
        count = torch.tensor(float(n), dtype=torch.float64, device=values.device)
        if n == 0:
            zero = values.sum(axes)
            return cls(count, zero, zero)
        mean = values.mean(axes, keepdim=True)
        deviation = values - mean
        rest = deviation.sum(axes)
        m2 = (deviation**2).sum(axes) - rest**2 / n
        return cls(count, mean.reshape(rest.shape) + rest / n, m2.clamp_min(0.0))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of values together (Chan et al. 1979, equations 2.1), delta = mean_b - mean_a:

            n = n_a + n_b,   mean = mean_a + delta n_b / n,   m2 = m2_a + m2_b + delta^2 n_a n_b / n.

        Merging with an empty one changes nothing.
        """
        n_a, n_b = self.count, other.count
        n = n_a + n_b
        share = n_b / torch.where(n > 0, n, 1.0)
        delta = other.mean - self.mean
        return Moments(n, self.mean + delta * share, self.m2 + other.m2 + delta**2 * n_a * share)

    @property
    def variance(self) -> Tensor:
        """Unbiased variance m2 / (n - 1) of one value; NaN where n < 2."""
        known = self.count >= 2
        return torch.where(known, self.m2 / torch.where(known, self.count - 1.0, 1.0), torch.nan)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean, sqrt(variance / n); NaN where n < 2."""
        return torch.sqrt(self.variance / self.count)

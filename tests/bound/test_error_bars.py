"""Error bars of skewed draws: what a skewed sample covers, third cumulants, the bias of stopping by the variance."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.bound.planned import error_bars
from nelbo.bound.planned.blocks import third_of_pairs
from nelbo.bound.planned.summary import BINS, Summary


def uniforms(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_error_bars_of_rare_events_cover():
    """300 pairs with 30 events of random size: the freedom of the squares alone leaves a bar that covers less."""
    p, pairs, reps = 0.05, 300, 3000
    u = uniforms(0, reps, pairs, 2)
    draws = torch.where(u < p, (p / u).log(), 0.0)
    covered = narrow = 0
    for one in draws:
        value, variance, freedom, _ = error_bars.of_pairs([one], [pairs], [1.0])
        plain = float((one[:, 0] - one[:, 1]).square().sum()) / 4 / pairs**2
        covered += abs(value - p) <= 1.96 * math.sqrt(variance)
        narrow += abs(value - p) <= 1.96 * math.sqrt(plain * error_bars.widening(freedom))
    error = math.sqrt(0.95 * 0.05 / reps)
    assert covered / reps > 0.94
    assert narrow / reps < 0.95 - 3 * error


def test_third_cumulants_are_those_of_the_law():
    """Exponential draws have κ₃ = 2: the mean of n of them has 2/n²."""
    draws = -uniforms(1, 40_000).log()
    K3 = 2 / len(draws) ** 2
    assert error_bars.of_draws([draws], [1.0]).third == pytest.approx(K3, rel=0.1)
    halves = list(draws.reshape(2, -1))
    assert error_bars.of_draws(halves, [0.5, 0.5]).third == pytest.approx(K3, rel=0.1)
    assert error_bars.of_pairs([draws.reshape(-1, 2)], [len(draws) // 2], [1.0]).third == pytest.approx(K3, rel=0.1)
    # the mean of 2·4 draws an example, summed over 5000; examples and strata of other means change nothing
    pairs = draws.reshape(5000, 4, 2) + torch.linspace(-3, 3, 5000).double()[:, None, None]
    pairs = pairs + torch.tensor([0.0, 2.0, -1.0, 5.0])[:, None]
    assert third_of_pairs(pairs) == pytest.approx(5000 * 2 / 8**2, rel=0.15)


def test_the_bias_of_stopping_by_the_variance_is_known():
    """Exponential draws, ten at a time until the variance of their mean is 1/80: low, and `stopped` mends it."""
    reps, most = 800, 200
    raw, mended = [], []
    for draws in -uniforms(2, reps, most).log():
        for n in range(20, most + 1, 10):
            value, variance, freedom, third = error_bars.of_draws([draws[:n]], [1.0])
            if variance <= 1 / 80:
                break
        bins = torch.zeros(BINS, 3, dtype=torch.float64)
        bins[3] = torch.tensor([value, variance, n])
        result = Summary((value, variance), (0.0, 0.0), bins, None, freedom, (third, 0.0))
        raw.append(value - 1)
        mended.append(result.stopped().value - 1)
        assert float(result.stopped().bins[:, 0].sum()) == pytest.approx(result.stopped().value)
    raw, mended = (torch.tensor(v, dtype=torch.float64) for v in (raw, mended))
    z = [float(v.mean() / v.std() * math.sqrt(reps)) for v in (raw, mended)]
    assert z[0] < -3
    assert abs(z[1]) < 4 and abs(float(mended.mean())) < abs(float(raw.mean())) / 2

"""TimeSampler of a batch: their laws, the exact correction of importance sampling, and parts that make the whole."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from nelbo.training.data import BatchPart
from nelbo.training.times import TimeSampler, TimeSampling, inverse_transform

STEPS, BATCH = 400, 16


def peaked(t: torch.Tensor) -> torch.Tensor:
    """A loss as the bound has it: nearly all of it near t = 0. Its mean is 8/9 (1 − 10^−9)."""
    return 8.0 * (1 - t).pow(8)


def learned(steps: int = 200, seed: int = 4) -> TimeSampler:
    times = TimeSampler(TimeSampling.IMPORTANCE, cells=12)
    for step in range(steps):
        t, _ = times.draw(seed, step, BatchPart.whole(BATCH))
        times.observe(t, peaked(t))
        times.update()
    return times


def estimates(times: TimeSampler, seed: int = 9) -> torch.Tensor:
    """(STEPS,): the mean over a batch of ℓ/p."""
    draws = [times.draw(seed, step, BatchPart.whole(BATCH)) for step in range(STEPS)]
    return torch.stack([(weight * peaked(t)).mean() for t, weight in draws])


def check_unbiased(times: TimeSampler) -> None:
    found = estimates(times)
    error = float(found.std()) / math.sqrt(STEPS)
    assert abs(float(found.mean()) - 8 / 9) < 4 * error


def check_importance_unbiased() -> None:
    """Within 4 standard errors of the integral. The error is 1 % of it: a weight that is 10 % off is seen."""
    times = learned()
    check_unbiased(times)
    found = estimates(times)
    assert float(found.std()) / math.sqrt(STEPS) < 0.01
    t, weight = times.draw(1, 1, BatchPart.whole(4096))
    assert abs(float(weight.mean()) - 1) < 0.01 and abs(float((weight * t).mean()) - 0.5) < 0.01


def check_importance_helps() -> None:
    """Independent times: E[(ℓ/p)²] falls to near the least a density can have, (∫ ℓ)², from ∫ ℓ²."""
    density = learned().density()
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t, weight = inverse_transform(u, density)
    second = float((weight * peaked(t)).square().mean())
    assert second < 1.35 * (8 / 9) ** 2 < 64 / 17 / 2


@pytest.mark.parametrize("sampling", TimeSampling)
def test_unbiased(sampling):
    check_unbiased(TimeSampler(sampling))


def test_importance_is_unbiased():
    check_importance_unbiased()


def test_importance_helps():
    check_importance_helps()


def test_uniform_times_are_independent_and_uniform():
    t, weight = TimeSampler(TimeSampling.UNIFORM).draw(3, 0, BatchPart.whole(2000))
    assert bool((weight == 1).all()) and stats.kstest(t.numpy(), "uniform").pvalue > 1e-3
    cells = (t * 20).long().bincount(minlength=20)
    assert cells.max() > 100, "swept, not drawn"


def test_nothing_seen_is_uniform():
    times = TimeSampler(TimeSampling.IMPORTANCE)
    t, weight = times.draw(0, 0, BatchPart.whole(32))
    plain, _ = TimeSampler().draw(0, 0, BatchPart.whole(32))
    torch.testing.assert_close(t, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_parts_make_the_whole():
    """Two parts of a batch draw what the whole does, and learn the same from it, with the sum over processes."""
    whole, one, two = learned(), learned(), learned()
    all_places = BatchPart.whole(BATCH)
    parts = [BatchPart(all_places.positions[k::2], BATCH) for k in (0, 1)]
    t, _ = whole.draw(5, 7, all_places)
    drawn = [times.draw(5, 7, part)[0] for times, part in zip((one, two), parts, strict=True)]
    assert torch.equal(t[0::2], drawn[0]) and torch.equal(t[1::2], drawn[1])
    whole.observe(t, peaked(t))
    whole.update()
    for times, part in zip((one, two), drawn, strict=True):
        times.observe(part, peaked(part))
    noted = one._recent + two._recent
    for times in (one, two):
        times.update(lambda _: noted.clone())
        torch.testing.assert_close(times.density(), whole.density(), rtol=1e-12, atol=0)


def test_state():
    """What was learned travels in the state; what was only noted does not."""
    times = learned()
    other = TimeSampler(TimeSampling.IMPORTANCE, cells=12)
    other.load_state_dict(times.state_dict())
    assert torch.equal(other.density(), times.density()) and set(times.state_dict()) == {"squares", "counts"}

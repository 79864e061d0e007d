"""Times of a batch: their laws, what importance sampling gains, and parts that make the whole.

That the weights leave the mean loss as it is: `test_expectation` of `test_objective.py`, and the catalogue.
"""

from __future__ import annotations

import torch
from scipy import stats

from nelbo.training.batches import BatchPart
from nelbo.training.times import TimeSampler, TimeSampling, inverse_transform

BATCH = 16


def peaked(t: torch.Tensor) -> torch.Tensor:
    """A loss as the bound has it: nearly all of it near t = 0. Its mean is 8/9."""
    return 8.0 * (1 - t).pow(8)


def learned(steps: int = 200, seed: int = 4) -> TimeSampler:
    """Importance sampling after some steps of the peaked loss."""
    times = TimeSampler(TimeSampling.IMPORTANCE, cells=12)
    for step in range(steps):
        t, _ = times.draw(seed, step, BatchPart.whole(BATCH))
        times.observe(t, peaked(t))
        times.update()
    return times


def test_importance_helps():
    """Independent times: E[(ℓ/p)²] falls to near the least a density can have, (∫ ℓ)², from ∫ ℓ²."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t, weight = inverse_transform(u, learned().density())
    assert float((weight * peaked(t)).square().mean()) < 1.35 * (8 / 9) ** 2 < 64 / 17 / 2
    assert abs(float(weight.mean()) - 1) < 0.01 and abs(float((weight * t).mean()) - 0.5) < 0.01


def test_a_loss_that_is_alike_everywhere_leaves_times_even():
    """However many examples a cell has had; one that has had none is as all are together. A louder cell has more."""
    times = TimeSampler(TimeSampling.IMPORTANCE, cells=4)
    times.counts = torch.tensor([0.0, 1.0, 5.0, 40.0], dtype=torch.float64)
    times.squares = 9.0 * times.counts
    torch.testing.assert_close(times.density(), torch.ones(4, dtype=torch.float64))
    times.squares[3] *= 4
    root = ((times.squares + 0.1 * times.squares.sum() / 46) / (times.counts + 0.1)).sqrt()
    torch.testing.assert_close(times.density(), 0.9 * root / root.mean() + 0.1)


def test_uniform_times_are_independent_and_uniform():
    t, weight = TimeSampler(TimeSampling.UNIFORM).draw(3, 0, BatchPart.whole(2000))
    assert bool((weight == 1).all()) and stats.kstest(t.numpy(), "uniform").pvalue > 1e-3
    assert (t * 20).long().bincount(minlength=20).max() > 100, "they cover the chain evenly, and are not drawn"


def test_low_discrepancy_times_cover_the_chain():
    """One time in each of B equal parts of [0, 1], at a common offset that is uniform over steps."""
    times = torch.stack([TimeSampler().draw(0, step, BatchPart.whole(BATCH))[0] for step in range(200)])
    assert bool(((times >= 0) & (times < 1)).all())
    assert torch.equal((times * BATCH).floor().long().sort(1).values, torch.arange(BATCH).expand(200, -1))
    assert stats.kstest((times[:, 0] * BATCH).frac().numpy(), "uniform").pvalue > 1e-4
    for position in (0, 7):  # no position of the batch is tied to a part of the chain
        assert stats.kstest(times[:, position].numpy(), "uniform").pvalue > 1e-4


def test_importance_begins_with_low_discrepancy():
    t, weight = TimeSampler(TimeSampling.IMPORTANCE).draw(0, 0, BatchPart.whole(32))
    plain, _ = TimeSampler().draw(0, 0, BatchPart.whole(32))
    torch.testing.assert_close(t, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_parts_make_the_whole():
    """Two parts of a batch draw what the whole does, and learn the same from it, with the sum over processes."""
    whole, *two = learned(), learned(), learned()
    parts = [BatchPart(torch.arange(BATCH)[k::2], BATCH) for k in (0, 1)]
    t, _ = whole.draw(5, 7, BatchPart.whole(BATCH))
    drawn = [times.draw(5, 7, part)[0] for times, part in zip(two, parts, strict=True)]
    assert torch.equal(t[0::2], drawn[0]) and torch.equal(t[1::2], drawn[1])
    whole.observe(t, peaked(t))
    whole.update()
    for times, part in zip(two, drawn, strict=True):
        times.observe(part, peaked(part))
    total = two[0]._recent + two[1]._recent
    for times in two:
        times.update(lambda _: total.clone())
        torch.testing.assert_close(times.density(), whole.density(), rtol=1e-12, atol=0)

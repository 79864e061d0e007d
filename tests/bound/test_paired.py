"""The mean of paired draws: its variance, and how that is widened where these are all draws there are."""

from __future__ import annotations

import pytest
import torch

from nelbo.bound import paired
from nelbo.bound.planned import error_bars


def draws(strata: int, first: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(strata)
    one, other = torch.randn(2, strata, generator=g, dtype=torch.float64)
    return one, other, torch.randn(first, generator=g, dtype=torch.float64)


def test_few_draws_have_a_longer_error_and_many_their_own():
    for strata, first in ((4, 3), (4000, 4000)):
        one, other, more = draws(strata, first)
        plain, widened = paired.estimate(one, other, more)[1], paired.widened(one, other, more)
        along = error_bars.of_squares((one - other).square() / (4 * strata**2))[0]
        assert widened == pytest.approx(along + error_bars.of_draws([more], [1.0]).variance)
        assert widened > 1.3 * plain if strata == 4 else plain < widened < 1.01 * plain


def test_a_single_draw_tells_no_variance():
    one, other, more = draws(1, 1)
    assert paired.widened(one, other, more) == paired.widened(one, other, more + 5) > 0
    assert paired.widened(one[:0], other[:0], more) == 0

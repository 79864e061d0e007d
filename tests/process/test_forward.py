"""Every check of checks.py, and the far ends of a chain; the laws over all schedules are in test_schedule.py."""

from __future__ import annotations

import torch

from nelbo.process import forward
from nelbo.process import schedule as schedules
from tests.process import checks
from tests.tables import every_check

test_check = every_check(checks)


def test_neighbouring_levels_keep_their_digits():
    """c = 1 − SNR ratio for λ 1e-9 apart: 1e-9 to 12 digits, where 1 − exp would leave 7."""
    law = schedules.logsnr_linear(1.0, -1.0)
    s, t = law.at(torch.tensor([0.5])), law.at(torch.tensor([0.5 + 5e-10]))
    gap = float(s.logsnr - t.logsnr)
    checks.close(forward.one_minus_snr_ratio(s, t), [gap - gap**2 / 2], 1e-12)


def test_the_far_ends_are_finite():
    levels = schedules.logsnr_linear(60.0, -60.0).at(torch.linspace(0, 1, 7))
    for part in (*forward.transition(levels[:-1], levels[1:]), *forward.posterior(levels[:-1], levels[1:])):
        assert bool(torch.isfinite(part).all()) and bool((part >= 0).all())

"""Other schedules: what is tried is what the line of code says that is printed for it, and each is tried once."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

import nelbo
from nelbo.diagnosis import schedules
from nelbo.diagnosis.schedules import SHIFTS, OnSchedule
from nelbo.errors import UsageError
from nelbo.process.schedule import Table

LAW = nelbo.schedules.logsnr_linear(6.0, -7.0)
CASES = {
    "table": nelbo.schedules.linear(50, 1e-3, 0.3),
    "DDPM's own": nelbo.schedules.linear(1000),
    "law": LAW,
    "interpolated": nelbo.schedules.cosine(20).interpolated(),
}


@pytest.mark.parametrize("case", CASES)
def test_the_line_that_is_printed_makes_the_schedule_that_was_tried(case):
    schedule = CASES[case]
    table = isinstance(schedule, Table)
    others = schedules._tables(schedule) if table else schedules._laws()
    others += [schedules._shift(schedule, shift) for shift in SHIFTS]
    names = {"nelbo": nelbo, "torch": torch, "dataclasses": dataclasses, "schedule": schedule}
    if table:
        names["alphas"] = schedules.alpha_bar(schedule)
    for other in others:
        printed, made = eval(other.line, names), other.make(schedule)
        levels = schedules._levels(made)
        torch.testing.assert_close(schedules._levels(printed), levels, atol=2e-3, rtol=1e-4)
        assert other.trained(schedule) == (float(levels[-1]), float(levels[0]))
    for shift, other in zip(SHIFTS, others[-len(SHIFTS) :], strict=True):
        expected = schedules._levels(schedule) + shift
        torch.testing.assert_close(schedules._levels(other.make(schedule)), expected, atol=1e-9, rtol=0)
    if table:
        bar = schedules.alpha_bar(schedule)
        torch.testing.assert_close((1 - schedules.betas(schedule)).cumprod(0), bar)


def test_betas_scaled_to_the_length_stay_below_one():
    """0.02 · 1000/T is the last of them: no table of 20 steps has it."""
    for T, there in ((30, True), (20, False), (1000, False)):
        labels = [other.label for other in schedules._tables(nelbo.schedules.linear(T, 1e-3, 0.3))]
        assert (f"linear, β scaled to T = {T}" in labels) == there


def test_schedules_that_are_the_same_are_tried_once():
    def refused(schedule):
        raise UsageError("no", "none")

    other, near = nelbo.schedules.logsnr_linear(5.0, -7.0), nelbo.schedules.logsnr_linear(5.0 + 1e-4, -7.0)
    makes = [lambda s: s, lambda s: other, lambda s: near, refused, lambda s: nelbo.schedules.cosine(65), refused]
    siblings = [OnSchedule(str(k), "", make) for k, make in enumerate(makes)]
    assert [s.label for s in schedules._distinct(siblings, LAW)] == ["1", "3", "4", "5"]


def test_betas_of_other_kinds():
    """√β evenly spaced; β along a sigmoid, half of the way in the middle; both from the first β to the last."""
    T, ends = 101, torch.tensor([1e-3, 0.2], dtype=torch.float64)
    for make, middle in ((schedules.scaled_linear, (ends.sqrt().mean()) ** 2), (schedules.sigmoid, ends.mean())):
        betas = schedules.betas(partial(make, T, 1e-3, 0.2)())
        torch.testing.assert_close(betas[T // 2], middle)
        torch.testing.assert_close(betas[[0, -1]], ends, atol=5e-4, rtol=0)

"""Candidate levels: those of the model's own chain, and even chains between its own ends."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import nelbo
from nelbo.model.decoder import ContinuousGaussian
from nelbo.process.grid import Even, Grid, Subset, Times
from nelbo.tightening.candidates import CANDIDATES, Candidates
from tests.tightening.oracles import LAW, PLANE

TABLE = nelbo.schedules.linear(20, 1e-2, 0.5)


def same(one: Grid, other: Grid) -> bool:
    return repr(one) == repr(other)


def candidates(schedule, grid, calls: bool = False) -> Candidates:
    model = PLANE.model(schedule, grid, exact_ends=False)
    decoder = dataclasses.replace(model.decoder) if not calls else ContinuousGaussian(0.1)
    found = Candidates.of(dataclasses.replace(model, decoder=decoder))
    assert found.model.decoder.calls_network == calls
    return found


@pytest.mark.parametrize("calls", [False, True])
def test_even_chains_have_the_ends_and_the_evaluations_that_were_asked_for(calls):
    """On a table to its end the grid is `Even` itself; on a stretch of one, and on a law, its levels are even."""
    count = 5 + 1 - calls
    whole = candidates(TABLE, nelbo.grids.full(), calls)
    assert same(whole.even(5), Even(5, 0)) and whole.max_steps == 19 + calls
    later = candidates(TABLE, nelbo.grids.subset(range(3, 20)), calls)
    assert same(later.even(5), Even(5, 3))
    inside = candidates(TABLE, nelbo.grids.subset(range(3, 14)), calls)
    expected = torch.linspace(3, 13, count).round().long()
    assert same(inside.even(5), Subset(tuple(expected.tolist())))
    law = candidates(LAW, nelbo.grids.times([0.25, 0.5, 0.875]), calls)
    even = law.even(5)
    assert isinstance(even, Times) and even.times == tuple(
        torch.linspace(0.25, 0.875, count, dtype=torch.float64).tolist()
    )
    for one in (whole, later, inside, law):
        model = dataclasses.replace(one.model, grid=one.even(5))
        assert model.steps == 5
    if calls:  # one evaluation is that of the first level alone, where the chain also ends
        assert same(law.even(1), Times((0.875,)))


def test_candidates_of_a_law_are_even_in_log_snr_between_its_own_ends():
    law = candidates(LAW, nelbo.grids.times([0.25, 0.5, 0.875]))
    assert len(law.levels) == CANDIDATES and law.positions[[0, -1]].tolist() == [0.25, 0.875]
    steps = law.levels.logsnr.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps))
    nodes = law.nodes(5)
    logsnr = law.levels.logsnr
    wanted = logsnr[0] + torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64) ** 1.25 * (logsnr[-1] - logsnr[0])
    assert float((logsnr[nodes] - wanted).abs().max()) <= float(steps.abs().max()) / 2 + 1e-9
    assert same(law.grid([0, 7]), Times((0.25, float(law.positions[7]))))
    table = candidates(TABLE, nelbo.grids.subset([2, 5, 9]))
    assert table.positions.tolist() == list(range(2, 10)) and same(table.grid([0, 7]), Subset((2, 9)))

"""What a network predicts: velocities, names, clipping. Conversions against the truth are in checks.py."""

from __future__ import annotations

import pytest
import torch

from nelbo.errors import UnknownNameError, UsageError
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Output, Prediction, from_x0, x0_from
from tests.process import checks
from tests.process.cases import SCHEDULES


def test_a_velocity_has_no_meaning_on_a_table():
    t = schedules.linear(5).at_index(torch.tensor([2]))
    z = torch.ones(1, 2, dtype=torch.float64)
    for there in (x0_from, from_x0):
        with pytest.raises(UsageError, match=r"a table of levels, which has no derivative\nhint: .*schedules\.flow"):
            there(Output.VELOCITY, z, z, t)
    with pytest.raises(UsageError, match=r"without sigma_data\nhint: .*sigma_data=0\.5"):
        x0_from(Output.EDM_F, z, z, t)


@pytest.mark.parametrize("path", Path)
@pytest.mark.parametrize("law", ["logsnr-vp", "interpolated", "flow", "edm", "flow-vp"])
def test_a_velocity_is_the_derivative_of_the_path(law, path):
    """û of the true x and ε = d(αx + σε)/dtime by autograd, in the law's own time: τ on a flow schedule."""
    schedule = SCHEDULES[law]().on(path)
    unit = torch.tensor([0.03, 0.31, 0.77], dtype=torch.float64, requires_grad=True)
    t = schedule.at(unit)
    x, eps = torch.randn(2, 3, dtype=torch.float64)
    z = t.alpha * x + t.sigma * eps
    (dz,) = torch.autograd.grad(z.sum(), unit)
    own = 1.0 if t.time is None else schedule.t_max - schedule.t_min
    level = Levels(t.t, t.logsnr, t.path, slope=t.slope)
    checks.close(from_x0(Output.VELOCITY, x[:, None], z[:, None], level)[:, 0], dz / own, 1e-9, 1e-12)
    if law == "flow" and path is Path.FLOW:
        checks.close(dz / own, (eps - x), 1e-9)
        checks.close(t.time, t.sigma, 1e-12)


def test_a_name_is_parsed_at_the_edge():
    assert Output.parse("eps") is Output.EPS and Output.parse(Output.V) is Output.V
    with pytest.raises(
        UnknownNameError,
        match=r"unknown network output 'epsilon'\nhint: .*choose one of: edm_D, edm_F, eps, score, v, velocity, x0",
    ):
        Output.parse("epsilon")


def test_clipping_touches_x0_only():
    log_probs = torch.zeros(2, 3)
    clipped = Prediction(torch.tensor([[-2.0], [0.5]]), log_probs, torch.ones(2, 1)).clipped(-1, 1)
    assert clipped.x0.flatten().tolist() == [-1.0, 0.5]
    assert clipped.log_probs is log_probs and clipped.variance is not None

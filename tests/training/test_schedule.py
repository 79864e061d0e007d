"""A schedule that is trained: its shape lowers the estimator's noise; a run learns and saves it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nelbo.errors import UsageError
from nelbo.model import folder
from nelbo.model.exact import GaussianData
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.testing import at_noise
from nelbo.training.batches import Batch
from nelbo.training.build import build_model
from nelbo.training.criterion import Criterion
from nelbo.training.learned_schedule import TrainableSchedule
from nelbo.training.loop import train
from nelbo.training.objective import BoundObjective, NoisedBatch
from nelbo.training.settings import check_config
from tests.training.cases import codes, small

DATA = GaussianData([0.3], [[0.6]])
HIGH, LOW = 7.0, -5.0


def second_moment(law: TrainableSchedule, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ℓ of 4096 examples on `law`, and the gradient of E[ℓ²] that `backward` makes of it for the shape."""
    model = DATA.model(schedules.logsnr_linear(HIGH, LOW), grids.continuous())
    criterion = Criterion(BoundObjective(), law=law)
    law.zero_grad()
    parts = criterion(model, Batch(DATA.sample(4096, seed=seed), seed, 0))
    parts["loss"].backward()
    assert criterion._last is not None
    each = criterion._last[1].per_example.detach().double()
    criterion.after_backward()
    assert law.shape.grad is not None
    return each, law.shape.grad.clone()


def test_gradient_of_the_ends():
    """`backward` gives the end points the gradient of the mean loss: against central differences of the same draws.

    The gradient of the shape is a check of the catalogue.
    """
    law = TrainableSchedule(HIGH, LOW, segments=4)
    with torch.no_grad():
        law.shape.copy_(torch.tensor([0.3, -0.4, 0.1, 0.2]))
    model = DATA.model(schedules.logsnr_linear(HIGH, LOW), grids.continuous())
    batch = NoisedBatch.draw(model, Batch(DATA.sample(512), 2, 0))

    def mean(at) -> torch.Tensor:
        t, slope = at.at(batch.unit), at.dlogsnr_dt(batch.unit)
        return at_noise.diffusion_rate(model, batch.x.double(), batch.eps.double(), t, slope).mean()

    loss = mean(law)
    loss.backward()
    law.backward(loss.expand(512))
    assert law.end_points.grad is not None
    high, low = (torch.tensor(v).double() for v in ([1e-5, 0.0], [0.0, 1e-5]))
    for k, by in enumerate((high, low)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                law.end_points += sign * by
                values.append(float(mean(law.frozen())))
                law.end_points -= sign * by
        assert float(law.end_points.grad[k]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_training_the_shape_lowers_the_noise():
    """E[ℓ²] over t falls by a third of what can be gained at least, to within 5 % of the least that any shape of these
    segments reaches (by convexity: slopes ∝ 1/√E[ℓ²] a segment); the ends stay where they are."""
    law = TrainableSchedule(HIGH, LOW, segments=8, fixed_ends=True)
    before, _ = second_moment(law, 1)
    optimizer = torch.optim.Adam([law.shape], 0.05)
    for step in range(150):
        second_moment(law, 100 + step)
        optimizer.step()
    after, _ = second_moment(law, 2)
    assert float(after.square().mean()) < 0.9 * float(before.square().mean())
    assert float(after.var()) < 0.75 * float(before.var())  # 2 % error of either: 4096 examples
    assert abs(float(after.mean() / before.mean()) - 1) < 0.1  # the loss itself is what it was
    frozen = law.frozen()
    assert float(frozen.knots[0]) == HIGH and float(frozen.knots[-1]) == pytest.approx(LOW, abs=1e-12)


def test_ends_are_fixed_where_asked():
    law = TrainableSchedule(HIGH, LOW, segments=3, fixed_ends=True)
    second_moment(law, 0)
    assert law.end_points.grad is None
    free = TrainableSchedule(HIGH, LOW, segments=3)
    second_moment(free, 0)
    assert free.end_points.grad is not None and bool((free.end_points.grad != 0).all())


def test_a_run_learns_and_saves_its_schedule(tmp_path):
    """The folder holds the schedule that was learned."""
    settings = small(schedule={"name": "learned", "segments": 4}, steps=30, net={"head": "plain"})
    model = train(codes(), tmp_path, settings)
    loaded = folder.load(tmp_path)
    assert isinstance(loaded.schedule, schedules.Learned)
    assert torch.equal(loaded.schedule.knots, model.schedule.knots)
    straight = torch.linspace(5.0, -6.0, 5, dtype=torch.float64)
    moved = (loaded.schedule.knots - straight).abs()
    assert float(moved[1:-1].max()) > 0.01 and float(moved[[0, -1]].min()) > 1e-4


@pytest.mark.parametrize("objective", ["simple", "sigmoid", {"name": "bound", "t": "importance"}])
def test_refusals(objective, tmp_path):
    settings = small(schedule="learned", objective=objective, net={"head": "plain"})
    with pytest.raises(UsageError, match="learned schedule"):
        train(codes(), tmp_path, settings)


def test_knots():
    assert torch.equal(schedules.learned(6, -2, 4).knots, torch.linspace(6, -2, 5, dtype=torch.float64))
    for knots in ([1.0], [1.0, 2.0], [math.inf, 0.0], [[1.0, 0.0]]):
        with pytest.raises(UsageError, match="falling"):
            schedules.Learned(torch.tensor(knots))
    with pytest.raises(UsageError, match="falling"):
        schedules.learned(shape=[1.0, -1.0, 2.0])


def test_an_untrained_law_is_the_straight_one():
    model = build_model(codes(), check_config(small(schedule={"name": "learned", "segments": 7})))
    assert torch.allclose(model.schedule.logsnr(torch.tensor([0.3])), torch.tensor([5.0 - 0.3 * 11.0]).double())
    assert dataclasses.replace(model, schedule=model.schedule.on("flow")).schedule.path_name == "flow"

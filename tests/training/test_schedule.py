"""A schedule that is trained: its shape leaves the continuous bound alone and lowers the estimator's noise."""

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
from nelbo.process.schedule import Schedule
from nelbo.testing import at_noise
from nelbo.training.build import build_model
from nelbo.training.config import check_config
from nelbo.training.criterion import Criterion
from nelbo.training.data import Batch
from nelbo.training.loop import train
from nelbo.training.objective import BoundObjective, NoisedBatch
from nelbo.training.schedule import TrainableSchedule
from tests.training.cases import codes, small

DATA = GaussianData([0.3], [[0.6]])
HIGH, LOW = 7.0, -5.0
UNEVEN = schedules.learned(HIGH, LOW, shape=[1.0, 4.0, 0.3, 2.0, 0.7])


def diffusion_term(schedule: Schedule, model) -> float:
    """The model's diffusion term on this schedule, E over x and ε exact, ∫ dt by Gauss in each piece of 5."""
    import numpy as np

    nodes, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(24))
    total = 0.0
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    a, b = (v.reshape(-1) for v in torch.meshgrid(side, side, indexing="ij"))  # the two-point rule: quadratics exact
    x, eps = (DATA.mean + math.sqrt(0.6) * a)[:, None], b[:, None]
    for k in range(5):
        t = (k + 0.5 + 0.5 * nodes) / 5
        at, slope = schedule.at(t), schedule.dlogsnr_dt(t)
        for i in range(len(t)):
            each = at_noise.diffusion_rate(model, x, eps, at[i : i + 1].expand(4), slope[i].expand(4))
            total += float(w[i] * each.mean()) / 10
    return total


def test_the_shape_leaves_the_continuous_bound_alone():
    """One network as a function of (z, λ), fixed ends: the same number on a straight and on an uneven schedule, which
    is the closed form ½ log (1 + c e^λ) between the ends; other ends, another number."""
    model = DATA.model(schedules.logsnr_linear(HIGH, LOW), grids.continuous())
    exact = 0.5 * (math.log1p(0.6 * math.exp(HIGH)) - math.log1p(0.6 * math.exp(LOW)))
    assert diffusion_term(model.schedule, model) == pytest.approx(exact, rel=1e-9)
    assert diffusion_term(UNEVEN, model) == pytest.approx(exact, rel=1e-9)
    wider = schedules.learned(HIGH + 0.1, LOW, shape=[1.0, 4.0, 0.3, 2.0, 0.7])
    assert abs(diffusion_term(wider, model) / exact - 1) > 1e-3


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


def test_gradient():
    """One backward pass of the mean loss gives the gradient of E[ℓ²] for the shape and of the loss for the end points:
    against central differences of the same draws, in float64 so that the differences can be taken."""
    law = TrainableSchedule(HIGH, LOW, segments=4)
    with torch.no_grad():
        law.shape.copy_(torch.tensor([0.3, -0.4, 0.1, 0.2]))
    model = DATA.model(schedules.logsnr_linear(HIGH, LOW), grids.continuous())
    target = DATA.sample(512)
    batch = NoisedBatch.draw(model, Batch(target, 2, 0))
    # a step of the shape may push a float32 rounding about; the objective itself is evaluated in float64 here
    batch = batch._replace(x=batch.x.double(), eps=batch.eps.double())

    def values(at) -> torch.Tensor:
        t, slope = at.at(batch.unit), at.dlogsnr_dt(batch.unit)
        return at_noise.diffusion_rate(model, batch.x, batch.eps, t, slope)

    each = values(law)
    each.mean().backward()
    law.backward(each)
    assert law.shape.grad is not None and law.end_points.grad is not None

    def moved(parameter: torch.Tensor, k: int, of) -> float:
        h, out = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[k] += sign * h
            out.append(float(of(values(law.frozen()))))
            with torch.no_grad():
                parameter[k] -= sign * h
        return (out[0] - out[1]) / (2 * h)

    for k in range(4):
        slope = moved(law.shape, k, lambda v: v.square().mean())
        assert float(law.shape.grad[k]) == pytest.approx(slope, rel=1e-4, abs=1e-8)
    for k in range(2):
        slope = moved(law.end_points, k, lambda v: v.mean())
        assert float(law.end_points.grad[k]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


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

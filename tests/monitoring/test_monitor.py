"""A monitor is unbiased with honest errors, shows changes and not noise, and leaves training as it is, bit for bit."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import nelbo
from nelbo.errors import UsageError
from nelbo.monitoring import design
from tests.bound.workers import on_two

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # of untrained networks
DATA = nelbo.exact.CategoricalData(torch.rand(6, 5, generator=torch.Generator().manual_seed(3)) ** 2 + 0.02)
X = DATA.sample(64)
TABLE = nelbo.schedules.linear(40, 1e-3, 0.3)
LAW = nelbo.schedules.logsnr_linear(6.0, -6.0)
DOMAIN = nelbo.DataDomain((6,), bins=5)


class Net(nn.Module):
    """A little network with dropout and normalisation, which training and evaluation mode treat otherwise."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 24), nn.BatchNorm1d(24), nn.SiLU(), nn.Dropout(0.2), nn.Linear(24, 6))

    def forward(self, z, t):
        return self.layers(torch.cat([z, t[:, None].float() / 40], 1))


def model_of(net: nn.Module, schedule=TABLE) -> nelbo.DiffusionModel:
    time, grid = ("index", None) if schedule is TABLE else ("logsnr", nelbo.grids.continuous())
    return nelbo.from_callable(net, schedule=schedule, domain=DOMAIN, time=time, grid=grid)


def seeded(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


MODELS = {
    "table": lambda: model_of(seeded()),
    "continuous": lambda: model_of(seeded(), LAW),
    "categorical": lambda: DATA.model(LAW, nelbo.grids.even(12)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_unbiased_with_an_honest_error(kind):
    """Over seeds the value is that of an exhaustive estimate, and its deviations are as large as it says."""
    model = MODELS[kind]()
    how = "stratified" if kind == "continuous" else "exhaustive"
    truth = nelbo.evaluate(model, X, estimator=how)
    readings = [nelbo.Monitor(model, X, budget=256, seed=seed).update(0) for seed in range(24)]
    values, errors = (np.array([getattr(r, name) for r in readings]) for name in ("value", "standard_error"))
    spread = math.hypot(errors.mean() / math.sqrt(24), truth.standard_error.estimator)
    assert abs(values.mean() - truth.bits_per_dim) < 4 * spread
    # examples come without replacement, so that the error may be somewhat too long and never too short
    assert 0.4 < ((values - truth.bits_per_dim) / errors).std() < 1.4
    assert all(r.evaluations <= 256 for r in readings)
    # power: with the weights of the draws left out the same test misses
    chosen = nelbo.Monitor(model, X, budget=256)
    chosen.update(0)
    weights = chosen._design.weights
    assert float(weights.max() / weights.min()) > 1.5


def test_changes_are_those_of_the_network_and_not_noise():
    """The change of a slightly altered network, with an error far below that of either value."""
    net = seeded()
    model = model_of(net)
    before = nelbo.evaluate(model, X, estimator="exhaustive")
    monitor = nelbo.Monitor(model, X, budget=400, seed=1)
    first, same = monitor.update(0), monitor.update(1)
    assert (same.change, same.change_error) == (0.0, 0.0) and math.isnan(first.change)
    with torch.no_grad():
        net.layers[-1].weight.mul_(0.98)
    moved = monitor.update(2)
    after = nelbo.evaluate(model, X, estimator="exhaustive")  # the same seed: common noise
    assert moved.change_error < moved.standard_error / 10
    assert abs(moved.change - (after.bits_per_dim - before.bits_per_dim)) < 4 * moved.change_error + 1e-4
    assert moved.change == pytest.approx(moved.value - same.value)


def trained(monitored: bool, steps: int = 3) -> tuple[dict, torch.Tensor]:
    """Weights and random state after some steps of a plain loop with dropout, momentum, an average and accumulation."""
    net = seeded()
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    monitor = nelbo.Monitor(model_of(net), X, budget=64)
    averaged = nelbo.Monitor(lambda: model_of(average), X, budget=64)
    for step in range(steps):
        for half in (X[:32], X[32:]):
            z = DOMAIN.values(half).float()
            eps = torch.randn_like(z)
            nn.functional.mse_loss(net(z + eps, torch.randint(0, 40, (32,))), eps).backward()
            if monitored:  # between two backward passes: gradients are accumulating
                monitor.update(step), averaged.update(step)
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(net)
        np.random.rand()
    assert net.training and average.training
    return copy.deepcopy(net.state_dict()), torch.get_rng_state()


def test_the_run_is_bit_identical_with_and_without_it():
    (one, state), (other, other_state) = trained(False), trained(True)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(state, other_state)


def test_readings_are_written_logged_and_counted(tmp_path):
    """JSON lines, a tracker by name, the best, and an end after `patience` readings that are no better."""
    net, logged = seeded(), []
    monitor = nelbo.Monitor(
        model_of(net), X, budget=64, out=tmp_path / "logs" / "m.jsonl", patience=2,
        log=lambda values, step: logged.append((step, values)),
    )  # fmt: skip
    stops = []
    for step, factor in enumerate((1.0, 0.8, 1.25, 1.0, 1.0)):  # better, worse again, and no more
        with torch.no_grad():
            net.layers[-1].weight.mul_(factor)
            net.layers[-1].bias.mul_(factor)
        monitor.update(step)
        stops.append(monitor.should_stop)
    assert stops == [False, False, False, True, True]
    assert monitor.best is monitor.readings[1] and [r.best for r in monitor.readings] == [True, True] + 3 * [False]
    lines = [json.loads(line) for line in (tmp_path / "logs" / "m.jsonl").read_text().splitlines()]
    assert lines == [r.to_dict() for r in monitor.readings] and lines[0]["change"] is None
    assert logged[0] == (
        0,
        {"nelbo/bits_per_dim": lines[0]["value"], "nelbo/standard_error": lines[0]["standard_error"]},
    )
    assert logged[1][1]["nelbo/change"] == lines[1]["change"] and len(logged) == 5
    assert "since the best" in str(monitor.readings[-1])


def test_a_resumed_monitor_goes_on_as_if_it_had_not_stopped():
    net = seeded()
    whole = nelbo.Monitor(model_of(net), X, budget=64, patience=3)
    whole.update(0), whole.update(1)
    state = torch.load(_saved(whole.state_dict()), weights_only=True)
    with torch.no_grad():
        net.layers[-1].weight.mul_(0.9)
    other = nelbo.Monitor(model_of(net), X, budget=64, patience=3)
    other.load_state_dict(state)
    a, b = whole.update(2), other.update(2)
    for name in ("value", "change", "change_error", "change_from_best", "best"):
        assert getattr(a, name) == getattr(b, name)
    assert len(other.readings) == 3 and other.since == whole.since
    with pytest.raises(UsageError, match="the state is of a monitor with"):
        nelbo.Monitor(model_of(net), X, budget=65).load_state_dict(state)


def _saved(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_two_processes_share_a_reading():
    alone = nelbo.Monitor(model_of(seeded()), X, budget=64, batch_size=8)
    expected = [alone.update(step) for step in range(2)]

    def read(worker):
        monitor = nelbo.Monitor(model_of(copy.deepcopy(NET)), X, budget=64, batch_size=8, workers=worker)
        return [monitor.update(step) for step in range(2)]

    results, workers = on_two(read)
    for readings in results:
        assert [r.value for r in readings] == pytest.approx([r.value for r in expected], abs=1e-6)
    assert 0 < workers[0].rows < 400


NET = seeded()


def test_draws_are_no_more_than_the_budget_and_cover_the_examples():
    monitor = nelbo.Monitor(model_of(NET), X, budget=200)
    monitor.update(0)
    made = monitor._design
    assert len(made.diffusion) + len(made.first) <= 200
    assert len(made.diffusion.examples.unique()) == 64
    # no two draws share their noise
    keys = torch.stack([made.diffusion.examples, made.diffusion.keys, made.diffusion.numbers], 1)
    assert len(keys.unique(dim=0)) == len(keys)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nelbo.Monitor(3, X), "a monitor of a int"),
        (lambda: nelbo.Monitor(lambda: 3, X).update(0), "returned a int"),
        (lambda: nelbo.Monitor(model_of(NET), X, budget=design.LEAST - 1).update(0), "evaluations"),
        (lambda: nelbo.Monitor(model_of(NET), X, patience=0), "patience=0"),
    ],
)
def test_what_cannot_be_monitored(make, match):
    with pytest.raises(UsageError, match=match):
        make()

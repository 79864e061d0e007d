"""A foreign network is tried before the first estimate: twice alike, and every example by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nelbo
from nelbo.bound.trial import EVALUATIONS
from nelbo.errors import UsageError
from tests.expected import early_end

pytestmark = early_end

CODES = torch.randint(0, 17, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def model(network: Callable[..., Tensor], **more) -> nelbo.DiffusionModel:
    schedule = nelbo.schedules.linear(8, 1e-2, 0.7)
    return nelbo.from_callable(network, schedule=schedule, domain=nelbo.DataDomain((1, 8, 8), bins=17), **more)


class TrainsItself(nn.Module):
    """A network that puts itself into training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.train()
        return self.drop(z)


class Counts(nn.Module):
    """A network that counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return z / self.calls


def remembers() -> Callable[..., Tensor]:
    calls: list[int] = []

    def network(z: Tensor, t: Tensor) -> Tensor:
        calls.append(1)
        return z / len(calls)

    return network


def own_generator() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda z, t: z + torch.randn(z.shape, generator=generator)


def batch_statistics() -> nn.Module:
    net = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))
    return net


class OfSequential(nn.Module):
    """A module of z alone as a network."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z)


REFUSED: dict[str, tuple[Callable[[], Callable[..., Tensor]], str]] = {
    "dropout as a function": (lambda: lambda z, t: functional.dropout(z, 0.5), "twice.*random numbers"),
    "noise": (lambda: lambda z, t: z + torch.randn_like(z), "twice.*random numbers"),
    "noise of its own": (own_generator, "twice.*generator of its own"),
    "training mode": (TrainsItself, "twice.*dropout is active in drop"),
    "memory": (remembers, "twice.*hidden state"),
    "a buffer": (Counts, "changes its own buffers.*calls"),
    "statistics of the batch": (lambda: OfSequential(batch_statistics()), "others of its batch.*net.0 normalises"),
    "a mean over the batch": (lambda: lambda z, t: z - z.mean(0, keepdim=True), "others of its batch.*mixes"),
    "a reshape over the batch": (lambda: lambda z, t: z.flip(0), "others of its batch.*mixes"),
    "the first time for all": (lambda: lambda z, t: z * t[0].tanh(), "others of its batch.*one example's time for all"),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("verb", [nelbo.evaluate, nelbo.ode_likelihood], ids=["evaluate", "ode"])
def test_refused_with_the_cause(network, message, verb):
    schedule = nelbo.schedules.logsnr_linear(6.0, -6.0)
    domain = nelbo.DataDomain((1, 8, 8), bins=17)
    with pytest.raises(UsageError, match=message):
        verb(nelbo.from_callable(network(), schedule=schedule, domain=domain, time="logsnr"), CODES)


def test_both_models_of_a_comparison_are_tried():
    good, bad = model(lambda z, t: 0.9 * z), model(lambda z, t: z + torch.randn_like(z))
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(UsageError, match="twice"):
            nelbo.compare(*pair, CODES)


def test_a_buffer_is_put_back():
    net = Counts()
    with pytest.raises(UsageError, match="buffers"):
        nelbo.evaluate(model(net), CODES)
    assert net.calls == 0


def test_stochastic_is_accepted_and_recorded():
    noisy = model(lambda z, t: z + 1e-3 * torch.randn_like(z), stochastic=True)
    with pytest.warns(UserWarning, match="declared stochastic"):
        bound = nelbo.evaluate(noisy, CODES, estimator="exhaustive")
    assert any("stochastic" in note for note in bound.warnings)
    assert noisy.denoiser.describe()["stochastic"] is True


def test_one_at_a_time_any_network_treats_an_example_by_itself():
    mixing = model(lambda z, t: 0.9 * z - 0.1 * z.mean(0, keepdim=True))
    assert nelbo.evaluate(mixing, CODES, estimator="exhaustive", batch_size=1).bits_per_dim > 0


def test_five_evaluations_are_counted():
    calls: list[int] = []

    class Network(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            calls.append(len(z))
            return 0.9 * z

    bound = nelbo.evaluate(model(Network()), CODES, estimator="exhaustive")
    assert bound.nfe_total == sum(calls) == EVALUATIONS + 2 * 8 * len(CODES)
    own = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
    exact = own.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.even(8))
    assert nelbo.evaluate(exact, own.sample(4), estimator="exhaustive").nfe_total == 2 * 4 * exact.steps

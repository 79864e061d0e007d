"""The work of an ODE likelihood: shared by processes, interrupted, resumed; networks whose derivative is not theirs."""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.errors import Interrupted, UsageError
from tests.bound.workers import on_two
from tests.likelihood import checks

LAW = nelbo.schedules.logsnr_linear(4.0, -8.0)
SHORT = {"steps": 4, "per_example": True, "precision": "float64", "batch_size": 4}


def chain():
    return checks.CODES.model(LAW, nelbo.grids.continuous())


def same(one, other, rtol=1e-9):
    assert (one.examples, one.nfe_total, one.data) == (other.examples, other.nfe_total, other.data)
    assert one.bits_per_dim == pytest.approx(other.bits_per_dim, rel=rtol)
    assert one.standard_error.total == pytest.approx(other.standard_error.total, rel=rtol, nan_ok=True)
    for name, values in vars(one.per_example).items():
        torch.testing.assert_close(getattr(other.per_example, name), values, rtol=rtol, atol=1e-12)


@pytest.mark.filterwarnings("ignore:3 of 9 examples miss the ODE tolerance")
@pytest.mark.parametrize("options", [{"dequantisation": "flow"}, {"tolerance": 1e-2, "max_steps": 8}, {"probes": 2}])
def test_two_processes_are_one(options, monkeypatch):
    """Nine examples in batches of four: the result of either process is that of one, evaluations and all."""
    monkeypatch.setattr("nelbo.likelihood.dequantisation.STEPS", 5)
    x = checks.CODES.sample(9)
    alone = nelbo.ode_likelihood(chain(), x, **SHORT, **options)
    results, workers = on_two(lambda worker: nelbo.ode_likelihood(chain(), x, workers=worker, **SHORT, **options))
    for result in results:
        same(alone, result)
    assert min(w.rows for w in workers) >= 3


class Stop:
    """Ctrl-C as soon as so many evaluations are done."""

    def __init__(self, after: int):
        self.after = after

    def __call__(self, done: int, planned: int) -> None:
        if done > self.after:
            raise KeyboardInterrupt


def test_interrupted_it_is_the_likelihood_of_the_first(tmp_path):
    """What is finished is the result of those examples; with a state the run goes on to the same number."""
    x, state = checks.CODES.sample(10), tmp_path / "run.state"
    whole = nelbo.ode_likelihood(chain(), x, **SHORT)
    one = (whole.nfe_total - 50) // 10
    with pytest.warns(NelboWarning, match="the first 4 of 10 examples"):
        stopped = nelbo.ode_likelihood(chain(), x, state=state, progress=Stop(50 + 6 * one), **SHORT)
    assert stopped.interrupted and stopped.examples == 4 and not whole.interrupted
    first = nelbo.ode_likelihood(chain(), nelbo.Examples(x).first(4), **SHORT)
    same(first, stopped)
    computed = []
    again = nelbo.ode_likelihood(chain(), x, state=state, progress=lambda done, planned: computed.append(done), **SHORT)
    same(whole, again)
    assert max(computed) == 50 + 6 * one  # of ten examples four were read
    with pytest.raises(UsageError, match="the state of another evaluation"):
        nelbo.ode_likelihood(chain(), x, state=state, **{**SHORT, "steps": 6})
    with pytest.raises(Interrupted, match="before the first batch"):
        nelbo.ode_likelihood(chain(), x, progress=Stop(50 + one), **SHORT)


# ---------------------------------------------------------------- derivatives


WEIGHTS = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)).double() / 2


def net(z, t, mix=lambda z: z, late=lambda z: z):
    return torch.tanh(mix(z) @ WEIGHTS[0].to(z)) + late(z) @ WEIGHTS[1].to(z)


def through_numpy(z):
    return torch.from_numpy(z.detach().numpy().copy())


class Weights(torch.nn.Linear):
    """Its output requires a gradient for its weights, and so does not give itself away."""

    def forward(self, z, t):
        return super().forward(z.detach().to(self.weight))


DETACHED = {
    "weights": Weights(6, 6),
    "whole": lambda z, t: net(z.detach(), t),
    "one branch": lambda z, t: net(z, t, late=torch.Tensor.detach),
    "another branch": lambda z, t: net(z, t, mix=torch.Tensor.detach),
    "numpy": lambda z, t: net(z, t, mix=through_numpy),
    "noisy end alone": lambda z, t: torch.where(t[:, None] < -2, net(z.detach(), t), net(z, t)),
}


def model(fn, predicts="eps"):
    return nelbo.from_callable(
        fn, schedule=LAW, domain=nelbo.DataDomain((6,), 8), time="logsnr", predicts=predicts,
        grid=nelbo.grids.continuous(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:the ODE's discretisation error")
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_derivative_that_is_not_the_networks_is_refused(precision, predicts):
    """Whatever part of it is lost; and the network as it is, or one that does not look at its input, passes."""
    x = torch.randint(0, 8, (3, 6), generator=torch.Generator().manual_seed(0))

    def likelihood(fn):
        return nelbo.ode_likelihood(model(fn, predicts), x, steps=2, precision=precision)

    for name, fn in DETACHED.items():
        lost = "carries no gradient" if (predicts, name) == ("x0", "whole") else "derivative is not that of its values"
        with pytest.raises(UsageError, match=lost) as caught:
            likelihood(fn)
        assert "detach" in caught.value.hint
    likelihood(net)
    if predicts != "x0":
        likelihood(lambda z, t: torch.zeros_like(z))

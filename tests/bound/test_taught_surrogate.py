"""A Gaussian surrogate learns the law that a network's predictions tell; and what a pilot's fit makes of such terms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound import taught_surrogate
from nelbo.bound.planned import error_bars, pilot, regression
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Cells
from nelbo.bound.surrogate import GaussianSurrogate
from nelbo.bound.taught_surrogate import Predictions, learn, projections
from nelbo.maths import random
from nelbo.process.levels import Levels, Path
from nelbo.workers import Run
from tests.bound.workers import on_two

D = 6
SPECTRUM = torch.logspace(0, -2, D, dtype=torch.float64)
LOGSNR = torch.tensor([6.0, 3.0, 0.5, -2.0, -5.0], dtype=torch.float64)


def law() -> nelbo.exact.GaussianData:
    """The network's: another mean and covariance than those of the data, which are of one coordinate less."""
    turn = torch.linalg.qr(random.normal(5, torch.arange(D), 0, 0, (D,)).double())[0]
    return nelbo.exact.GaussianData(torch.linspace(-0.5, 0.5, D).double(), turn @ torch.diag(SPECTRUM) @ turn.mT)


def data(n: int) -> torch.Tensor:
    x = law().sample(n, seed=3)
    x[:, 2] = 0.1
    return x


def drawn(surrogate: GaussianSurrogate, bend: float, examples: int = 24) -> Predictions:
    """What the exact denoiser of the law predicts at one draw of every example and level, bent by a sine."""
    x = data(examples).repeat_interleave(len(LOGSNR), 0)
    logsnr = LOGSNR.repeat(examples)
    at = Levels(torch.zeros_like(logsnr), logsnr, Path.VP)
    z = at.alpha[:, None] * x + at.sigma[:, None] * random.normal(7, torch.arange(len(x)), 0, 0, (D,))
    x0 = law().denoiser()(z, at).x0 + bend * torch.sin(5 * z)
    seen = projections(surrogate, z, x0, at.alpha)
    return Predictions.of(seen, surrogate, logsnr, torch.arange(examples).repeat_interleave(len(LOGSNR)))


def check_taught() -> None:
    """All leading directions, so that the law is the network's whole one; each of the laws without a part of the
    examples too."""
    surrogate = GaussianSurrogate.fit(data(40)).in_precision(torch.float64)
    laws = learn(surrogate, drawn(surrogate, 0.0))
    assert laws is not None and len(laws) == 1 + taught_surrogate.FOLDS
    for taught in laws:
        V = taught.basis
        assert torch.allclose(V @ torch.diag(taught.variances) @ V.mT, law().covariance, atol=2e-5)
        assert torch.allclose(taught.mean, law().mean, atol=2e-5)
    assert not torch.allclose(surrogate.mean, law().mean, atol=0.05)


def test_the_law_of_the_network_is_learned():
    check_taught()


def test_what_is_far_from_every_law_teaches_nothing():
    surrogate = GaussianSurrogate.fit(data(40))
    assert learn(surrogate, drawn(surrogate, 0.1)) is not None
    assert learn(surrogate, drawn(surrogate, 1.0)) is None
    assert learn(surrogate, drawn(surrogate, 0.0, examples=3)) is None


def test_a_pilot_of_a_gaussian_network_foretells_its_terms():
    """Terms of the exact denoiser follow the taught surrogate to 2 %, and 20 % without it; and two workers know what
    one does."""
    x = data(60)
    model = law().model(nelbo.schedules.linear(60, 1e-3, 0.3), nelbo.grids.full(), exact_ends=False)

    def run(worker=None) -> pilot.Pilot:
        one = prepare(model, x, Run() if worker is None else Run(workers=worker))
        return pilot.run(one.chain, one.runner, 24)

    fitted = run()
    assert float((fitted.diffusion.residual * fitted.diffusion.size).sum() / fitted.diffusion.size.sum()) < 0.02
    assert fitted.features.slope == 1  # examples unlike the pilot's are foretold by their expected errors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taught_surrogate, "learn", lambda surrogate, seen: None)
        before = run()
    assert float((before.diffusion.residual * before.diffusion.size).sum() / before.diffusion.size.sum()) > 0.2
    assert before.features.slope == 0
    one, other = on_two(run)[0]
    assert torch.equal(one.diffusion.mean, other.diffusion.mean)
    assert torch.equal(one.features.values, other.features.values)
    assert torch.allclose(one.diffusion.mean, fitted.diffusion.mean, rtol=1e-6)


def test_the_mean_at_a_node_is_freed_of_the_noise_that_controls_show():
    """Terms 2 + n, 3 + n with columns n whose mean over the few examples is not their own, 0; and at cells between the
    nodes the mean follows the typical error: nothing else is there to be interpolated."""
    n = random.normal(1, torch.arange(12), 0, 0, (2, 1)).double() + 0.4
    y = n + torch.tensor([[2.0], [3.0]])
    node = regression.at_nodes(torch.cat([y, n], 2).numpy(), np.ones(2), np.zeros((12, 1)), np.ones((2, 1)), pooled=1)
    assert node["mean"] == pytest.approx([2, 3], abs=2e-3) and node["controls"] == pytest.approx(
        np.ones((2, 1)), abs=2e-3
    )
    assert float(abs(y.mean(0)[0, 0] - 2)) > 0.1
    place = torch.linspace(0, 1, 5, dtype=torch.float64)
    cells = Cells(place, place, place, torch.ones(5, dtype=torch.float64))
    typical = torch.tensor([2.0, 9.0, 7.0, 1.0, 3.0], dtype=torch.float64).log()
    fit = regression.spread_over_cells(node, torch.tensor([0, 4]), cells, np.ones((5, 1)), typical=typical.numpy())
    assert fit.mean.tolist() == pytest.approx([2, 9, 7, 1, 3], rel=2e-3)


def test_a_variance_far_below_the_one_asked_for_needs_fewer_degrees_of_freedom():
    assert error_bars.enough(1.0, error_bars.ENOUGH, 1.0) and not error_bars.enough(1.01, error_bars.ENOUGH, 1.0)
    assert error_bars.enough(0.06, error_bars.ENOUGH / 2, 1.0) and not error_bars.enough(
        0.07, error_bars.ENOUGH / 2, 1.0
    )
    assert not error_bars.enough(0.0, error_bars.ENOUGH / 5, 1.0)

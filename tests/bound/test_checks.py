"""Remarks on numbers that do not mean what one thinks: each on a model that earns it, none on one that does not."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo import evaluate, testing
from nelbo.bound import checks
from nelbo.bound.prepare import prepare
from nelbo.maths import random
from nelbo.process import forward
from nelbo.process.prediction import Prediction
from nelbo.workers import Run

pytestmark = pytest.mark.filterwarnings("ignore::nelbo.bound.checks.NelboWarning")  # they are looked at here
DATA = nelbo.exact.MixtureData([0.5, 0.5], [[-0.6, 0.2, 0.1, 0.5], [0.5, -0.4, 0.3, -0.2]], [0.03, 0.05])
DOMAIN = nelbo.DataDomain((4,), 256)
X = DATA.sample(96)
CODES = DOMAIN.codes(X)
LAW = nelbo.schedules.logsnr_linear(9.0, -9.0)
TABLE = nelbo.schedules.linear(100, 1e-3, 0.2)


def scored(truth: str, said: str, schedule=LAW, domain=DOMAIN, wrap=lambda net: net, **options):
    time = "logsnr" if schedule is LAW else "index"
    net = wrap(testing.as_network(testing.oracle(DATA), schedule, truth, time))
    model = nelbo.from_callable(net, schedule=schedule, domain=domain, predicts=said, time=time, **options)
    how = "stratified" if schedule is LAW else "exhaustive"
    return evaluate(model, options.get("codes", CODES), estimator=how, precision="float64", tolerance=1.0)


def about(bound) -> str | None:
    return next((w for w in bound.warnings if "worse than none" in w), None)


@pytest.mark.parametrize("schedule", [LAW, TABLE], ids=["law", "table"])
@pytest.mark.parametrize("output", ["eps", "x0", "v", "score"])
def test_what_is_declared_right_is_not_remarked_on(schedule, output):
    assert about(scored(output, output, schedule)) is None


WRONG = ["v eps", "x0 eps", "score eps", "eps x0", "v x0", "eps score", "velocity x0"]
"""What a network predicts, and what is declared."""


@pytest.mark.parametrize("schedule", [LAW, TABLE], ids=["law", "table"])
@pytest.mark.parametrize("outputs", WRONG)
def test_an_output_declared_wrongly(schedule, outputs):
    """The bound explodes, and the remark says where, by how much, and what to check."""
    truth, said = outputs.split()
    if truth == "velocity" and schedule is TABLE:
        pytest.skip("a table has no velocity")
    right, wrong = scored(truth, truth, schedule), scored(truth, said, schedule)
    assert wrong.bits_per_dim > right.bits_per_dim + 2
    told = about(wrong)
    assert told is not None and f"check what it predicts (declared: {said})" in told and "[-1, 1]" in told


def test_what_cannot_be_detected():
    """An ε-network declared as v errs by less than no network at all: a higher bound, and nothing to say."""
    right, wrong = scored("eps", "eps"), scored("eps", "v")
    assert 0.1 < wrong.bits_per_dim - right.bits_per_dim < 1 and about(wrong) is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: lambda z, t: net(z, 99 - t),
        lambda net: lambda z, t: net(127.5 * (z + 1), t),
        lambda net: lambda z, t: -net(z, t),
    ],
    ids=["time reversed", "data in 0..255", "sign"],
)
def test_a_network_used_wrongly(wrap):
    assert about(scored("eps", "eps", TABLE, wrap=wrap)) is not None


def test_first_levels_that_were_never_trained():
    """Garbage at the first index: the remark names first_level, and there it goes away."""

    def wrap(net):
        return lambda z, t: torch.where(t[:, None] > 0, net(z, t), 4.0 * torch.ones_like(z))

    told = about(scored("eps", "eps", TABLE, wrap=wrap))
    assert told is not None and "at the first level" in told and "first_level=1" in told
    assert about(scored("eps", "eps", TABLE, wrap=wrap, first_level=1)) is None


@pytest.mark.parametrize("domain", [DOMAIN, nelbo.DataDomain((4,), 256, low=0.0, high=2.0)], ids=["-1..1", "0..2"])
@pytest.mark.parametrize("variance", ["beta_tilde", "beta"])
def test_no_network_is_what_it_is_said_to_be(variance, domain):
    """The term without a network, level by level: that of the better of x̂ = z/α and x̂ = the middle of the range,
    within 4 SE."""
    model = nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=domain, variance=variance)
    said = checks.without_network(prepare(model, CODES, Run(precision="float64")).chain)
    levels, x = model.levels(), domain.values(CODES)
    middle = torch.full_like(x, 0.5 * (domain.low + domain.high))
    for j in (1, 5, 40, 99):
        s, t = (levels[k : k + 1].expand(len(x)) for k in (j - 1, j))
        costs = []
        for guess in ("z", "middle"):
            eps = random.normal(5, torch.arange(len(x)), j, 0, DOMAIN.shape)
            z = forward.noised(x, eps, t)
            x0 = z / t.alpha[:, None] if guess == "z" else middle
            costs.append(model.reverse.kl(x, Prediction(x0), s, t).sum(1))
        best = min(costs, key=lambda c: float(c.mean()))
        error = float(best.std()) / math.sqrt(len(x))
        assert abs(float(said[j - 1]) - float(best.mean())) < 4 * error + 1e-9 * float(best.mean()), j


def shown(model, data=CODES) -> str:
    return about(evaluate(model, data, tolerance="5%")) or ""


ZERO = {"schedule": TABLE, "domain": DOMAIN}


def test_a_foreign_network_was_declared():
    """ε̂ = 0 makes x̂ = z/α, far outside of the range at much noise. Clipped, it is no longer worse than none."""
    told = shown(nelbo.from_callable(lambda z, t: 0 * z, **ZERO))
    assert "check what it predicts (declared: eps)" in told and "(declared: index)" in told and "[-1, 1]" in told
    assert "x̂ is outside of the range" in told and "clip=True" in told and "grid of" not in told
    assert shown(nelbo.from_callable(lambda z, t: 0 * z, clip=True, **ZERO)) == ""


def test_a_coarse_grid_makes_it_worse():
    coarse = {**ZERO, "grid": nelbo.grids.even(10)}
    told = shown(nelbo.from_callable(lambda z, t: 0 * z, **coarse))
    assert "with a grid of 10 steps, each of which weighs it more" in told and "clip=True" in told
    clipped = shown(nelbo.from_callable(lambda z, t: 0 * z, clip=True, **coarse))
    assert "clip=True" not in clipped  # it is still worse than none near log-SNR 1, and seeds differ in saying so


def test_real_data_have_a_scale_and_no_range():
    real = {"schedule": TABLE, "domain": nelbo.DataDomain((4,))}
    told = shown(nelbo.from_callable(lambda z, t: 3 * z, **real), 50 * X.float())
    assert f"real (mean {50 * float(X.mean()):.3g}, standard deviation {50 * float(X.std()):.3g})" in told
    assert "[-1, 1]" not in told and "clip" not in told


def test_a_network_of_nelbo_s_own_was_trained_too_little(tmp_path):
    settings = {"steps": 2, "batch_size": 16, "bins": 256, "lr": 3.0, "warmup": 0, "levels": 16, "decoder": "plain",
                "net": {"name": "mlp", "width": 8, "head": "plain", "predicts": "eps"}}  # fmt: skip
    model = nelbo.train(CODES[:48], tmp_path / "run", settings)
    told = shown(model, CODES[48:])
    assert "it was trained by nelbo for 2 steps on" in told and "has not converged" in told
    assert "declared" not in told and "clip=True" in told
    unknown = shown(dataclasses.replace(model, provenance={}), CODES[48:])
    assert "one of nelbo's that was never trained" in unknown
    loaded = shown(dataclasses.replace(model, provenance={"diffusers": {"network": "UNet2DModel"}}), CODES[48:])
    assert "check what it predicts (declared: eps)" in loaded and "never trained" not in loaded


def test_the_prior_term_is_named():
    short = nelbo.schedules.linear(40, 1e-3, 0.05)
    net = testing.as_network(testing.oracle(DATA), short, "eps", "index")
    with pytest.warns(UserWarning, match=r"does not end at its prior: the prior term is 0\.\d+ bits/dim, .* log-SNR"):
        bound = evaluate(nelbo.from_callable(net, schedule=short, domain=DOMAIN), CODES, estimator="exhaustive")
    assert f"{bound.terms.prior.bits_per_dim:.4g} bits/dim" in bound.warnings[0]
    assert not any("prior" in w for w in scored("eps", "eps").warnings)


def test_one_level_and_learned_variances():
    """A chain of one level has no diffusion term; where the network says the variance, the check needs none."""
    one = nelbo.from_callable(
        lambda z, t: 0 * z,
        schedule=LAW,
        domain=DOMAIN,
        time="logsnr",
        grid=nelbo.grids.even(1),
        decoder=nelbo.decoders.DiscretizedGaussian(0.1),
    )
    assert about(evaluate(one, CODES, estimator="exhaustive")) is None
    raw = {"raw_variance": lambda y, logsnr: torch.zeros_like(y)}
    net = testing.as_network(testing.oracle(DATA), TABLE, "eps", "index", **raw)
    model = nelbo.from_callable(net, schedule=TABLE, domain=DOMAIN, variance="learned_range")
    assert about(evaluate(model, CODES, estimator="exhaustive", precision="float64")) is None

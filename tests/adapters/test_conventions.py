"""One network said in every convention is one model, and the exact network of known data gives the exact answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import nelbo
from nelbo import testing
from nelbo.bound.estimators import Exhaustive
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.denoiser import TimeInput
from nelbo.model.exact import MixtureData
from nelbo.model.prior import GaussianPrior
from nelbo.process.levels import Path
from nelbo.process.prediction import Output
from tests.expected import early_end, untrained

pytestmark = [untrained, early_end]

D, BINS = 3, 16
SPREAD, FIRST = 1.7, 0.02
"""Variance of the prior of z/α, and of the decoder, which are the same on every path."""
LAW = nelbo.schedules.logsnr_linear(6.0, -6.0)
TABLE = nelbo.schedules.from_betas(np.random.default_rng(7).uniform(0.02, 0.5, 9))
SCHEDULES = {"law": LAW, "table": TABLE, "interpolated": TABLE.interpolated(), "flow": nelbo.schedules.flow(0.05, 0.95)}
CODES = torch.arange(4 * D).reshape(4, D) % BINS
MIX = torch.randn(D, 2 * D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def denoise(y, logsnr):
    """Any smooth network of y = z/α and λ; it mixes its inputs."""
    h = torch.tanh((y / (1 + (-0.5 * logsnr).exp())[:, None]) @ MIX + 0.2 * logsnr[:, None])
    return 0.7 * y / (1 + (-logsnr).exp())[:, None] + 0.4 * h[:, :D]


def model_of(name: str, path: Path, output: Output, time: TimeInput, **changes) -> nelbo.DiffusionModel:
    schedule = SCHEDULES[name].on(path)
    sigma_data = 0.6 if output is Output.EDM_F else None
    grid = nelbo.grids.full() if schedule.table_length else nelbo.grids.even(6)
    alpha_last = float(grid.levels(schedule, True).alpha[-1])
    net = testing.as_network(
        denoise, schedule, output, time, sigma_data=sigma_data, raw_variance=changes.pop("raw", None)
    )
    options = {
        "schedule": schedule,
        "grid": grid,
        "domain": nelbo.DataDomain((D,), BINS),
        "decoder": DiscretizedGaussian(FIRST),
        "prior": GaussianPrior(0.0, SPREAD * alpha_last**2),
        **changes,
    }
    return nelbo.from_callable(net, predicts=output, time=time.value, sigma_data=sigma_data, **options)


def nats(model, data=CODES, estimator=None):
    bound = nelbo.evaluate(model, data, estimator=estimator or Exhaustive(1), precision="float64", per_example=True)
    return bound.per_example.nats


def times(indexed: bool) -> list[TimeInput]:
    return [time for time in TimeInput if indexed or time is not TimeInput.INDEX]


def conventions(name: str):
    """Every path with every output, and both with every time, which goes round."""
    outputs = [output for output in Output if output is not Output.VELOCITY or name != "table"]
    choices = times(name in ("table", "interpolated"))
    for (i, path), (j, output) in itertools.product(enumerate(Path), enumerate(outputs)):
        for k in (i + j, i + j + 2):
            yield path, output, choices[k % len(choices)]


def test_every_pair_of_conventions_is_tried():
    tried = list(conventions("interpolated"))
    for one, other, kinds in ((0, 1, (Path, Output)), (0, 2, (Path, TimeInput)), (1, 2, (Output, TimeInput))):
        assert {(c[one], c[other]) for c in tried} == set(itertools.product(*kinds))


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_network_in_every_convention(name):
    """Whatever the output, time and path: the same bound of every example to 1e-8, prior and decoder rescaled."""
    expected = None
    count = 0
    for path, output, time in conventions(name):
        found = nats(model_of(name, path, output, time))
        expected = found if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=0, msg=f"{path} {output} {time}")
        count += 1
    assert count == {"law": 42, "table": 36, "interpolated": 42, "flow": 42}[name]


def relative_raw(path: Path):
    """log of β̃ of each step times a factor of the network's own, and at the first level of the decoder's variance."""
    levels = TABLE.on(path).at_index(torch.arange(len(TABLE.table)))
    log_beta_tilde = 2 * levels.log_sigma[:-1] + torch.log(-torch.expm1(levels.logsnr.diff()))
    each = torch.cat([torch.tensor([FIRST]).double().log(), log_beta_tilde])

    def raw(y, logsnr):
        index = (TABLE.table[None] - logsnr[:, None]).abs().argmin(1)
        return each[index][:, None] + 0.5 * torch.tanh(y)

    return raw, each


def test_learned_variances_relative_to_the_posterior():
    """A learned log variance that is a factor times β̃ is the same model on every path; so is a table of them."""
    expected = {}
    for path, output in itertools.product(Path, (Output.EPS, Output.V, Output.SCORE, Output.EDM_F)):
        raw, each = relative_raw(path)
        learned = model_of(
            "table", path, output, TimeInput.INDEX, raw=raw, variance="learned_log", decoder="discretized_gaussian"
        )
        assert learned.decoder.variance is None
        table = model_of("table", path, output, TimeInput.INDEX, variance=3.0 * each.exp())
        for kind, model in (("learned", learned), ("table", table)):
            found = nats(model)
            torch.testing.assert_close(found, expected.setdefault(kind, found), rtol=1e-8, atol=0)
    plain = nats(model_of("table", Path.VP, Output.EPS, TimeInput.INDEX))
    assert all(float((other - plain).abs().min()) > 0.01 for other in expected.values())


def test_learned_range_lies_between_its_ends():
    """v = −1 everywhere is the model of β̃ with its decoder, v = 1 that of β, with the same noise to 1e-8."""
    for value, fixed in ((-1.0, "beta_tilde"), (1.0, "beta")):
        decoder = {"decoder": "discretized_gaussian"}
        learned = model_of(
            "table",
            Path.VP,
            Output.EPS,
            TimeInput.INDEX,
            raw=lambda y, logsnr, v=value: torch.full_like(y, v),
            variance="learned_range",
            **decoder,
        )
        fixed = model_of("table", Path.VP, Output.EPS, TimeInput.INDEX, variance=fixed, **decoder)
        torch.testing.assert_close(nats(learned), nats(fixed), rtol=1e-8, atol=0)


# ---------------------------------------------------------------- the exact networks of known data

MIXTURE = MixtureData([0.3, 0.7], [[-0.6], [0.5]], [0.04, 0.1])


def adapter(schedule, output, time, D=3, **options):
    sigma_data = 0.5 if output is Output.EDM_F else None
    convention = {"schedule": schedule, "predicts": output, "time": time.value, "sigma_data": sigma_data}

    def make(net):
        return nelbo.from_callable(net, domain=nelbo.DataDomain((D,)), **convention, **options)

    return make, convention


ORACLES = {
    **{f"logsnr-{p.value}": nelbo.schedules.logsnr_linear(12.0, -12.0).on(p) for p in Path},
    "flow": nelbo.schedules.flow(),
    "edm": nelbo.schedules.edm(),
    "interpolated": nelbo.schedules.linear().interpolated(),
    "table": nelbo.schedules.linear(50, 1e-3, 0.2),
    "table-ve": TABLE.on("ve"),
}
TABLES = ("table", "table-ve")


@pytest.mark.parametrize(
    ("name", "output"),
    [(n, o) for n, o in itertools.product(ORACLES, Output) if n not in TABLES or o is not Output.VELOCITY],
)
def test_the_oracle_in_every_convention(name, output):
    """−log p(x) of Gaussian data, by a network that was handed to `from_callable` as somebody else's."""
    choices = times(name in ("interpolated", *TABLES))
    time = choices[(list(ORACLES).index(name) + list(Output).index(output)) % len(choices)]
    make, convention = adapter(ORACLES[name], output, time)
    testing.check_adapter(make, **convention)


def test_the_oracle_of_a_mixture():
    make, convention = adapter(nelbo.schedules.flow(), Output.VELOCITY, TimeInput.UNIT, D=1)
    testing.check_adapter(make, **convention, data=MIXTURE)


def test_the_oracle_of_images_with_a_learned_variance():
    """(B, 1, 1, 3) → (B, 2, 1, 3): only x̂ is looked at, where examples are no vectors."""
    schedule = nelbo.schedules.linear(50, 1e-3, 0.2)

    def make(net):
        domain = nelbo.DataDomain((1, 1, 3))
        return nelbo.from_callable(net, schedule=schedule, domain=domain, variance="learned_range")

    testing.check_adapter(make, schedule=schedule, raw_variance=lambda y, logsnr: torch.tanh(y))

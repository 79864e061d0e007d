"""The model as a whole: parts that do not fit are refused, and its fingerprint follows everything it is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

import nelbo
from nelbo.errors import ShapeError, UnknownNameError
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian, NetworkCategorical
from nelbo.model.denoiser import CategoricalDenoiser, NetworkDenoiser
from nelbo.model.diffusion import flops_per_evaluation
from nelbo.model.domain import DataDomain
from nelbo.model.exact import GaussianData, MixtureData
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.schedule import LogSNRLinear
from tests.model import checks
from tests.model.cases import GAUSSIAN, LAW, Tiny, categorical_model, level, network_model
from tests.tables import refusals


def kicked() -> NetworkDenoiser:
    net = Tiny(3)
    with torch.no_grad():
        net.second[2, 1] += 1e-12
    return NetworkDenoiser(net, "eps", "logsnr")


CHANGES = {
    "a weight": {"denoiser": kicked()},
    "output": {"denoiser": NetworkDenoiser(Tiny(3), "v", "logsnr")},
    "time": {"denoiser": NetworkDenoiser(Tiny(3), "eps", "unit")},
    "network": {"denoiser": NetworkDenoiser(lambda z, t: z, "eps", "logsnr")},
    "bins": {"domain": DataDomain((3,), 17)},
    "low": {"domain": DataDomain((3,), 16, 0.0)},
    "schedule": {"schedule": schedules.logsnr_linear(5.0, -6.5)},
    "path": {"schedule": LogSNRLinear(5.0, -6.0, "ve")},
    "grid": {"grid": grid.even(7)},
    "grid ends": {"grid": grid.continuous(0.0, 0.9)},
    "variance": {"reverse": Reverse(Beta())},
    "clip": {"reverse": Reverse(BetaTilde(), Clip(-1, 1))},
    "clip end": {"reverse": Reverse(BetaTilde(), Clip(-1, 2))},
    "decoder": {"decoder": DiscretizedGaussian(0.01)},
    "decoder variance": {"decoder": DiscretizedGaussian(0.02)},
    "decoder table": {"decoder": Categorical(torch.linspace(0, 1, 16, dtype=torch.float64))},
    "decoder table value": {"decoder": Categorical(torch.linspace(0, 1.1, 16, dtype=torch.float64))},
    "prior": {"prior": GaussianPrior(0.0, 1.1)},
    "betas": {"schedule": schedules.from_betas(np.linspace(0.01, 0.2, 20)), "grid": grid.full()},
    "betas, 1e-9 more": {"schedule": schedules.from_betas(np.linspace(0.01, 0.2, 20) + 1e-9), "grid": grid.full()},
    "Gaussian": {"denoiser": GaussianData([0.0] * 3, 1.0).denoiser()},
    "Gaussian mean": {"denoiser": GaussianData([0.1] * 3, 1.0).denoiser()},
    "Gaussian variance": {"denoiser": GaussianData([0.0] * 3, 2.0).denoiser()},
    "mixture": {"denoiser": MixtureData([1, 1.0], [[0.0] * 3, [1.0] * 3], [1.0, 1.0]).denoiser()},
    "mixture weight": {"denoiser": MixtureData([2, 1.0], [[0.0] * 3, [1.0] * 3], [1.0, 1.0]).denoiser()},
}


def test_the_fingerprint_changes_when_anything_changes():
    prints = {name: network_model(**change).fingerprint() for name, change in CHANGES.items()}
    prints["as it is"] = network_model().fingerprint()
    assert len(set(prints.values())) == len(prints), "two models that differ have one fingerprint"
    assert network_model().fingerprint() == prints["as it is"]


def test_neither_precision_nor_provenance_change_the_fingerprint():
    model = network_model()
    assert dataclasses.replace(model, provenance={"note": 1}).fingerprint() == model.fingerprint()
    model.in_precision(torch.float32)
    assert model.denoiser.net.first.dtype == torch.float64  # the original is left alone


def test_precision_is_the_networks_alone():
    """In bf16 the network rounds; the lattice and the Gaussian factor of the categorical head do not."""
    model = categorical_model(bins=256)
    with torch.no_grad():
        model.denoiser.net.second.zero_()
    z, t = model.domain.values(torch.tensor([[3, 100, 255]])) * level(12.0).alpha, level(12.0)
    for dtype in (torch.float32, torch.bfloat16):
        said = model.in_precision(dtype).predict(z, t)
        assert said.x0.dtype == torch.float64
        checks.close(said.x0, model.predict(z, t).x0, 1e-15)


def test_time_inputs():
    seen = []

    def net(z, time):
        seen.append(time)
        return z

    table = schedules.linear(10)
    t = table.at_index(torch.tensor([0, 4, 9]))
    for name in ("index", "unit", "logsnr"):
        NetworkDenoiser(net, "x0", name)(torch.zeros(3, 1).double(), t)
    assert seen[0].dtype == torch.int64 and seen[0].tolist() == [0, 4, 9]
    checks.close(seen[1], [0.1, 0.5, 1.0])
    checks.close(seen[2], t.logsnr, 0)
    law = table.interpolated()
    NetworkDenoiser(net, "x0", "index")(torch.zeros(2, 1).double(), law.at(torch.tensor([0.25, 1.0])))
    checks.close(seen[3], [2.25, 9.0])


def test_steps():
    assert network_model().steps == 6 and len(network_model().levels()) == 7
    ddpm = network_model(
        schedule=schedules.linear(20), grid=grid.full(), decoder=DiscretizedGaussian(0.01),
        denoiser=NetworkDenoiser(Tiny(3), "eps", "index"),
    )  # fmt: skip
    assert ddpm.steps == 20 and len(ddpm.levels()) == 20
    assert network_model(grid=grid.continuous()).steps is None
    assert network_model().parameters == 48


def bad_net(value):
    return NetworkDenoiser(lambda z, t: value, "eps", "unit")


Z, T = torch.zeros(2, 3, dtype=torch.float64), level(0.0, 2)
test_nonsense_is_refused = refusals(
    (lambda: network_model(decoder=ContinuousGaussian()), r"gives a density, but the data domain has 16 bins"),
    (lambda: network_model(domain=DataDomain((3,))), r"gives masses of integer codes"),
    (lambda: network_model(decoder=NetworkCategorical()), r"needs a network with a categorical head"),
    (lambda: network_model(decoder=Categorical(torch.zeros(5))), ShapeError, r"table over codes has shape \(5,\)"),
    (lambda: network_model(grid=grid.full()), r"a full grid was asked of"),
    (lambda: network_model(prior=GaussianData([0.0], [[1.0]]).prior(level(0))), ShapeError, r"a prior over \(1,\)"),
    (lambda: network_model(schedule=schedules.linear(9), grid=grid.continuous()), r"interpolated\(\)"),
    (lambda: network_model().with_grid(grid.full()), r"a full grid"),
    (lambda: NetworkDenoiser(Tiny(3), "noise", "unit"), UnknownNameError, r"unknown network output 'noise'"),
    (lambda: NetworkDenoiser(Tiny(3), "eps", "sigmas"), UnknownNameError, r"unknown time input 'sigmas'\n.*logsnr"),
    (lambda: NetworkDenoiser(Tiny(3), "eps", "index")(Z, T), r"wants a table position"),
    (lambda: bad_net(torch.zeros(2, 6))(Z, T), ShapeError, r"returned shape \(2, 6\) for an input of shape \(2, 3\)"),
    (lambda: bad_net({"sample": Z})(Z, T), ShapeError, r"returned dict where a tensor is expected\nhint: wrap it"),
    (
        lambda: CategoricalDenoiser(lambda z, t: torch.zeros(2, 3, 5), DataDomain((3,), 4))(Z, T),
        ShapeError,
        r"one logit a code: \(2, 3, 4\)",
    ),
)


def test_a_description_names_every_part():
    description = GAUSSIAN.model(LAW, grid.even(4)).describe()
    assert description.keys() >= {"domain", "schedule", "grid", "variance", "clipping", "decoder", "prior"}
    assert description["grid"] == {
        "kind": "even",
        "steps": 4,
        "first": 0,
        "levels": 5,
        "logsnr_first": 5.0,
        "logsnr_last": -6.0,
    }


def test_operations_of_an_evaluation():
    """3 inputs, 8 features, 3 outputs: 2 · (3·8 + 8·3), the same for any grid; the mode of the network is put back."""
    model = network_model()
    model.denoiser.train()
    assert flops_per_evaluation(model) == 2 * (3 * 8 + 8 * 3) and model.denoiser.training

    def conditional(z, t, *, y):
        return Tiny(3)(z, t) * y

    domain, law = DataDomain((3,), 16), schedules.logsnr_linear()
    for net in (conditional, lambda z, t: 0 * z):
        unknown = nelbo.from_callable(
            net, schedule=law, domain=domain, predicts="x0", time="unit", decoder="categorical"
        )
        assert flops_per_evaluation(unknown) is None

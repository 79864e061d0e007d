"""Models that a folder can hold, one at least for every kind of part, and their bound on a few examples."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from nelbo import evaluate
from nelbo.bound.estimators import Stratified
from nelbo.model import folder
from nelbo.model.decoder import Categorical, ContinuousGaussian, DiscretizedGaussian, NetworkCategorical
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.model.fitted.basis import Pixel, Reflections
from nelbo.model.fitted.context import KAPPA, ContextGaussian
from nelbo.model.fitted.neighbours import ENERGIES, mean_features
from nelbo.model.fitted.variance import FittedVariance, HybridVariance
from nelbo.model.latent.clipped import ClippedDecoder
from nelbo.model.latent.likelihood import ScaledGaussian, ScaledLogistic
from nelbo.model.mixture import NetworkMixture
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, Clip, Reverse, Threshold, VarianceTable
from nelbo.process import every_grid as grid
from nelbo.process import schedule
from nelbo.typing import Json
from tests.model.cases import FITTED, IMAGE, NODES

PLANE = GaussianData([0.4, -1.0], [[0.6, 0.25], [0.25, 0.3]])
LINE = MixtureData([0.4, 0.6], [[-1.0], [1.0]], [0.1, 0.2])
CODES = CategoricalData([[0.1, 0.2, 0.6, 0.1], [0.4, 0.1, 0.1, 0.4]])
LAW, TABLE = schedule.logsnr_linear(5.0, -6.0), schedule.linear(9, 0.01, 0.6)
LAST = LAW.at(torch.ones(1))
DISCRETE, PAIR, SINGLE = DataDomain((2,), 4, 0.0, 3.0), DataDomain((2,)), DataDomain((1,))

PICTURE = DataDomain(IMAGE, 4, 0.0, 3.0)
AXES = Reflections.through(torch.tensor([[0.6], [0.8]], dtype=torch.float64))

# Changes to the plain model below; every kind of part that a folder can hold appears.
CASES: dict[str, dict] = {
    "as it is": {},
    "cosine": {"schedule": schedule.cosine(7), "grid": grid.full()},
    "betas": {"schedule": schedule.from_betas([0.1, 0.2, 0.3]), "grid": grid.full(1)},
    "path": {"schedule": schedule.LogSNRLinear(5.0, -6.0, "flow")},
    "flow": {"schedule": schedule.flow(0.01, 0.98), "output": "velocity", "time": "unit"},
    "edm": {"schedule": schedule.edm(0.02, 20.0), "output": "edm_F", "time": "c_noise", "sigma_data": 0.6},
    "learned": {"schedule": schedule.learned(5.0, -6.0, shape=[1.0, 3.0, 0.5])},
    "mixture head": {"head": "mixture", "decoder": NetworkMixture()},
    "mixture beside eps": {"head": "mixture", "output": "eps", "decoder": NetworkMixture()},
    "interpolated": {"schedule": TABLE.interpolated(), "grid": grid.times([0.0, 0.3, 1.0])},
    "continuous": {"grid": grid.continuous(0.1, 0.9)},
    "even on a table": {"schedule": TABLE, "grid": grid.even(4, first=2)},
    "subset": {"schedule": TABLE, "grid": grid.subset([0, 3, 8])},
    "quadratic": {"schedule": TABLE, "grid": grid.quadratic(5)},
    "karras": {"grid": grid.karras(6, rho=5.0)},
    "even in log-SNR": {"grid": grid.logsnr_uniform(6)},
    "where the bound sits": {"grid": grid.Density(4, (4.0, 1.0, -3.0), (0.3, 0.7))},
    "thresholded": {"reverse": Reverse(Beta(), Threshold(0.9, 1.5))},
    "beta, clipped": {"reverse": Reverse(Beta(), Clip(-0.5, 2.5))},
    "variance table": {
        "schedule": TABLE,
        "grid": grid.full(),
        "reverse": Reverse(VarianceTable(torch.linspace(0.01, 0.5, 9))),
    },
    "fitted, one number a level": {"reverse": Reverse(FittedVariance(Pixel(), NODES, NODES[:, None] - 3))},
    "fitted, directions": {"reverse": Reverse(FittedVariance(AXES, NODES, NODES[:, None].expand(3, 2) - 3))},
    "fitted, local, clipped": {"domain": PICTURE, "reverse": Reverse(FITTED["local"], Clip(-2.0, 5.0))},
    "fitted, map": {"domain": PICTURE, "reverse": Reverse(FITTED["map"])},
    "fitted, hybrid": {"domain": PICTURE, "reverse": Reverse(FITTED["hybrid"])},
    "fitted, hybrid, coarse first": {
        "domain": PICTURE,
        "reverse": Reverse(HybridVariance(FITTED["in dct"], FITTED["local"], 0.25)),
    },
    "discretised": {"decoder": DiscretizedGaussian(0.02)},
    "of a scale": {"decoder": ScaledGaussian(torch.tensor([0.2, 0.3]))},
    "logistic": {"domain": PICTURE, "decoder": ScaledLogistic(0.2)},
    "a local scale": {"domain": PICTURE, "decoder": ScaledGaussian(0.2, torch.full((2, 4), 0.1).double())},
    "about a clipped prediction": {"decoder": ClippedDecoder(DiscretizedGaussian(0.02))},
    "code prior": {"decoder": Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log())},
    "code prior a pixel": {"decoder": Categorical(CODES.probabilities.log())},
    "context": {
        "decoder": ContextGaussian(
            torch.zeros(1, mean_features(1)).double().index_fill(1, torch.tensor([0, 14, 20]), 0.3),
            torch.linspace(-0.2, 0.2, ENERGIES).double()[None],
            torch.tensor([-1.0, 0.0]).double(),
            torch.arange(3.0 * (1 + len(KAPPA))).double().reshape(3, -1).sin(),
            torch.tensor([0.1, 0.2, 0.3, 0.4]).double().log(),
        )
    },
    "categorical head": {"head": "categorical", "decoder": NetworkCategorical()},
    "density": {"domain": PAIR, "decoder": ContinuousGaussian()},
    "density, network": {"domain": PAIR, "decoder": ContinuousGaussian(0.3), "prior": GaussianPrior(0.1, 2.0)},
    "exact ends": {"domain": PAIR, "decoder": PLANE.decoder(), "prior": PLANE.prior(LAST)},
    "mixture ends": {"domain": SINGLE, **{k: getattr(LINE.model(LAW, grid.even(4)), k) for k in ("decoder", "prior")}},
    "code mixture": {"prior": dataclasses.replace(CODES.model(LAW, grid.even(4)).prior, low=0.0, high=3.0)},
    "x0, unit time": {"output": "x0", "time": "unit"},
    "eps, index time": {"output": "eps", "time": "index", "schedule": TABLE, "grid": grid.full()},
    "provenance": {"provenance": {"seed": 3, "text": "α ≤ β", "list": [1, None]}, "trained_on": torch.arange(5)},
}


def make(name: str, seed: int = 0, **settings) -> DiffusionModel:
    changes = dict(CASES[name])
    domain = changes.pop("domain", DISCRETE)
    head = changes.pop("head", None)
    said = {"output": changes.pop("output", "v")} if head is None or "output" in changes else {}
    own = {"outputs": 8 + len(said)} if head == "mixture" else {}
    recipe = {"name": "mlp", "settings": {"width": 8, "embedding": 4, "blocks": 1, **own, **settings}}
    config = {
        "kind": head or "network",
        **({"components": 2} if head == "mixture" else {}),
        **said,
        "time": changes.pop("time", "logsnr"),
        **({"sigma_data": changes.pop("sigma_data")} if "sigma_data" in changes else {}),
        "net": {**recipe, "logsnr_max": 5.0, "logsnr_min": -6.0},
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        denoiser = folder.make_denoiser(config, domain).eval()
        for p in denoiser.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    parts = {
        "domain": domain,
        "schedule": LAW,
        "grid": grid.even(4),
        "denoiser": denoiser,
        "reverse": Reverse(BetaTilde()),
        "decoder": Categorical(),
        "prior": GaussianPrior(),
    }
    return DiffusionModel(**{**parts, **changes})


def rewrite(path: Path, description: Json) -> None:
    """Write model.json with the digest of its entries, as somebody does who wants to be believed."""
    if "digest" in description:
        description = {**description, "digest": folder.digest(description)}
    path.write_text(json.dumps(description))


def data_for(model: DiffusionModel) -> torch.Tensor:
    D, shape = model.domain.dimensions, (3, *model.domain.shape)
    return (torch.arange(3 * D) % 4 if model.domain.discrete else torch.linspace(-1, 1, 3 * D)).reshape(shape)


def nats(model: DiffusionModel) -> torch.Tensor:
    bound = evaluate(model, data_for(model), estimator=Stratified(3, 2), per_example=True)
    assert bound.per_example is not None
    return bound.per_example.nats

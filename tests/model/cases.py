"""One example of every kind of part on floor 2, and the domains they live on. A new kind is added here."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.model.decoder import (
    Categorical,
    DiscretizedGaussian,
    MassDecoder,
    NetworkCategorical,
)
from nelbo.model.denoiser import CategoricalDenoiser, NetworkDenoiser
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.domain import DataDomain
from nelbo.model.exact import CategoricalData, GaussianData, MixtureData
from nelbo.model.fitted.basis import Basis, Cosine, Pixel, Reflections
from nelbo.model.fitted.local import FEATURES, LocalVariance
from nelbo.model.fitted.pixel_map import SURROUNDINGS, MapVariance
from nelbo.model.fitted.variance import CalibratedVariance, Fitted, FittedVariance, HybridVariance
from nelbo.model.mixture import NetworkMixture
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import (
    BetaTilde,
    Reverse,
)
from nelbo.process import grid
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels, Path
from nelbo.process.mixture import Mixture
from nelbo.process.prediction import Prediction

GAUSSIAN = GaussianData([0.5, -1.0, 0.2], [[2.0, 0.6, 0.1], [0.6, 0.7, -0.2], [0.1, -0.2, 0.3]])
GAUSSIAN_1 = GaussianData([0.4], [[0.8]])
MIXTURE = MixtureData([0.3, 0.7], [[1.0, 0.0], [-0.5, 0.4]], [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.5]]])
MIXTURE_1 = MixtureData([0.25, 0.35, 0.4], [[-1.0], [0.1], [0.9]], [0.02, 0.05, 0.1])
CODES_1 = CategoricalData([[0.1, 0.2, 0.6, 0.1]])
LAW = schedules.logsnr_linear(5.0, -6.0)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turned(n: int, seed: int = 0) -> torch.Tensor:
    """An orthonormal matrix."""
    return torch.linalg.qr(_random(n, n, seed=seed))[0]


COLOURS = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
NODES = torch.tensor([4.0, 0.5, -5.0], dtype=torch.float64)
IMAGE = (2, 6, 7)
"""The shape of the images that the fitted variances below are for; 4 divides neither side."""
BASES: dict[str, Basis] = {
    "pixel": Pixel(),
    "dct": Cosine(COLOURS),
    "block": Cosine(COLOURS, 4),
    "reflections": Reflections.through(turned(84)[:, :5]),
}
_TABLE = _random(3, *IMAGE) - 2
_LOCAL = LocalVariance(
    Cosine(COLOURS.mT, 4),
    NODES,
    0.2 * _random(3, 2, 4, 4, 1 + 2 * FEATURES),
    _random(3, 2, 4, 4, FEATURES, seed=1),
    1 + _random(3, 2, 4, 4, FEATURES, seed=2).square(),
    torch.tensor([0.05, 0.1, 0.4], dtype=torch.float64),
    1e-4,
)
_MAP = MapVariance(
    NODES,
    0.2 * _random(3, 2, 1 + 2 * SURROUNDINGS, seed=3),
    _random(3, 2, SURROUNDINGS, seed=4),
    1 + _random(3, 2, SURROUNDINGS, seed=5).square(),
    torch.tensor([0.05, 0.1, 0.4], dtype=torch.float64),
    1e-4,
    -1.0,
    2.0,
)
FITTED: dict[str, Fitted] = {
    "one a level": FittedVariance(Pixel(), NODES, _TABLE[:, :1, :1, :1]),
    "one a channel": FittedVariance(Pixel(), NODES, _TABLE[:, :, :1, :1]),
    **{f"in {name}": FittedVariance(basis, NODES, _TABLE) for name, basis in BASES.items()},
    "local": _LOCAL,
    "map": _MAP,
    "hybrid": HybridVariance(_LOCAL, FittedVariance(BASES["dct"], NODES, _TABLE), 0.25),
}
CALIBRATED = CalibratedVariance(NODES, _TABLE[:, :1, :1, :1], torch.ones(3, 1, 1, 1).double(), torch.ones(3).double())


def level(logsnr: float, batch: int = 1, path: Path = Path.VP) -> Levels:
    """One level for a batch."""
    return Levels(torch.full((batch,), 0.5, dtype=torch.float64), torch.full((batch,), float(logsnr)).double(), path)


def mass_decoder_at(
    name: str, bins: int, width: float
) -> tuple[MassDecoder, DataDomain, torch.Tensor, Levels, Prediction]:
    """A decoder of codes with everything that it is asked with: `width` is its spread in bins; z is (B, 1)."""
    domain = DataDomain((1,), bins)
    bin_width = 2 / (bins - 1)
    x0 = torch.tensor(
        [[-1.0], [-0.3123], [0.0], [0.77], [1.0], [1.4], [-3.0], [bin_width / 2 - 1]], dtype=torch.float64
    )
    rng = np.random.default_rng(bins)
    log_probs = torch.from_numpy(rng.normal(size=(len(x0), 1, bins)) * 5).log_softmax(-1)
    t = level(-2 * np.log(width * bin_width), len(x0), Path.VE)  # σ of the level = width bins
    if name == "discretized_gaussian":
        decoder: MassDecoder = DiscretizedGaussian((width * bin_width) ** 2)
    elif name == "categorical":
        decoder = Categorical()
    elif name == "categorical-prior":
        decoder = Categorical(torch.from_numpy(rng.normal(size=bins) * 3).log_softmax(-1))
    elif name == "network_mixture":
        decoder = NetworkMixture(reach=3.0, uniform=1e-3)
    else:
        decoder = NetworkCategorical()
    return decoder, domain, x0, t, Prediction(x0, log_probs, mixture=mixture_at(len(x0)))


def mixture_at(batch: int) -> Mixture:
    """A belief of two Gaussians and the two end points, the same of every example's one pixel."""
    rows = torch.tensor(
        [[0.2, 0.3, 0.4, 0.1], [-0.5, 0.4, -1.0, 1.0], [0.3**2, 0.02**2, 0.0, 0.0]], dtype=torch.float64
    )
    weight, mean, variance = (r.reshape(1, 4, 1).expand(batch, 4, 1) for r in rows)
    return Mixture(weight.log(), mean, variance)


class Tiny(torch.nn.Module):
    """A random smooth network: (B, D) and time (B,) → (B, D) or (B, D, K). `kick` shifts all weights."""

    def __init__(self, D: int, outputs: int = 1, seed: int = 0, scale: float = 0.5):
        super().__init__()
        make = torch.Generator().manual_seed(seed)
        self.first = torch.nn.Parameter(scale * torch.randn(D, 8, generator=make, dtype=torch.float64))
        self.second = torch.nn.Parameter(scale * torch.randn(8, D * outputs, generator=make, dtype=torch.float64))
        self.outputs = outputs

    def forward(self, z: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(z.flatten(1) @ self.first + 0.1 * time[:, None])
        value = h @ self.second
        return value.reshape(z.shape if self.outputs == 1 else (*z.shape, self.outputs))


def network_model(**changes) -> DiffusionModel:
    """A complete model of codes with a tiny ε-network."""
    parts = {
        "domain": DataDomain((3,), 16),
        "schedule": LAW,
        "grid": grid.even(6),
        "denoiser": NetworkDenoiser(Tiny(3), "eps", "logsnr"),
        "reverse": Reverse(BetaTilde()),
        "decoder": Categorical(),
        "prior": GaussianPrior(),
    }
    return DiffusionModel(**{**parts, **changes})


def categorical_model(bins: int = 4, **changes) -> DiffusionModel:
    """The same with a categorical head that is its own decoder."""
    domain = DataDomain((3,), bins)
    head = CategoricalDenoiser(Tiny(3, bins), domain)
    return network_model(**{"domain": domain, "denoiser": head, "decoder": NetworkCategorical(), **changes})

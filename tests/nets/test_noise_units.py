"""Features in units of the noise, and the gate for pixels at the ends of the range."""

from __future__ import annotations

import math

import pytest
import torch

from nelbo.errors import UsageError
from nelbo.model.examples import Examples
from nelbo.nets import build
from nelbo.nets.noise_units import EndGate, NoiseUnits
from nelbo.process.levels import Levels, Path
from nelbo.process.mixture import Mixture
from nelbo.training.build import build_model
from nelbo.training.settings import check_config

LOGSNR = torch.tensor([9.0, 2.0, -3.0], dtype=torch.float64)
LEVELS = Levels(torch.zeros(3, dtype=torch.float64), LOGSNR, Path.VP)
SHAPE = (2, 4, 6)


def noisy(seed: int = 0) -> torch.Tensor:
    """z at LOGSNR of images whose pixels lie at −1, at 1, or between."""
    generator = torch.Generator().manual_seed(seed)
    x = (2 * torch.randn(len(LOGSNR), *SHAPE, generator=generator, dtype=torch.float64)).clamp(-1, 1)
    t = LEVELS
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return t.alpha[:, None, None, None] * x + t.sigma[:, None, None, None] * eps


def test_features_are_their_formula():
    z, t = noisy(), LEVELS
    units = NoiseUnits((-1.0, 0.5))
    features = units(z, LOGSNR).reshape(3, units.maps, *SHAPE)
    for b in range(3):
        alpha, sigma = float(t.alpha[b]), float(t.sigma[b])
        for c, i, j in ((0, 0, 0), (1, 2, 3), (1, 3, 5)):
            here = float(z[b, c, i, j])
            neighbours = [(i, max(j - 1, 0)), (i, min(j + 1, 5)), (max(i - 1, 0), j), (min(i + 1, 3), j)]
            expected = [math.tanh((here - alpha * v) / (2 * sigma)) for v in (-1.0, 0.5)]
            expected += [math.tanh((here - float(z[b, c, k, m])) / (3 * sigma)) for k, m in neighbours]
            assert features[b, :, c, i, j].tolist() == pytest.approx(expected, abs=1e-9)


def test_features_in_bf16_are_made_in_float32():
    """1/σ of λ = 13 in bf16 would be off by many times the feature."""
    z = noisy().bfloat16()
    logsnr = torch.full((3,), 13.0)
    exact = NoiseUnits((-1.0, 1.0))(z.double(), logsnr.double())
    assert float((NoiseUnits((-1.0, 1.0))(z, logsnr).double() - exact).abs().max()) < 1e-2


def test_gate_is_the_posterior_mean():
    """With the true masses and the answer for what lies between, the gate says E[ε | z] of a prior with points."""
    z, t = noisy(), LEVELS
    alpha, sigma = (v[:, None, None, None] for v in (t.alpha, t.sigma))
    weight, spread = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64), 0.4
    shape = (3, 3, *SHAPE)
    means = torch.tensor([-1.0, 1.0, 0.1], dtype=torch.float64)
    variances = torch.tensor([0.0, 0.0, spread**2], dtype=torch.float64)
    whole, between = (
        Mixture(*(v[k].reshape(1, -1, 1, 1, 1).expand(3, len(v[k]), *SHAPE) for v in (w.log(), means, variances)))
        for w, k in ((weight, [0, 1, 2]), (torch.ones(3, dtype=torch.float64), [2]))
    )
    assert whole.mean.shape == shape
    eps, of_rest = ((z - alpha * m.posterior_mean(z, t)) / sigma for m in (whole, between))
    V = alpha.square() * spread**2 + sigma.square()
    density = torch.exp(-0.5 * (z - alpha * 0.1).square() / V) / (2 * math.pi * V).sqrt()
    a = torch.cat([(w / (0.5 * math.sqrt(2 * math.pi) * density)).log() for w in weight[:2]], 1)
    torch.testing.assert_close(EndGate((-1.0, 1.0))(of_rest, a, z, LOGSNR), eps, rtol=1e-9, atol=1e-9)
    assert float((of_rest - eps).abs().max()) > 1, "the points matter here"


@pytest.mark.parametrize("shape", [(8, 8), (3, 6, 4)], ids=str)
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_gated_network(shape, patch, outputs):
    """The first output is gated and the others are not; at the start ê = 0 and a = 0."""
    settings = {"width": 8, "multipliers": [1, 2], "patch": patch, "end_gate": True, "noise_units": True}
    net = build(
        "unet", {**settings, "outputs": outputs, "shuffle": True}, shape=shape, codes=None, logsnr_max=9, logsnr_min=-7
    ).double()
    z, logsnr = torch.randn(3, *shape, dtype=torch.float64), LOGSNR
    out = net(z, logsnr)
    n = shape[0]
    assert out.shape == (3, outputs * n, *shape[1:]) and not out[:, n:].any()
    image = z.reshape(3, -1, *shape[-2:])
    zero = torch.zeros_like(image)
    start = EndGate((-1.0, 1.0))(zero, torch.cat([zero, zero], 1), image, logsnr).reshape(z.shape)
    torch.testing.assert_close(out[:, :n], start, rtol=1e-9, atol=1e-9)


def test_the_ends_are_the_datas():
    data = Examples(torch.randint(0, 256, (6, 8, 8), dtype=torch.uint8), "bytes", bins=256)
    model = build_model(data, check_config({"net": {"name": "unet", "head": "plain", "predicts": "eps", "patch": 1,
                                                    "noise_units": True, "end_gate": True}}))  # fmt: skip
    assert model.denoiser.net.units.ends == (-1.0, 1.0) == model.denoiser.net.gate.gate.ends


def test_refusals():
    data = Examples(torch.randint(0, 256, (6, 8, 8), dtype=torch.uint8), "bytes", bins=256)
    with pytest.raises(UsageError, match=r"net\.end_gate for a plain head that predicts 'v'") as caught:
        build_model(data, check_config({"net": {"name": "unet", "head": "plain", "predicts": "v", "end_gate": True}}))
    assert "net.predicts=eps" in caught.value.hint
    with pytest.raises(UsageError, match="an end gate is for a network that predicts eps"):
        build("unet", {"end_gate": True}, shape=(8, 8), codes=5, logsnr_max=9, logsnr_min=-7)
    with pytest.raises(UsageError, match="was given a step and not the log-SNR"):
        NoiseUnits((-1.0, 1.0))(noisy(), torch.tensor([3, 2, 1]))


def test_labels_do_not_stand_for_levels():
    """A labelled network begins as the one without labels, whatever the labels: its units are those of λ."""
    settings = {"width": 8, "multipliers": [1], "patch": 1, "end_gate": True, "noise_units": True}
    ends = {"shape": (1, 8, 8), "codes": None, "logsnr_max": 9, "logsnr_min": -7}
    labelled_net = build("unet", {**settings, "classes": 3}, **ends).double()
    plain = build("unet", settings, **ends).double()
    own = {k.replace("embedding.embedding.", "embedding."): v for k, v in labelled_net.net.state_dict().items()}
    plain.load_state_dict({k: v for k, v in own.items() if k != "embedding.table.weight"})
    z = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    labelled = labelled_net(z, LOGSNR, y=torch.tensor([2, 0, 1]))
    torch.testing.assert_close(labelled, plain(z, LOGSNR), rtol=1e-12, atol=1e-12)

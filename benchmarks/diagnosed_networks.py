"""Small networks on 8×8 digits, one for each convention, and an exact one on colours, for benchmarks/diagnose.py.

`right(name)` is a network with everything that is true of it: how it is called, and the arguments of its declaration.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import nelbo
from nelbo import testing
from nelbo.data import read

T = 100
SIGMA_DATA = 0.75
KEPT = Path(__file__).parents[1] / "build" / "diagnosed"
"""Weights of networks that are trained already, by the digest of this file."""
DIGITS = nelbo.DataDomain((1, 8, 8), bins=17)
SCHEDULES = {
    "ddpm": nelbo.schedules.linear(T, 1e-3, 0.2),  # DDPM's, scaled to 100 steps
    "vdm": nelbo.schedules.logsnr_linear(6.0, -6.0),
    "flow": nelbo.schedules.flow(0.03, 0.999),
    "edm": nelbo.schedules.edm(0.03, 80.0),
}


@dataclass(frozen=True)
class Network:
    """fn(z, time, **condition), the arguments that are true of it, test data and the rows of its condition."""

    fn: Callable[..., Tensor]
    declared: dict[str, Any]
    data: Tensor
    condition: dict[str, Tensor] | None = None

    def model(self, fn: Callable[..., Tensor] | None = None, **otherwise: Any) -> nelbo.DiffusionModel:
        """The model, with another function or other arguments."""
        return nelbo.from_callable(fn or self.fn, **{**self.declared, **otherwise})


class Net(nn.Module):
    """z (B, 1, 8, 8), the time as a number (B,), class y (B,) or None → (B, 1, 8, 8)."""

    def __init__(self, classes: int = 0, width: int = 192):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes, width) if classes else None
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(width, width)) for _ in range(3))
        self.out = nn.Linear(width, 64)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        waves = t[:, None] * 2.0 ** torch.arange(-2, 6)
        e = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        if self.classes is not None and y is not None:
            e = e + self.classes(y)
        h = self.first(z.flatten(1))
        for block in self.blocks:
            h = h + block(h + e)
        return self.out(nn.functional.silu(h)).reshape(len(z), 1, 8, 8)


def trained(name: str, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], steps: int = 800) -> nn.Module:
    """`net` after so many steps on loss(x, y), x in [−1, 1]; its weights are kept in `KEPT` for the next time."""
    kept = KEPT / f"{name}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}.safetensors"
    if kept.exists():
        load_model(net, kept)
        return net.eval()
    digits = read("digits:train")
    x, y = digits.data.float()[:, None] / 8 - 1, digits.labels
    assert y is not None
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        optimizer.zero_grad()
        loss(x[rows], y[rows]).backward()
        optimizer.step()
        rates.step()
    KEPT.mkdir(parents=True, exist_ok=True)
    save_model(net, str(kept))
    return net.eval()


def _column(v: Tensor) -> Tensor:
    return v[:, None, None, None].float()


def _noised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z, ε and the index of a random step of DDPM."""
    i, eps = torch.randint(T, (len(x),)), torch.randn_like(x)
    level = SCHEDULES["ddpm"].at_index(i)
    return _column(level.alpha) * x + _column(level.sigma) * eps, eps, i


@functools.cache
def right(name: str) -> Network:
    """The network called `name`; trained on its first use, in seconds."""
    test = read("digits:test")
    data = test.data.long()[:, None]
    torch.manual_seed(0)
    if name == "colour":
        return _colour()
    if name in ("ddpm", "labels"):
        net = Net(classes=10 if name == "labels" else 0)

        def of_noise(x: Tensor, y: Tensor) -> Tensor:
            z, eps, i = _noised(x)
            return (net(z, i / 10, y) - eps).square().mean()

        trained(name, net, of_noise)
        declared = {"schedule": SCHEDULES["ddpm"], "domain": DIGITS, "predicts": "eps", "time": "index"}
        if name == "ddpm":
            return Network(lambda z, i: net(z, i / 10), declared, data)
        assert test.labels is not None
        return Network(lambda z, i, y: net(z, i / 10, y), declared, data, {"y": test.labels})
    net = Net()
    if name == "vdm":

        def of_v(x: Tensor, y: Tensor) -> Tensor:
            logsnr, eps = 12 * torch.rand(len(x)) - 6, torch.randn_like(x)
            alpha, sigma = _column(logsnr.sigmoid().sqrt()), _column((-logsnr).sigmoid().sqrt())
            return (net(alpha * x + sigma * eps, logsnr) - alpha * eps + sigma * x).square().mean()

        trained(name, net, of_v)
        return Network(net, {"schedule": SCHEDULES["vdm"], "domain": DIGITS, "predicts": "v", "time": "logsnr"}, data)
    if name == "flow":

        def of_velocity(x: Tensor, y: Tensor) -> Tensor:
            t, eps = torch.rand(len(x)), torch.randn_like(x)
            s = _column(t)
            return (net((1 - s) * x + s * eps, 10 * t) - (eps - x)).square().mean()

        trained(name, net, of_velocity)
        declared = {"schedule": SCHEDULES["flow"], "domain": DIGITS, "predicts": "velocity", "time": "unit"}
        return Network(lambda z, t: net(z, 10 * t), declared, data)

    def of_edm(x: Tensor, y: Tensor) -> Tensor:
        sigma = (torch.randn(len(x), 1, 1, 1) * 1.4 - 1.0).exp()
        noisy, total = x + sigma * torch.randn_like(x), sigma**2 + SIGMA_DATA**2
        F = net(noisy / total.sqrt(), sigma.flatten().log())
        D = SIGMA_DATA**2 / total * noisy + sigma * SIGMA_DATA / total.sqrt() * F
        return ((D - x).square() * total / (sigma * SIGMA_DATA) ** 2).mean()

    trained(name, net, of_edm)
    declared = {"schedule": SCHEDULES["edm"], "domain": DIGITS, "predicts": "edm_F", "time": "c_noise"}
    return Network(lambda z, c: net(z, 4 * c), {**declared, "sigma_data": SIGMA_DATA}, data)


def _colour() -> Network:
    """Exact: 3 × 6 × 6 Gaussian colours, each channel with a mean and a smoothness of its own."""
    place = torch.arange(6.0)
    near = (-(place[:, None] - place).square() / 4).exp().double()
    rows = (-(place[:, None] - place).square() / 12).exp().double()
    colours = torch.tensor([[1.0, 0.7, 0.3], [0.7, 0.8, 0.5], [0.3, 0.5, 0.6]], dtype=torch.float64)
    covariance = 0.06 * torch.kron(colours, torch.kron(near, rows)) + 1e-3 * torch.eye(108, dtype=torch.float64)
    mean = torch.tensor([0.4, 0.0, -0.35]).repeat_interleave(36)
    law = nelbo.exact.GaussianData(mean, covariance)
    domain = nelbo.DataDomain((3, 6, 6), bins=256)
    fn = testing.as_network(testing.oracle(law), SCHEDULES["ddpm"], "eps", "index")
    declared = {"schedule": SCHEDULES["ddpm"], "domain": domain, "predicts": "eps", "time": "index"}
    return Network(fn, declared, domain.codes(law.sample(300).reshape(-1, 3, 6, 6)))


@functools.cache
def unet() -> tuple[Any, Tensor]:
    """diffusers' U-Net, trained to predict v on a cosine table of 100 steps with diffusers alone; and the test data."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    scheduler = DDPMScheduler(T, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip

    def loss(x: Tensor, y: Tensor) -> Tensor:
        eps, t = torch.randn_like(x), torch.randint(T, (len(x),))
        v = scheduler.get_velocity(x, eps, t)
        return (net(scheduler.add_noise(x, eps, t), t).sample - v).square().mean()

    return trained("unet", net, loss, 300), read("digits:test").data.long()[:, None]


def of_unet(predicts: str = "v_prediction", betas: str = "squaredcos_cap_v2", bins: int = 17, **otherwise: Any) -> Any:
    """The model of the U-Net by a scheduler with this configuration."""
    from diffusers import DDPMScheduler

    options = {key: otherwise.pop(key) for key in ("beta_start", "beta_end", "clip_sample") if key in otherwise}
    scheduler = DDPMScheduler(T, beta_schedule=betas, prediction_type=predicts, **options)
    return nelbo.from_diffusers((unet()[0], scheduler), bins=bins, **otherwise)

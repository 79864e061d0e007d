"""A network that knows nothing of nelbo: ε-prediction, integer steps, its own U-shaped convolutions and training loop.

It stands for the networks that people bring: `model(path)` wraps it by `nelbo.from_callable` and nothing else.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

T = 1000


class EpsNet(nn.Module):
    """ε̂(x_t, t) for images (B, C, H, W), t (B,) int64 in 0..999; about 1.1 M parameters at width 48."""

    def __init__(self, channels: int = 1, width: int = 48):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 4 * width))
        self.inp = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.down = nn.Conv2d(width, 4 * width, 4, stride=2, padding=1)
        self.mid = nn.ModuleList(nn.Conv2d(4 * width, 4 * width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, 4 * width) for _ in range(2))
        self.up = nn.ConvTranspose2d(4 * width, width, 4, stride=2, padding=1)
        self.out = nn.ConvTranspose2d(2 * width, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * torch.exp(-math.log(10000) / 32 * torch.arange(32))
        e = self.time(torch.cat([angle.sin(), angle.cos()], 1))[:, :, None, None]
        a = F.gelu(self.inp(x))
        h = self.down(a)
        for conv, norm in zip(self.mid, self.norms, strict=True):
            h = h + conv(F.gelu(norm(h) + e))
        return self.out(torch.cat([F.gelu(self.up(h)), a], 1))


def train(images: Tensor, steps: int, seed: int = 0) -> EpsNet:
    """Plain DDPM training (Ho et al. 2020, algorithm 1) on images (N, C, H, W) of codes 0..255, linear betas."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = EpsNet(images.shape[1])
    average = {k: v.clone() for k, v in net.state_dict().items()}
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), 0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 200) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        x = images[torch.randint(len(images), (64,), generator=generator)].float() / 127.5 - 1
        t = torch.randint(T, (64,), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        a = alpha_bar[t][:, None, None, None]
        loss = (net(a.sqrt() * x + (1 - a).sqrt() * eps, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 1 - min(0.999, step / (step + 20)))
        if step % 250 == 0:
            print(f"foreign network: step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    net.load_state_dict(average)
    return net


def model(path: Path, images: Tensor, steps: int):
    """The network in `path` (trained on `images` and kept there the first time) as a nelbo model."""
    import nelbo

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train(images, steps).state_dict(), path)
    net = EpsNet(images.shape[1])
    net.load_state_dict(torch.load(path, weights_only=True))
    domain = nelbo.DataDomain(tuple(images.shape[1:]), bins=256)
    return nelbo.from_callable(net, schedule=nelbo.schedules.linear(T), domain=domain, predicts="eps", time="index")

"""The small network and the training loop that all examples share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nelbo.data import read


class Net(nn.Module):
    """z (B, 1, 8, 8), the time as a number (B,), class y (B,) or None → (B, outputs, 8, 8)."""

    def __init__(self, outputs: int = 1, classes: int = 0, width: int = 192):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes, width) if classes else None
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(width, width)) for _ in range(3))
        self.out = nn.Linear(width, 64 * outputs)
        nn.init.zeros_(self.out.weight)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        waves = t[:, None] * 2.0 ** torch.arange(-2, 6, device=t.device)
        e = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        if self.classes is not None and y is not None:
            e = e + self.classes(y)
        h = self.first(z.flatten(1))
        for block in self.blocks:
            h = h + block(h + e)
        return self.out(nn.functional.silu(h)).reshape(len(z), -1, 8, 8)


def train(net: Net, loss: Callable[[Tensor, Tensor], Tensor], low: float, high: float, steps: int = 300) -> Net:
    """Minimise loss(x, y) over the training digits, x in [low, high] (B, 1, 8, 8), y their classes (B,)."""
    digits = read("digits:train")
    x = low + (high - low) * digits.data.float()[:, None] / 16
    assert digits.labels is not None
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,))
        optimizer.zero_grad()
        loss(x[rows], digits.labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()

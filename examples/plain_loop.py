"""Somebody else's U-Net in a plain loop: monitored, evaluated, tightened, sampled from, compressed with and reported.

The network and the noise schedule are diffusers', the loss is the usual one for ε, and nelbo takes no part in the
training but to read the bound of held-out digits at the same draws each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel

import nelbo
from nelbo import report
from nelbo.data import read

digits, held_out = (read(f"digits:{part}").data[:, None] for part in ("train", "test"))
blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
network, scheduler = UNet2DModel(8, 1, 1, block_out_channels=(32, 64), **blocks), DDPMScheduler(200)
model = nelbo.from_diffusers((network, scheduler), bins=17)

monitor = nelbo.Monitor(model, held_out, budget=256, patience=3)
optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
for step in range(1, 201):
    x = digits[torch.randint(len(digits), (64,))].float() / 8 - 1
    t, eps = torch.randint(200, (64,)), torch.randn_like(x)
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(network(scheduler.add_noise(x, eps, t), t).sample, eps).backward()
    optimizer.step()
    if step % 50 == 0:
        print(monitor.update(step))
    if monitor.should_stop:
        break

bound = nelbo.evaluate(model, "digits:test", tolerance=0.03)
print(bound)
tight, certificate = nelbo.tighten(model, held_out, steps=10)
print(certificate)

out = Path(tempfile.mkdtemp())
packed = nelbo.codec.compress(tight, held_out[:40], out / "digits.nelbo", few=True)
print(packed)
np.savez(out / "pictures.npz", samples=nelbo.sample(tight, 16)[:, 0], data=held_out[:16, 0])
bound.save(out / "bound.json"), certificate.save(out / "certificate.json")
print(report.write(out, out / "report.html"))

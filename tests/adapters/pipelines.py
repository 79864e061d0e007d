"""Tiny UNet2DModel pipelines, trained by a plain loop on the digits and written by diffusers' own `save_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nelbo.data import read

KINDS: dict[str, dict[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon", "variance_type": "fixed_small"},
    "sample": {"prediction_type": "sample", "variance_type": "fixed_large", "clip_sample": False},
    "v_prediction": {"prediction_type": "v_prediction", "variance_type": "fixed_small", "clip_sample": False},
    "learned_range": {"prediction_type": "epsilon", "variance_type": "learned_range", "clip_sample": False},
}
TABLE = {"num_train_timesteps": 40, "beta_start": 2e-3, "beta_end": 0.25}
BINS = 17


def unet(channels: int = 1, out_channels: int | None = None, size: int = 8, **settings: Any) -> Any:
    """A UNet2DModel of two scales."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=out_channels or channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        **settings,
    )


def tiny(channels: int = 1, out_channels: int | None = None, **settings: Any) -> Any:
    """A UNet2DModel of one scale, 8×8, where its size does not matter."""
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (4,)}
    shape = {"sample_size": 8, "in_channels": channels, "out_channels": out_channels or channels}
    plain = {"layers_per_block": 1, "norm_num_groups": 2, "add_attention": False}
    return UNet2DModel(**{**shape, **blocks, **plain, **settings})


def digits(part: str) -> torch.Tensor:
    """Codes 0..16, (N, 1, 8, 8) int64: the first 1437 of the digits for training, 360 for tests."""
    codes = read("digits").data.long()[:, None]
    return codes[:1437] if part == "train" else codes[1437:]


def pipeline(folder: Path, kind: str, steps: int, table: dict[str, Any] | None = None) -> Path:
    """Train `steps` steps of L_simple (with a variance half: of its KL too) and save the DDPMPipeline in `folder`."""
    from diffusers import DDPMPipeline, DDPMScheduler

    torch.manual_seed(0)
    scheduler = DDPMScheduler(**(table or TABLE), **KINDS[kind])
    net = unet(out_channels=2 if kind == "learned_range" else 1)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    data = digits("train") / 8.0 - 1
    log_low, log_high = _log_ends(scheduler)
    for _ in range(steps):
        x = data[torch.randint(len(data), (48,))]
        eps, i = torch.randn_like(x), torch.randint(len(scheduler), (48,))
        z = scheduler.add_noise(x, eps, i)
        out = net(z, i).sample
        target = {"sample": x, "v_prediction": scheduler.get_velocity(x, eps, i)}.get(kind, eps)
        loss = (out[:, :1] - target).square().mean()
        if kind == "learned_range":
            low, high = (v[i][:, None, None, None] for v in (log_low, log_high))
            log_v = low + 0.5 * (out[:, 1:] + 1) * (high - low)
            # a KL in which the error of the mean has about its true weight, so that the variance learns to be wider
            error = (out[:, :1].detach() - eps).square() * (high.exp() - low.exp()).clamp(min=1e-6) / low.exp()
            loss = loss + 0.05 * (log_v - low + (1 + error) * (low - log_v).exp()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    DDPMPipeline(net.eval(), scheduler).save_pretrained(folder)
    return folder


def _log_ends(scheduler: Any) -> tuple[torch.Tensor, torch.Tensor]:
    beta, ab = scheduler.betas, scheduler.alphas_cumprod
    small = beta[1:] * (1 - ab[:-1]) / (1 - ab[1:])
    return torch.cat([small[:1], small]).log(), beta.log()

"""The training script of diffusers' users, with accelerate and averaged weights, and the bound of these as its curve.

    python examples/diffusers_script.py                                     one process
    accelerate launch --num-processes 2 examples/diffusers_script.py        two, which share every reading

A validation loss would be noise from one reading to the next; the monitor has the same draws each time. Between two
steps the averaged weights lie in the network for a moment, as they do where such a script draws pictures.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

import nelbo
from nelbo.data import read


def main(steps: int, every: int, out: str | None) -> nelbo.Monitor:
    accelerator = Accelerator()
    torch.manual_seed(accelerator.process_index)
    digits, held_out = (read(f"digits:{part}").data[:, None] for part in ("train", "test"))
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    unet, noise_scheduler = UNet2DModel(8, 1, 1, block_out_channels=(32, 64), **blocks), DDPMScheduler(200)
    ema = EMAModel(unet.parameters(), decay=0.99)
    monitor = nelbo.Monitor(
        nelbo.from_diffusers((unet, noise_scheduler), bins=17), held_out, budget=256, out=out, patience=5,
        workers=nelbo.runtime.workers(signals=False),
    )  # fmt: skip

    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, steps)
    images = torch.utils.data.TensorDataset(digits.float() / 8 - 1)
    loader = torch.utils.data.DataLoader(images, batch_size=32, shuffle=True)
    network, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)

    step = 0
    while step < steps and not monitor.should_stop:
        for (clean,) in loader:
            noise, t = torch.randn_like(clean), torch.randint(200, (len(clean),), device=clean.device)
            predicted = network(noise_scheduler.add_noise(clean, noise, t), t).sample
            accelerator.backward(torch.nn.functional.mse_loss(predicted, noise))
            accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            ema.step(unet.parameters())
            step += 1
            if step % every == 0:
                ema.store(unet.parameters()), ema.copy_to(unet.parameters())
                accelerator.print(monitor.update(step))
                ema.restore(unet.parameters())
            if step == steps or monitor.should_stop:
                break
    accelerator.end_training()
    return monitor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--out", metavar="FILE.jsonl")
    given = parser.parse_args()
    main(given.steps, given.every, given.out)

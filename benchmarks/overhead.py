"""What `nelbo.evaluate` costs beside its network: whole evaluations against bare forward passes, in one run.

    .venv/bin/python benchmarks/overhead.py [--quick] [--reps 5] [--images 1000] [--only unet16 diffusers32 …]

For every network and mode, `evaluate` and the bare network take turns; the bare network gets as many inputs in batches
of the same sizes. Also timed, in the evaluation itself: the calls of the network and the keyed noise, so that what is
left is nelbo's own arithmetic, planning, fits, hashes and bookkeeping. Processor time; the ratio of wall times beside
it. Weights are random: what a network costs does not depend on them. One thread.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Exhaustive
from nelbo.maths import random
from nelbo.nets.build import build

SHARED = Path(os.environ.get("NELBO_SHARED", Path(__file__).resolve().parents[2] / "shared"))


class Timed(nn.Module):
    """A network that remembers how long its calls took and how large their batches were."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.seconds, self.batches = net, 0.0, []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        began = time.process_time()
        out = self.net(z, t)
        self.seconds += time.process_time() - began
        self.batches.append(len(z))
        return out


class Sample(nn.Module):
    """diffusers' networks return an object; its `sample` is the tensor."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(z, t).sample


def unet(shape: tuple[int, ...], **settings: Any) -> nn.Module:
    """nelbo's own U-Net, without the zeros that its last layers start from."""
    net = build("unet", settings, shape=shape, codes=None, logsnr_max=10.0, logsnr_min=-10.0)
    for p in net.parameters():
        if not p.detach().any():
            nn.init.normal_(p, std=0.02)
    return net


def diffusers_unet() -> nn.Module:
    """A small UNet2DModel for 32×32×3."""
    from diffusers import UNet2DModel

    return Sample(
        UNet2DModel(
            sample_size=32, layers_per_block=1, block_out_channels=(32, 64, 64), norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip


CASES: dict[str, tuple[str, int, str, Callable[[], nn.Module]]] = {
    "unet16": ("nelbo U-Net, 16×16×3", 16, "logsnr", lambda: unet((3, 16, 16))),
    "wide16": ("nelbo U-Net, 16×16×3, width 64", 16, "logsnr", lambda: unet((3, 16, 16), width=64)),
    "large16": ("nelbo U-Net, 16×16×3, width 112", 16, "logsnr", lambda: unet((3, 16, 16), width=112)),
    "unet32": ("nelbo U-Net, 32×32×3", 32, "logsnr", lambda: unet((3, 32, 32))),
    "diffusers32": ("diffusers UNet2DModel, 32×32×3", 32, "index", diffusers_unet),
}


@contextmanager
def timed_noise() -> Iterator[list[float]]:
    """Inside, every call of `random.normal` adds its processor time to the list."""
    usual, spent = random.normal, []

    def normal(*args: Any, **options: Any) -> Tensor:
        began = time.process_time()
        out = usual(*args, **options)
        spent.append(time.process_time() - began)
        return out

    random.normal = normal  # type: ignore[assignment]
    try:
        yield spent
    finally:
        random.normal = usual


@dataclass
class Turn:
    """One evaluation and the bare passes after it: processor seconds, and wall seconds of both."""

    nfe: int
    whole: float
    inside: float
    noise: float
    bare: float
    wall: tuple[float, float]


def turn(net: Timed, evaluate: Callable[[], nelbo.Bound], inputs: Tensor, times: Tensor) -> Turn:
    """Both, one after the other."""
    net.seconds, net.batches = 0.0, []
    with timed_noise() as noise:
        wall, began = time.perf_counter(), time.process_time()
        nfe = evaluate().nfe_total
        whole, wall = time.process_time() - began, time.perf_counter() - wall
    inside, batches = net.seconds, net.batches
    with torch.no_grad():
        bare_wall, began = time.perf_counter(), time.process_time()
        for b in batches:
            net.net(inputs[:b], times[:b])
        bare, bare_wall = time.process_time() - began, time.perf_counter() - bare_wall
    assert sum(batches) == nfe
    return Turn(nfe, whole, inside, sum(noise), bare, (wall, bare_wall))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and turns, to see that it runs")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--nfe", type=int, default=2, help="evaluations an image")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    if options.quick:
        options.reps, options.images = 2, min(options.images, 128)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore", NelboWarning)
    codes = np.load(SHARED / "data/cifar10_first4000/images.npz")["images_nchw"][: options.images]
    averaged = codes.reshape(-1, 3, 16, 2, 16, 2).astype(float).mean((3, 5)).round().astype(np.uint8)
    images = {32: torch.from_numpy(codes), 16: torch.from_numpy(averaged)}
    print(f"nelbo {nelbo.__version__}, torch {torch.__version__}, one thread, {options.images} images,", end=" ")
    print(f"medians of {options.reps} turns\n")
    print("| network | parameters | mode | evaluations | network, µs | all else, µs | of it keyed noise, µs", end=" ")
    print("| evaluate / bare | same, wall | without the noise |\n|-|-|-|-|-|-|-|-|-|-|")
    for key in options.only:
        name, side, told, make = CASES[key]
        net, data = Timed(make()).eval(), images[side]
        schedule, domain = nelbo.schedules.linear(1000), nelbo.DataDomain((3, side, side), bins=256)
        model = nelbo.from_callable(net, schedule=schedule, domain=domain, predicts="eps", time=told)
        inputs = torch.randn(1024, 3, side, side)
        times = torch.full((1024,), 500) if told == "index" else torch.zeros(1024)
        budget = options.nfe * options.images
        few = max(1, options.nfe)
        modes: dict[str, Callable[[], nelbo.Bound]] = {
            "tolerance": lambda: nelbo.evaluate(model, data, tolerance=1e-3, max_nfe=max(budget, 600)),  # noqa: B023
            f"every example, {few} levels": lambda: nelbo.evaluate(
                model, data, grid=nelbo.grids.even(few), estimator=Exhaustive(1, 16)  # noqa: B023
            ),
        }  # fmt: skip
        for mode, evaluate in modes.items():
            turn(net, evaluate, inputs, times)
            turns = [turn(net, evaluate, inputs, times) for _ in range(options.reps)]
            n = turns[0].nfe

            def median(value: Callable[[Turn], float], turns: list[Turn] = turns) -> float:
                return float(np.median([value(t) for t in turns]))

            row = [
                name, f"{model.parameters:,}", mode, str(n),
                f"{median(lambda t: t.bare / t.nfe) * 1e6:.0f}",
                f"{median(lambda t: (t.whole - t.inside) / t.nfe) * 1e6:.1f}",
                f"{median(lambda t: t.noise / t.nfe) * 1e6:.1f}",
                f"{median(lambda t: t.whole / t.bare):.3f}",
                f"{median(lambda t: t.wall[0] / t.wall[1]):.3f}",
                f"{1 + median(lambda t: (t.whole - t.inside - t.noise) / t.inside):.3f}",
            ]  # fmt: skip
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()

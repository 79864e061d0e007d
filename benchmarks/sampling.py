"""What a sampler costs beside its network, and how good samples are for their evaluations.

    .venv/bin/python benchmarks/sampling.py [--quick] [--reps 5] [--overhead | --quality]

Overhead: `nelbo.sample` and as many bare calls of the same network on batches of the same size take turns in one run;
processor time, one thread, median over the turns. Noise: what the keyed normals of a step cost, which only the samplers
with noise draw. Quality: see `sampling_quality.py`, which this script runs as well.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

import torch
from torch import Tensor, nn

import nelbo
from nelbo.maths import random
from nelbo.nets.build import build

SAMPLERS = ("ancestral", "ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde", "flow_midpoint")
SHAPE, BATCH = (3, 16, 16), 32
WIDTHS = (32, 64, 128)


class Counted(nn.Module):
    """A network that remembers how often it was called."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.net(z, t)


def noise() -> float:
    """Microseconds an example of one step's keyed normals."""
    took = []
    for level in range(12):
        began = time.process_time()
        random.normal(0, torch.arange(BATCH), level, 0, SHAPE, stream=random.Stream.SAMPLE)
        took.append(1e6 * (time.process_time() - began) / BATCH)
    return median(took)


def overhead(width: int, reps: int, steps: int) -> None:
    """Rows of the table: processor time of `sample` over that of the bare network."""
    net = Counted(build("unet", {"width": width}, shape=SHAPE, codes=None, logsnr_max=10.0, logsnr_min=-10.0))
    model = nelbo.from_callable(
        net, schedule=nelbo.schedules.logsnr_linear(10.0, -10.0), domain=nelbo.DataDomain(SHAPE), time="logsnr",
        grid=nelbo.grids.even(steps),
    )  # fmt: skip
    z, t = torch.randn(BATCH, *SHAPE), torch.zeros(BATCH)
    for name in SAMPLERS:
        ratios, bares, rests = [], [], []
        for rep in range(reps + 1):
            net.calls, began = 0, time.process_time()
            nelbo.sample(model, BATCH, sampler=name, seed=rep)
            whole, calls = time.process_time() - began, net.calls
            began = time.process_time()
            with torch.no_grad():
                for _ in range(calls):
                    net(z, t)
            bare = time.process_time() - began
            if rep:  # the first warms up
                ratios.append(whole / bare)
                bares.append(1e6 * bare / calls / BATCH)
                rests.append(1e6 * (whole - bare) / calls / BATCH)
        parameters = sum(p.numel() for p in net.parameters()) / 1e6
        numbers = f"{median(bares):.0f} | {median(rests):.0f} | {median(ratios):.3f}"
        print(f"| {parameters:.1f} M | {name} | {numbers} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--overhead", action="store_true", help="this alone")
    parser.add_argument("--quality", action="store_true", help="this alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.quality:
        print(f"keyed normals: {noise():.0f} µs a step and example\n")
        print("| network | sampler | network, µs an evaluation | all else, µs | sample / bare |\n|-|-|-|-|-|")
        for width in WIDTHS[:1] if options.quick else WIDTHS:
            overhead(width, 2 if options.quick else options.reps, 10)
    if not options.overhead:
        import sampling_quality

        sys.argv = ["sampling_quality.py", *(["--quick"] if options.quick else [])]
        sampling_quality.main()


if __name__ == "__main__":
    main()

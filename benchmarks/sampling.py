"""What a sampler costs beside its network, and how good samples are for their steps, on a model trained on digits.

    .venv/bin/python benchmarks/sampling.py [--quick] [--reps 5] [--model runs/digits]

Overhead: `nelbo.sample` and as many bare calls of the same network on the same batches take turns in one run; processor
time, one thread. Quality: sliced Wasserstein distance of 1797 samples (values before the decoder draws) to all 1797
digits, 256 keyed directions; beside it the distance of two halves of the digits, which no sampler can be asked to beat.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import nelbo
from nelbo.data import resolve
from nelbo.maths import random
from nelbo.nets.build import build

SAMPLERS = ("ancestral", "ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde", "flow_midpoint")
SHAPE, BATCH = (3, 16, 16), 32


class Counted(nn.Module):
    """A network that remembers how many inputs it got."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.net(z, t)


def overhead(reps: int, steps: int) -> None:
    """The table of processor time of `sample` over that of the bare network."""
    net = Counted(build("unet", {}, shape=SHAPE, codes=None, logsnr_max=10.0, logsnr_min=-10.0))
    model = nelbo.from_callable(
        net, schedule=nelbo.schedules.logsnr_linear(10.0, -10.0), domain=nelbo.DataDomain(SHAPE), time="logsnr",
        grid=nelbo.grids.even(steps),
    )  # fmt: skip
    z, t = torch.randn(BATCH, *SHAPE), torch.zeros(BATCH)
    print("| sampler | network, µs an evaluation | all else, µs | sample / bare |\n|-|-|-|-|")
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
        middle = [float(torch.tensor(v).median()) for v in (bares, rests, ratios)]
        print(f"| {name} | {middle[0]:.0f} | {middle[1]:.1f} | {middle[2]:.3f} |", flush=True)


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 256) -> float:
    """√ of the mean over directions of W₂² of the projections, (N, D) each, by sorting; one N for both."""
    w = random.normal(0, torch.arange(directions), 0, 0, (x.shape[1],), stream=random.Stream.PROBE)
    w = w / w.norm(dim=1, keepdim=True)
    gap = (x @ w.T).sort(0).values - (y @ w.T).sort(0).values
    return float(gap.square().mean().sqrt())


def quality(folder: Path, quick: bool) -> None:
    """The table of distances by sampler and network evaluations."""
    if not folder.exists():
        nelbo.train("digits:train", folder, {"steps": 50} if quick else None)
    model = nelbo.load(folder)
    digits = model.domain.values(resolve("digits").data).flatten(1).double()
    n = 200 if quick else len(digits)
    mixed = digits[random.permutation(0, len(digits))]
    half = len(digits) // 2
    print(f"\nhalves of the digits: {sliced_wasserstein(mixed[:half], mixed[half : 2 * half]):.4f}\n")
    budgets = (8, 16, 32) if quick else (8, 16, 32, 64, 128)
    print("| sampler | " + " | ".join(f"{b} evaluations" for b in budgets) + " |\n|-|" + "-|" * len(budgets))
    for name in SAMPLERS:
        row = []
        for budget in budgets:
            steps = budget // nelbo.samplers.NAMED[name].evaluations
            x = nelbo.sample(model, n, sampler=name, steps=steps, grid="logsnr", codes=False)
            row.append(sliced_wasserstein(x.flatten(1), mixed[:n]))
        print(f"| {name} | " + " | ".join(f"{v:.4f}" for v in row) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--model", type=Path, default=Path("runs/digits"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    overhead(2 if options.quick else options.reps, 10 if options.quick else 30)
    quality(options.model, options.quick)


if __name__ == "__main__":
    main()

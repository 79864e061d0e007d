"""What `nelbo.evaluate` spends on checks of a foreign network: evaluations and processor seconds, by data.

    .venv/bin/python benchmarks/checks.py [--images 300]

The trial of the network, the readings of its output at the pilot's draws, what they contradict, "worse than none" with
its likely causes, lattices of the data. Random images, a small convolutional network behind a lambda, the default
tolerance relative to the bound (5 %), one thread; the first row of each kind warms up and is not shown.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import nelbo
from nelbo.bound import calibration, checks, contradictions, evaluate, lattices, readings
from nelbo.bound.checks import NelboWarning
from nelbo.bound.trial import EVALUATIONS

CHECKS: list[tuple[ModuleType, str]] = [
    (evaluate, "trial"),
    (readings, "seen"),
    (contradictions, "notes"),
    (calibration, "notes"),
    (checks, "sanity"),
    (lattices, "notes"),
]
SHAPES = [(1, 8, 8), (3, 32, 32), (3, 64, 64), (3, 128, 128)]
spent: dict[str, float] = {}


def timed(module: ModuleType, name: str) -> None:
    """From now on every call of the function adds its processor time."""
    usual: Callable[..., Any] = getattr(module, name)
    label = f"{module.__name__.split('.')[-1]}.{name}"

    def call(*args: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return usual(*args, **options)
        finally:
            spent[label] = spent.get(label, 0.0) + time.process_time() - began

    setattr(module, name, call)


def model(channels: int, shape: tuple[int, ...]) -> nelbo.DiffusionModel:
    """A network of two convolutions that is given as a lambda."""
    net = nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, channels, 3, padding=1))

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        return 0.9 * z + 0.02 * net(z)

    return nelbo.from_callable(denoise, schedule=nelbo.schedules.linear(1000), domain=nelbo.DataDomain(shape, bins=256))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NelboWarning)
    for module, name in CHECKS:
        timed(module, name)
    print("| data | evaluations | of them the trial | whole, s | checks, s | the most of it |\n|-|-|-|-|-|-|")
    for shape in [SHAPES[0], *SHAPES]:
        first = not spent
        images = torch.randint(256, (options.images, *shape), generator=torch.Generator().manual_seed(0))
        spent.clear()
        began = time.process_time()
        nfe = nelbo.evaluate(model(shape[0], shape), images, tolerance="5%").nfe_total
        whole, most = time.process_time() - began, max(spent, key=lambda name: spent[name])
        if not first:
            print(
                f"| {options.images} of {shape} | {nfe} | {100 * EVALUATIONS / nfe:.1f} % | {whole:.2f} "
                f"| {sum(spent.values()):.3f} | {most} {spent[most]:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

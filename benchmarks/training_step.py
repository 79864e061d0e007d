"""What a training step costs beside its network: nelbo's loop against bare forward + backward + optimiser, in one run.

    .venv/bin/python benchmarks/training_step.py [--quick] [--steps 60] [--only digits recipe28 unet16 unet28 unet32]

The loop's own step (`nelbo.training.trainer.Trainer.advance`: rows of the data, keyed noise and times, the loss,
clipping, the average of the weights, the log's record) and a bare step take turns, step by step. The bare step is what
nobody can do without: the same network on as many inputs (the batch, and the share of it that scores the first level),
a squared error (with a categorical head: the cross-entropy), backward, the run's optimiser, and nothing else; its
inputs are made once.
Medians over steps of wall time, and their ratio. Some of what is nelbo's own is then timed by itself: keyed noise,
clipping, average. Weights are random: what a step costs does not depend on them. One thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nelbo.maths.keys import Purpose
from nelbo.model.examples import Examples
from nelbo.training import check_config
from nelbo.training.build import build_model
from nelbo.training.optimizer import make_optimizer
from nelbo.training.recipe import with_recipe
from nelbo.training.trainer import Trainer

UNET = {"head": "plain", "predicts": "eps", "name": "unet"}
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "digits": ((8, 8), 17, {}),
    "recipe28": ((1, 28, 28), 256, {}),
    "unet16": ((3, 16, 16), 256, {"net": UNET, "batch_size": 64}),
    "unet28": ((1, 28, 28), 256, {"net": UNET, "batch_size": 64}),
    "unet32": ((3, 32, 32), 256, {"net": UNET, "batch_size": 32}),
}


class Bare:
    """The same network, inputs of the same number and sizes, and the least that training is."""

    def __init__(self, trainer: Trainer):
        settings = trainer.settings
        self.net: nn.Module = trainer.net.net  # type: ignore[assignment]
        B, shape = settings.batch_size, trainer.model.domain.shape
        generator = torch.Generator().manual_seed(0)
        first = math.ceil(settings.reconstruction_share * B) if trainer.model.decoder.calls_network else 0
        self.x = torch.randn(B + first, *shape, generator=generator)
        self.t = torch.rand(B + first, generator=generator)
        self.codes = torch.randint(0, trainer.model.domain.bins or 2, self.x.shape, generator=generator)
        if settings.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(trainer.net, nn.Module(), settings.model_copy(update={"lr": 1e-6}))

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        out = self.net(self.x, self.t)
        if out.ndim > self.x.ndim:
            loss = nn.functional.cross_entropy(out.flatten(0, -2), self.codes.flatten())
        else:
            loss = out.square().mean()
        loss.backward()
        self.optimizer.step()


def seconds(work: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def measure(name: str, steps: int) -> dict[str, Any]:
    shape, bins, wanted = CASES[name]
    data = torch.randint(0, bins, (2000, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    examples = Examples(data, name, bins=bins)
    settings = check_config(with_recipe({"steps": 10**6, "log_every": 50, **wanted}, examples))
    model = build_model(examples, settings)
    trainer = Trainer.alone(model, examples, settings)
    bare = Bare(trainer)
    for _ in range(3):
        trainer.advance(), bare.step()
    ours, theirs = [], []
    for turn in range(steps):
        for work, times in ((trainer.advance, ours), (bare.step, theirs))[:: 1 if turn % 2 else -1]:
            times.append(seconds(work))
    positions = torch.arange(settings.batch_size)
    own = {
        "noise": lambda: Purpose.TRAINING_NOISE.normal(0, positions, 1, shape=shape),
        "clip": lambda: nn.utils.clip_grad_norm_(trainer.net.parameters(), 1.0),
        "average": lambda: trainer.ema.update_parameters(trainer.net),
    }
    middle = statistics.median
    return {
        "case": name,
        "parameters": model.parameters,
        "batch": settings.batch_size,
        "bare_ms": 1e3 * middle(theirs),
        "step_ms": 1e3 * middle(ours),
        "ratio": middle(ours) / middle(theirs),
        "paired_ratio": middle(a / b for a, b in zip(ours, theirs, strict=True)),
        **{f"{k}_ms": 1e3 * middle(seconds(work) for _ in range(20)) for k, work in own.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps: does it run")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, 5 if arguments.quick else arguments.steps) for name in arguments.only]
    print("| network | parameters | batch | bare, ms | step, ms | ratio (paired) | noise | clip | average |")
    print("|-|-|-|-|-|-|-|-|-|")
    for r in rows:
        print(
            f"| {r['case']} | {r['parameters']} | {r['batch']} | {r['bare_ms']:.2f} | {r['step_ms']:.2f} "
            f"| {r['ratio']:.3f} ({r['paired_ratio']:.3f}) | {r['noise_ms']:.2f} | {r['clip_ms']:.2f} "
            f"| {r['average_ms']:.2f} |"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

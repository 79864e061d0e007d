"""Runs that are killed: a process imports torch once and forks a child for each life of the run.

    killed.py KIND FOLDER KILLS        KIND: images, symbols

A child trains, resuming what is there, and says each step on a pipe; the parent kills it with SIGKILL after a number of
steps and a delay, both drawn from a seed, or lets the last one finish. The delays of a few milliseconds put kills
anywhere: before the first step, in a step, while a checkpoint, the log, best.pt or the model is written.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import nelbo
from nelbo.model.examples import Examples
from nelbo.typing import Json
from tests.model.tokens.checks import markov
from tests.training.cases import codes, small

SETTINGS: Json = small(
    steps=150,
    ema=0.9,
    net={"dropout": 0.3},
    log_every=1,
    checkpoint_every=3,
    validation={"every": 10, "examples": 8, "max_nfe": 600},
)
SYMBOLS: Json = {
    **{name: SETTINGS[name] for name in ("steps", "ema", "log_every", "checkpoint_every", "validation")},
    "batch_size": 8, "warmup": 2, "bins": 3, "optimizer": "muon",
    "net": {"name": "transformer", "width": 16, "blocks": 1, "heads": 2, "dropout": 0.3},
}  # fmt: skip
LONGEST = 9
"""Most steps of a life that is to be cut short."""


def symbols() -> Examples:
    """Sequences of a Markov chain."""
    return Examples(markov(8).sample(60).to(torch.uint8))


KINDS: dict[str, tuple[Callable[[], Examples], Json]] = {"images": (codes, SETTINGS), "symbols": (symbols, SYMBOLS)}


def life(kind: str, out: Path, speak: int) -> None:
    """The run from where it stands to its end, saying each step."""
    data, settings = KINDS[kind]
    nelbo.train(data(), out, settings, resume=True, progress=lambda record: os.write(speak, b".") and None)


def lives(kind: str, out: Path, kills: int, seed: int = 0) -> int:
    """The run with so many kills; the number of them that hit the run alive."""
    chance = random.Random(seed)
    hits = 0
    for number in range(kills + 1):
        steps, delay = chance.randint(0, LONGEST), chance.uniform(0, 0.02)
        hear, speak = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(hear)
                life(kind, out, speak)
                status = 0
            finally:
                os._exit(status)
        os.close(speak)
        if number < kills:
            for _ in range(steps):
                os.read(hear, 1)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(hear)
        hits += os.WIFSIGNALED(status)
        if number == kills:
            assert status == 0
    return hits


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    assert lives(what, folder / "whole", 0) == 0
    print(lives(what, folder / "killed", int(sys.argv[3])))

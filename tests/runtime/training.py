"""What the processes of tests/runtime/test_training.py run: runs under a launcher.

torchrun --nproc-per-node 2 training.py KIND FOLDER        KIND: images, symbols
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

import nelbo
from nelbo import runtime
from nelbo.errors import Interrupted
from nelbo.training.batches import Loader
from nelbo.typing import Json

torch.set_num_threads(1)

SETTINGS: Json = {
    "steps": 8, "batch_size": 10, "levels": 8, "warmup": 2, "lr": 0.01, "log_every": 1, "ema": 0.9,
    "checkpoint_every": 4,
    "net": {"name": "mlp", "width": 16, "embedding": 8, "blocks": 1, "dropout": 0.0},
    "validation": {"every": 3, "examples": 8, "max_nfe": 600}, "accumulate": 2,
}  # fmt: skip


def data() -> torch.Tensor:
    """37 examples: no number of processes or batches divides them."""
    generator = torch.Generator().manual_seed(3)
    level = torch.randint(1, 4, (37, 1, 1), generator=generator)
    return level + torch.randint(-1, 2, (37, 3, 3), generator=generator)


SYMBOLS: Json = {
    **{name: value for name, value in SETTINGS.items() if name not in ("levels", "net")},
    "net": {"name": "transformer", "width": 16, "blocks": 1, "heads": 2, "dropout": 0.0},
}  # fmt: skip


def of_kind(kind: str) -> tuple[torch.Tensor, Json]:
    """Data and settings: images, or the same numbers as sequences of symbols."""
    return (data(), SETTINGS) if kind == "images" else (data().flatten(1).to(torch.uint8), SYMBOLS)


def run(kind: str, out: Path, resume: bool = False, stop_at: int | None = None) -> None:
    """Train into `out`; the rows of every step that this process saw go to out.rows-RANK.json."""
    workers = runtime.workers()
    seen: list[list[int]] = []
    read = Loader._read

    def spy(self, step, parts):
        rows = self.shuffle.batch(step)
        seen.append([int(r) for part in parts for r in rows[part.positions]])
        return read(self, step, parts)

    def progress(record: Json) -> None:
        if record["step"] == stop_at:
            os.kill(os.getpid(), 15)  # of rank 0 alone: the others hear of it from there

    Loader._read = spy
    try:
        examples, settings = of_kind(kind)
        how = {"resume": resume, "progress": progress, "workers": workers}
        nelbo.train(examples, out, {**settings, "bins": 5}, **how).fingerprint()
    finally:
        Loader._read = read
    out.with_suffix(f".rows-{workers.rank}.json").write_text(json.dumps(seen))


def main(kind: str, folder: Path) -> None:
    run(kind, folder / "two")
    try:
        run(kind, folder / "stopped", stop_at=5)
    except Interrupted:
        run(kind, folder / "stopped", resume=True)
    runtime.finish()
    runtime.leave(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Training on a GPU: images a second and utilisation of the `base` U-Net at 32 × 32, and the bound after M minutes.

    python benchmarks/gpu_training.py                              # both; the bound after 20 minutes
    python benchmarks/gpu_training.py --only throughput
    python benchmarks/gpu_training.py --only bound --minutes 20 --out runs/gpu
    python benchmarks/gpu_training.py --quick --device cpu         # does it run, without a GPU: tiny, seconds

throughput  a step of `nelbo train` with bf16, compile and channels_last on and off: medians of synchronised steps,
            images/s, and how much of what large matrix products reach on this device in that precision (measured here)
            the network's operations are: three evaluations a step and image, forward, and backward twice that
bound       the recipe for images with `net.size=base` in the fastest of these settings, trained for M minutes of its
            measured pace, then scored on images that it has not seen

Data: the 4,000 CIFAR-10 images beside this repository; the last 1,000 are held out. Everything is printed as a table
and written to OUT/gpu_training.json as it comes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

# started as a script it finds the modules beside it as `benchmarks.NAME`, and `coverage` is the package of that name
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.device import Bench, Work, images, options, settings, throughput  # noqa: E402

import nelbo  # noqa: E402
from nelbo.model.diffusion import flops_per_evaluation  # noqa: E402
from nelbo.training.build import build_model  # noqa: E402
from nelbo.training.trainer import Trainer  # noqa: E402


def pace(bench: Bench, batch: int) -> dict[str, Any]:
    """The time of a step in every combination of the switches."""
    examples, _ = images(bench.quick)

    def measure(on: dict[str, bool]) -> Work:
        chosen = settings(examples, on, batch, bench.quick)
        model = build_model(examples, chosen)
        flops = flops_per_evaluation(model)
        run = Trainer.alone(model, examples, chosen, bench.device)
        second = bench.seconds(run.advance, *((2, 3) if bench.quick else (10, 30)))
        return Work(batch, second, None if flops is None else 3.0 * flops * batch)

    return throughput(bench, "throughput", "images", measure)


def bound(bench: Bench, batch: int, minutes: float, speeds: dict[str, Any]) -> dict[str, Any]:
    """Train in the fastest setting that was measured, and score held-out images."""
    fastest = min(speeds.values(), key=lambda r: r["seconds"])
    steps = 4 if bench.quick else round(60 * minutes / fastest["seconds"])
    examples, held_out = images(bench.quick)
    # 3,000 images are few, and mirrored ones are as good
    more = {"steps": steps, "augment": ["horizontal_flip"], "checkpoint_every": max(1, steps // 10)}
    chosen = settings(examples, fastest, batch, bench.quick, **more)
    out = bench.path.with_name("model-quick" if bench.quick else "model")
    began = time.perf_counter()
    model = nelbo.train(examples, out, chosen, device=bench.device, resume=True)
    spent = time.perf_counter() - began
    scored = nelbo.evaluate(
        model, held_out, tolerance=0.1 if bench.quick else 0.005, max_nfe=2000 if bench.quick else 200_000,
        device=bench.device,
    )  # fmt: skip
    print(scored)
    return {
        "steps": steps, "batch": batch, "seconds": spent, "parameters": model.parameters,
        "bits_per_dim": scored.bits_per_dim, "standard_error": scored.standard_error.estimator,
        "standard_error_data": scored.standard_error.data, "images": len(held_out),
    }  # fmt: skip


def main() -> None:
    parser = options(__doc__, "throughput", "bound")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20.0)
    given = parser.parse_args()
    bench, batch = Bench.of(given, "gpu_training"), 4 if given.quick else given.batch
    speeds = bench.kept.get("throughput", {})
    if given.only != "bound":
        speeds = pace(bench, batch)
    if given.only != "throughput":
        if not speeds:
            sys.exit("measure the throughput first: it says how many steps fit")
        bench.keep(bound=bound(bench, batch, given.minutes, speeds))
    print(bench.path)


if __name__ == "__main__":
    main()

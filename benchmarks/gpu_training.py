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

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import nelbo
from nelbo.data import read
from nelbo.files import write_atomic
from nelbo.model.diffusion import flops_per_evaluation
from nelbo.model.examples import Examples
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig, check_config
from nelbo.training.recipe import with_recipe
from nelbo.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "cifar10_first4000" / "images.npz"
HELD_OUT = 1000
SWITCHES = ("bf16", "compile", "channels_last")


def images(quick: bool) -> tuple[Examples, Examples]:
    """Images to train on and to score."""
    whole = read(str(DATA))
    kept = [whole.data[:-HELD_OUT], whole.data[-HELD_OUT:]]
    if quick:
        kept = [part[:64, :, :8, :8] for part in kept]
    first, last = (dataclasses.replace(whole, data=part.contiguous(), labels=None) for part in kept)
    return first, last


def settings(examples: Examples, on: dict[str, bool], batch: int, quick: bool, **more: Any) -> TrainConfig:
    """The recipe for images with the `base` network and the switches that are on."""
    given = {
        "net": {"size": "tiny" if quick else "base"}, "batch_size": batch, "compile": on["compile"],
        "channels_last": on["channels_last"], "precision": "bf16" if on["bf16"] else "float32", **more,
    }  # fmt: skip
    return check_config(with_recipe(given, examples))


def waited(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(device: torch.device, bf16: bool, n: int) -> float:
    """Operations a second of a product of two n × n matrices."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    times = []
    for _ in range(8):
        began = waited(device)
        a @ b
        times.append(waited(device) - began)
    return 2 * n**3 / statistics.median(times[2:])


def throughput(device: torch.device, batch: int, quick: bool, found: dict[str, Any], save: Any) -> None:
    """Every combination of the switches; what is in `found` is not measured again."""
    examples, _ = images(quick)
    n = 256 if quick else 8192
    peaks = {bf16: peak(device, bf16, n) for bf16 in (False, True)}
    print(f"matrix products of {n} × {n}: " + ", ".join(
        f"{v / 1e12:.1f} TFLOP/s in {'bf16' if k else 'float32'}" for k, v in peaks.items()))  # fmt: skip
    print("| bf16 | compile | channels_last | ms a step | images/s | TFLOP/s | of matrix products |\n|-|-|-|-|-|-|-|")
    for values in itertools.product((False, True), repeat=3):
        on = dict(zip(SWITCHES, values, strict=True))
        if quick and on["compile"]:
            continue  # minutes for a network of which nothing is to be learned
        name = "+".join(k for k, v in on.items() if v) or "plain"
        if name not in found:
            chosen = settings(examples, on, batch, quick)
            torch.compiler.reset()
            model = build_model(examples, chosen)
            flops = flops_per_evaluation(model)
            run = Trainer.alone(model, examples, chosen, device)
            for _ in range(2 if quick else 10):
                run.advance()
            times = []
            for _ in range(3 if quick else 30):
                began = waited(device)
                run.advance()
                times.append(waited(device) - began)
            second = statistics.median(times)
            rate = None if flops is None else 3 * flops * batch / second
            found[name] = {
                "seconds_a_step": second, "images_a_second": batch / second, "flops_a_second": rate,
                "of_peak": None if rate is None else rate / peaks[on["bf16"]], "batch": batch, **on,
            }  # fmt: skip
            save()
        r = found[name]
        marks = " | ".join("yes" if r[k] else "no" for k in SWITCHES)
        work = "- | -" if r["flops_a_second"] is None else f"{r['flops_a_second'] / 1e12:.1f} | {r['of_peak']:.1%}"
        print(f"| {marks} | {1e3 * r['seconds_a_step']:.1f} | {r['images_a_second']:.0f} | {work} |", flush=True)


def bound(device: torch.device, batch: int, quick: bool, minutes: float, out: Path, speeds: dict[str, Any]) -> dict:
    """Train in the fastest setting that was measured, and score held-out images."""
    fastest = min(speeds.values(), key=lambda r: r["seconds_a_step"])
    steps = 4 if quick else round(60 * minutes / fastest["seconds_a_step"])
    examples, held_out = images(quick)
    # 3,000 images are few, and mirrored ones are as good
    more = {"steps": steps, "augment": ["horizontal_flip"], "checkpoint_every": max(1, steps // 10)}
    chosen = settings(examples, fastest, batch, quick, **more)
    began = time.perf_counter()
    model = nelbo.train(examples, out / "model", chosen, device=device, resume=True)
    spent = time.perf_counter() - began
    said = nelbo.evaluate(
        model, held_out, tolerance=0.1 if quick else 0.005, max_nfe=2000 if quick else 200_000, device=device
    )
    print(said)
    return {
        "steps": steps, "batch": batch, "seconds": spent, "parameters": model.parameters,
        "bits_per_dim": said.bits_per_dim, "standard_error": said.standard_error.estimator,
        "standard_error_data": said.standard_error.data, "images": len(held_out),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["throughput", "bound"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--quick", action="store_true", help="tiny network and images, few steps, no compile")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("there is no GPU here; --quick --device cpu shows that this runs")
    if not DATA.exists():
        sys.exit(f"{DATA} is not there")
    device, batch = torch.device(given.device), 4 if given.quick else given.batch
    path = given.out / ("quick.json" if given.quick else "gpu_training.json")
    given.out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"throughput": {}}
    kept["torch"], kept["device"] = torch.__version__, str(device)
    if device.type == "cuda":
        kept["device"] = torch.cuda.get_device_name(device)

    def save() -> None:
        write_atomic(path, json.dumps(kept, indent=1))

    if given.only != "bound":
        throughput(device, batch, given.quick, kept["throughput"], save)
    if given.only != "throughput":
        speeds = kept["throughput"] or sys.exit("measure the throughput first: it says how many steps fit")
        kept["bound"] = bound(device, batch, given.quick, given.minutes, given.out, speeds)
        save()
    print(path)


if __name__ == "__main__":
    main()

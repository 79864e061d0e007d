"""What the benchmarks of a GPU share: options, images, the U-Net and its switches, times, the peak of matrix products.

Utilisation is the share of the rate of large matrix products that was measured on the same device in the same
precision. torch lets convolutions in float32 round their factors to TF32 on a GPU, and matrix products not; the peak
for float32 is therefore that of products in TF32 wherever convolutions use it, so that no share on a GPU is above one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nelbo.data import read
from nelbo.files import write_atomic
from nelbo.model.examples import Examples
from nelbo.training import TrainConfig, check_config
from nelbo.training.recipe import with_recipe

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "cifar10_first4000" / "images.npz"
HELD_OUT = 1000
SWITCHES = ("bf16", "compile", "channels_last")


def options(description: str | None, *parts: str) -> argparse.ArgumentParser:
    """The options of every benchmark of a device. parts: what `--only` may name."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--quick", action="store_true", help="tiny network and images, few steps, no compile")
    return parser


@dataclass(frozen=True)
class Bench:
    """A device and the JSON file that keeps what was measured there."""

    device: torch.device
    quick: bool
    path: Path
    kept: dict[str, Any]

    @classmethod
    def of(cls, given: argparse.Namespace, name: str) -> Bench:
        """From the options; what OUT/NAME.json has of the same device and torch is kept, unless this is quick."""
        if given.device.startswith("cuda") and not torch.cuda.is_available():
            sys.exit("there is no GPU here; --quick --device cpu shows that this runs")
        device = torch.device(given.device)
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        path = given.out / f"{name}{'-quick' if given.quick else ''}.json"
        kept: dict[str, Any] = {"torch": torch.__version__, "device": where}
        if path.exists() and not given.quick:
            before = json.loads(path.read_text())
            if all(before.get(key) == value for key, value in kept.items()):
                kept = before
        given.out.mkdir(parents=True, exist_ok=True)
        return cls(device, given.quick, path, kept)

    def keep(self, **found: Any) -> None:
        """Add to what the file has, and write it."""
        self.kept.update(found)
        write_atomic(self.path, json.dumps(self.kept, indent=1))

    def now(self) -> float:
        """The time in seconds when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, work: Callable[[], Any], warm: int, times: int) -> float:
        """The median time of `work` over `times` calls, after `warm` calls that do not count."""
        measured = []
        for _ in range(warm + times):
            began = self.now()
            work()
            measured.append(self.now() - began)
        return statistics.median(measured[warm:])

    def peak(self, bf16: bool, n: int) -> float:
        """Operations a second of a product of two n × n matrices."""
        a, b = (
            torch.randn(n, n, device=self.device, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2)
        )
        with tf32(products=torch.backends.cudnn.allow_tf32):
            return 2 * n**3 / self.seconds(lambda: a @ b, 2, 6)


@contextlib.contextmanager
def tf32(*, products: bool | None = None, convolutions: bool | None = None) -> Iterator[None]:
    """Whether products and convolutions of float32 may round their factors to TF32 on a GPU; None: as it is."""
    switches = [(torch.backends.cuda.matmul, products), (torch.backends.cudnn, convolutions)]
    before = [(switch, switch.allow_tf32) for switch, _ in switches]
    try:
        for switch, wanted in switches:
            if wanted is not None:
                switch.allow_tf32 = wanted
        yield
    finally:
        for switch, value in before:
            switch.allow_tf32 = value


def images(quick: bool) -> tuple[Examples, Examples]:
    """Images to train on and to score: the 4,000 of CIFAR-10 beside this repository, of which the last are held out."""
    if not DATA.exists():
        sys.exit(f"{DATA} is not there")
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


@dataclass(frozen=True)
class Work:
    """`count` images or evaluations took `seconds`; flops: the operations of their network, None where not known."""

    count: int
    seconds: float
    flops: float | None


def throughput(
    bench: Bench, name: str, unit: str, measure: Callable[[dict[str, bool]], Work], until: float = math.inf
) -> dict[str, Any]:
    """Measure every combination of the switches, those that compile last, and print a row for each.

    name: the key in the file; what it has is not measured again. until: no measurement begins after this reading of
    `time.perf_counter`.
    """
    found = bench.kept.setdefault(name, {})
    n = 256 if bench.quick else 8192
    peaks = {bf16: bench.peak(bf16, n) for bf16 in (False, True)}
    print(f"matrix products of {n} × {n}: " + ", ".join(
        f"{v / 1e12:.2f} TFLOP/s in {'bf16' if k else 'float32'}" for k, v in peaks.items()))  # fmt: skip
    print(f"| bf16 | compile | channels_last | ms | {unit}/s | TFLOP/s | of matrix products |\n|-|-|-|-|-|-|-|")
    combinations = [dict(zip(SWITCHES, v, strict=True)) for v in itertools.product((False, True), repeat=3)]
    for on in sorted(combinations, key=lambda on: on["compile"]):
        if bench.quick and on["compile"]:
            continue  # minutes for a network of which nothing is to be learned
        marks = " | ".join("yes" if on[k] else "no" for k in SWITCHES)
        key = "+".join(k for k, v in on.items() if v) or "plain"
        if key not in found:
            if time.perf_counter() > until:
                print(f"| {marks} | not measured: out of time | | | |")
                continue
            torch.compiler.reset()
            work = measure(on)
            rate = None if work.flops is None else work.flops / work.seconds
            found[key] = {
                "count": work.count, "seconds": work.seconds, "rate": work.count / work.seconds,
                "flops_a_second": rate, "of_peak": None if rate is None else rate / peaks[on["bf16"]], **on,
            }  # fmt: skip
            bench.keep()
        r = found[key]
        share = "- | -" if r["flops_a_second"] is None else f"{r['flops_a_second'] / 1e12:.3g} | {r['of_peak']:.1%}"
        print(f"| {marks} | {1e3 * r['seconds']:.1f} | {r['rate']:.0f} | {share} |", flush=True)
    return found

"""The numbers of the CPU on a GPU, and the speed of `evaluate` there: one command, under eight minutes.

    python benchmarks/gpu.py                                # both; exit status 1 where a number differs
    python benchmarks/gpu.py --only record --rows 'tighten*'
    python benchmarks/gpu.py --only speed --batch 512
    python benchmarks/gpu.py --quick --device cpu           # does it run, without a GPU: every fourth row, tiny network
    python benchmarks/gpu.py --only record --device cpu --here       # every number must be equal
    python benchmarks/gpu.py --only record --device cpu --rounding   # what rounding alone does to every row

record  every row of the record (`tools/record.py`) that takes a device is computed on it and compared with the value
        of the CPU in tools/record.json; with --here with that of this machine's CPU. Each row prints the value that is
        farthest from it. On the CPU that the file is of, and with --here on any CPU, every bit must be equal.
speed   `evaluate` of the `base` U-Net on the 1,000 held-out images, four levels and two draws each, with bf16, compile
        and channels_last on and off: evaluations a second and utilisation, all that is not the network included, but
        without the draws by which bf16 is compared with float32. The first call, which compiles, does not count, and
        after 6.5 minutes no measurement begins.

Why numbers may differ, and by how much. A device adds the terms of a product in another order, which moves every
result of a network in float32 by about 1e-7 of its size; the rest is in float64. Convolutions are kept from TF32, which
keeps three digits (--tf32 leaves them as torch has them). `ALLOWED` holds the tolerances; --rounding shows the reason
for each, since it disturbs the results of products and convolutions on the CPU by 2^-22 of their size.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # started as a script it finds the modules of the repository; `coverage` is the package of that name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from benchmarks.device import Bench, Work, images, options, settings, tf32, throughput
from tools import record
from torch.utils._python_dispatch import TorchDispatchMode

import nelbo
from nelbo.bound.checks import NelboWarning
from nelbo.bound.estimators import Stratified
from nelbo.model.diffusion import flops_per_evaluation
from nelbo.training.build import build_model

ALLOWED = {"fixed": 1e-4, "planned": 0.05, "train": 0.02}
"""Relative differences that are allowed, unless the record allows more (bf16).

fixed    the draws do not depend on what was computed
planned  the plan follows from measured values, and rounding may move draws from one level to another: the value is
         another estimate of the same quantity
train    twenty steps of an optimiser, which divides by the size of gradients and so amplifies differences
"""
BEGIN_UNTIL = 6.5 * 60


ROUNDED = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")


class Rounding(TorchDispatchMode):
    """Disturbs results of products and convolutions in float32 by normals of 2^-22 of their root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ROUNDED:
            for result in results if isinstance(results, tuple) else (results,):
                if result is not None and result.dtype == torch.float32 and result.numel():
                    size = 2.0**-22 * result.square().mean().sqrt()
                    result.add_(size * torch.randn(result.shape, generator=self.generator))
        return results


def allowed(name: str) -> float:
    """The relative difference that is allowed between values of a row on two devices."""
    row = record.ROWS[name]
    kind = "train" if name.startswith("train.") else "planned" if row.planned else "fixed"
    return max(row.rel, ALLOWED[kind])


def chosen(patterns: Sequence[str], quick: bool) -> tuple[list[str], list[str]]:
    """The rows to compare, and those that are not computed on a device."""
    names = [n for n in record.ROWS if not patterns or any(fnmatch.fnmatch(n, p) for p in patterns)]
    able = [n for n in names if record.ROWS[n].device]
    return able[::4] if quick else able, [n for n in names if not record.ROWS[n].device]


def compared(name: str, recorded: record.Values, found: record.Values, rel: float | None) -> tuple[bool, str]:
    """Whether a row is as recorded, in every bit where rel is None, and its line of the table: the farthest value."""
    if "error" in found:
        return False, f"| {name} | {found['error']} | | | | | differs |"
    different = record.differences(name, recorded, found, rel)
    keys = [d.key for d in different] or list(recorded)
    apart = {key: record.distance(key, recorded, found) for key in keys}
    key = max(keys, key=lambda k: -1.0 if apart[k] is None else apart[k])
    a, b = ((record.number(v), v) for v in (recorded.get(key), found.get(key)))
    values = " | ".join(str(v) if x is None else f"{x:.10g}" for x, v in (a, b))
    far = "-" if apart[key] is None else f"{apart[key]:.1e}"
    verdict = f"{'equal' if rel is None else rel} | {'differs' if different else 'ok'}"
    return not different, f"| {name} | {key} | {values} | {far} | {verdict} |"


def repeated(names: Sequence[str], device: str, here: bool = False, rounding: bool = False) -> list[str]:
    """Compute the rows on `device`, print the table, and return the names of those that differ from the CPU's."""
    file = json.loads(record.FILE.read_text())
    exact = device == "cpu" and not rounding and (here or file["hardware"] == record.hardware())
    of = "this CPU" if here else f"{record.FILE.name}, of {file['hardware']}"
    print(f"{len(names)} rows on {device} against {of}: {'every bit' if exact else 'to tolerance'}")
    print("| row | farthest value | CPU | device | relative difference | allowed | ok |\n|-|-|-|-|-|-|-|")
    differing = []
    for name in names:
        recorded = record.compute(name) if here else file["rows"].get(name, {})
        with Rounding() if rounding else contextlib.nullcontext():
            found = record.compute(name, device)
        equal, line = compared(name, recorded, found, None if exact else allowed(name))
        print(line, flush=True)
        if not equal:
            differing.append(name)
    return differing


def speed(bench: Bench, batch: int, until: float) -> None:
    """Evaluations a second and utilisation of `evaluate` in every combination of the switches."""
    _, examples = images(bench.quick)
    if bench.quick:
        examples = examples.first(8)

    def measure(on: dict[str, bool]) -> Work:
        precision, dtype = ("bf16", torch.bfloat16) if on["bf16"] else ("float32", torch.float32)
        model = build_model(examples, settings(examples, on, batch, bench.quick))
        flops = flops_per_evaluation(model)
        # evaluate computes with the network itself, and not with a copy that is not compiled, where the network is in
        # the precision and on the device asked for: "cuda:0", where its weights say that they are, and not "cuda"
        model = model.in_precision(dtype, bench.device)
        where = next(model.denoiser.parameters()).device
        if on["channels_last"]:
            model.denoiser.to(memory_format=torch.channels_last)
        if on["compile"]:
            model.denoiser.net.compile()
        # max_nfe leaves nothing for the comparison with float32, and does not limit this estimator
        how = {
            "precision": precision, "batch_size": batch, "device": where, "estimator": Stratified(4, 2), "max_nfe": 1,
        }  # fmt: skip
        spent = []

        def evaluate() -> None:
            spent.append(nelbo.evaluate(model, examples, **how).nfe_total)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NelboWarning)
            seconds = bench.seconds(evaluate, 1, 1 if bench.quick else 3)
        return Work(spent[-1], seconds, None if flops is None else float(flops) * spent[-1])

    throughput(bench, "evaluate", "evaluations", measure, until)


def main(argv: Sequence[str] | None = None) -> int:
    began = time.perf_counter()
    parser = options(__doc__, "record", "speed")
    parser.add_argument("--batch", type=int, default=512, help="examples of one network call, of the speed")
    parser.add_argument("--rows", action="append", default=[], metavar="PATTERN", help="as of the shell")
    parser.add_argument("--here", action="store_true", help="compare with the CPU of this machine, not with the file")
    parser.add_argument("--rounding", action="store_true", help="disturb products and convolutions as rounding does")
    parser.add_argument("--tf32", action="store_true", help="leave TF32 of convolutions as torch has it")
    given = parser.parse_args(argv)
    bench, differing = Bench.of(given, "gpu"), []
    print(f"{bench.kept['device']}, torch {torch.__version__}")
    if given.only != "speed":
        names, unable = chosen(given.rows, given.quick)
        if not names:
            parser.error(f"no row that takes a device matches {given.rows}")
        with contextlib.nullcontext() if given.tf32 else tf32(convolutions=False, products=False):
            differing = repeated(names, given.device, given.here, given.rounding)
        took = time.perf_counter() - began
        print(f"{len(names)} rows, {len(differing)} differ ({took:.0f} s): {', '.join(differing) or 'none'}")
        print(f"left out, for files, documents and bits are the CPU's: {', '.join(unable) or 'none'}")
        bench.keep(rows=len(names), differing=differing)
    if given.only != "record":
        speed(bench, 8 if given.quick else given.batch, began + BEGIN_UNTIL)
    print(f"{time.perf_counter() - began:.0f} s; {bench.path}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

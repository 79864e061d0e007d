"""What an estimate of the bound costs: the full loop, the published protocols, and nelbo's estimators, in one run.

    .venv/bin/python benchmarks/evaluation_cost.py [--quick] [--reps 10] [--images 1000] [--only cifar16 …]

Four models: `cifar16`, nelbo's own U-Net (ε, T = 1000) that `nelbo.train` makes on 2×2-averaged CIFAR images;
`foreign16` and `fashion`, a foreign ε-network brought through `from_callable`, on the same images and on
Fashion-MNIST; `digits`, the demo's, D = 64; and any folder as MODEL:DATA[:CONDITION]. Trained once and kept under
runs/. The loop's own standard error comes from two draws at every level of some images. Every figure counts the pilot.
"predicted" is the standard error that runs report, "observed" the spread of their values.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import foreign
import numpy as np
import torch
from one_time import OneTime

import nelbo
from nelbo import evaluate
from nelbo.bound.estimators import Estimator, Stratified
from nelbo.bound.planned.adaptive import Adaptive
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.data import read
from nelbo.maths import random
from nelbo.workers import Run

SHARED = Path(os.environ.get("NELBO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
UNET = {
    "steps": 4000, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.01, "objective": "simple", "schedule": "linear",
    "net": {"name": "unet", "head": "plain", "predicts": "eps"},
}  # fmt: skip


@dataclass
class ModelCase:
    """A model and the held-out images it is scored on."""

    name: str
    model: nelbo.DiffusionModel
    images: torch.Tensor
    condition: dict[str, torch.Tensor] | None = None

    def condition_of(self, rows: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """The condition of the images `rows`."""
        return self.condition and {name: values[rows] for name, values in self.condition.items()}


def cases(only: list[str], runs: Path, images: int, quick: bool) -> list[ModelCase]:
    """The models asked for, trained where they are not there yet; or those of folders, by MODEL:DATA[:CONDITION] with
    the labels of DATA as the network's CONDITION."""
    found = [_of_folder(name, images) for name in only if ":" in name]
    if "cifar16" in only or "foreign16" in only:
        codes = np.load(SHARED / "data/cifar10_first4000/images.npz")["images_nchw"].astype(float)
        small = torch.from_numpy(codes.reshape(4000, 3, 16, 2, 16, 2).mean((3, 5)).round().astype(np.uint8))
    if "cifar16" in only:
        if not (runs / "c16/model.json").exists():
            nelbo.train(small[:3000], runs / "c16", {**UNET, "steps": 200 if quick else 4000})
        found.append(ModelCase("cifar16 (nelbo U-Net, ε)", nelbo.load(runs / "c16"), small[3000:][:images]))
    if "foreign16" in only:
        model = foreign.model(runs / "foreign16.pt", small[:3000], 200 if quick else 3000)
        found.append(ModelCase("cifar16 (foreign ε-network)", model, small[3000:][:images]))
    if "fashion" in only:
        folder = SHARED / "data/fashion_mnist"
        train = read(str(folder / "train-images-idx3-ubyte.gz")).data[:, None]
        test = read(str(folder / "t10k-images-idx3-ubyte.gz")).data[:images, None]
        model = foreign.model(runs / "foreign.pt", train, 200 if quick else 3000)
        found.append(ModelCase("Fashion-MNIST (foreign ε-network)", model, test))
    if "digits" in only:
        if not (runs / "digits/model.json").exists():
            nelbo.train("digits:train", runs / "digits")
        found.append(
            ModelCase("digits (demo model, D = 64)", nelbo.load(runs / "digits"), read("digits:test").data[:images])
        )
    return found


def _of_folder(name: str, images: int) -> ModelCase:
    """See `cases`."""
    folder, data, *keyword = name.split(":")
    source, model = read(data), nelbo.load(folder)
    codes = source.data[:images].reshape(-1, *model.domain.shape)
    condition = {keyword[0]: source.labels[:images]} if keyword and source.labels is not None else None
    return ModelCase(f"{Path(folder).name} on {Path(data).name}", model, codes, condition)


@dataclass
class Loop:
    """The full loop: one noise at every level. Standard errors in bits/dim, of the mean and of one example."""

    nfe: int
    error: float
    one: float


def full_loop(case: ModelCase, subset: int, every: int) -> Loop:
    """Its own standard error from two draws at every level (at every `every`-th beyond the first fifty)."""
    model, N = case.model, len(case.images)
    levels = len(model.levels())
    keep = sorted({*range(min(50, levels)), *range(0, levels, every), levels - 1})
    rows = torch.linspace(0, N - 1, min(subset, N)).long()
    one = prepare(model, case.images[rows], Run(seed=7), condition=case.condition_of(rows))
    examples = torch.arange(len(rows)).repeat(2)
    numbers = torch.arange(2).repeat_interleave(len(rows))

    def noise_of(draws: Draws) -> float:
        y = one.runner.nats(one.chain, draws).reshape(2, -1)
        return float((y[0] - y[1]).square().mean() / 2)

    noise = []
    with one.chain.model.denoiser.inference():
        first = noise_of(Draws.first_level(examples, numbers))
        for j in keep[1:]:
            cells = torch.full_like(examples, j - 1)
            noise.append(noise_of(Draws(examples, cells + 1, numbers, cells, torch.zeros(len(cells)))))
    curve = np.interp(np.arange(1, levels), keep[1:], noise)
    D = model.domain.dimensions
    error = math.sqrt(first + curve.sum()) / D / math.log(2)
    return Loop(model.steps or levels, error / math.sqrt(N), error)


def protocols(loop: Loop, scale: int) -> list[tuple[str, Estimator]]:
    """Name and estimator, each at a budget that a benchmark can afford; costs are scaled to the target."""
    plain = Adaptive(0.01, design="pooled", controls=False, regression=False)
    return [
        ("uniform t, independent", OneTime("uniform", 4 * scale)),
        ("uniform t, low discrepancy (VDM)", OneTime("low_discrepancy", 4 * scale)),
        ("importance ∝ √E L², independent t", OneTime("importance", 2 * scale)),
        ("stratified, two a stratum, every image", Stratified(2, 2)),
        ("Neyman allocation, stratified", replace(plain, tolerance=0.03)),
        ("+ ‖ε‖² and Gaussian control variates", replace(plain, controls=True, tolerance=0.03)),
        ("+ regression over images = auto at 0.01", Adaptive(0.01)),
        ("auto at the loop's own error", Adaptive(loop.error)),
    ]


def measure(case: ModelCase, estimator: Estimator, reps: int) -> tuple[float, float, float, float, str]:
    """Mean evaluations, mean reported standard error, observed spread, pilot evaluations, what was picked."""
    bounds = [
        evaluate(case.model, case.images, estimator=estimator, condition=case.condition, seed=s) for s in range(reps)
    ]
    pilot = bounds[0].estimator.get("pilot", {}).get("evaluations", 0)
    values = [b.bits_per_dim for b in bounds]
    return (
        float(np.mean([b.nfe_total for b in bounds])),
        float(np.sqrt(np.mean([b.standard_error.estimator**2 for b in bounds]))),
        float(np.std(values, ddof=1)),
        pilot,
        bounds[0].estimator.get("picked", ""),
    )


def report(case: ModelCase, reps: int, subset: int, every: int, scale: int, ours: bool, times: bool) -> None:
    """The table of one model."""
    N = len(case.images)
    loop = full_loop(case, subset, every)
    print(f"\n### {case.name}: N = {N}, D = {case.model.domain.dimensions}, {case.model.parameters} parameters\n")
    own = f"its own SE {loop.error:.5f} bits/dim (one image {loop.one:.4f})"
    print(f"Full loop: {loop.nfe} evaluations an image, {own}.\n")
    print("| estimator | NFE/image in the run | SE predicted | SD observed | NFE/image for 0.01 | saving |", end="")
    print(" NFE/image at the loop's SE | saving |\n|-|-|-|-|-|-|-|-|")
    for name, estimator in protocols(loop, scale)[-2 if ours else 0 :]:
        nfe, se, sd, pilot, picked = measure(case, estimator, reps)
        cells = []
        for target in (0.01, loop.error):
            cost = ((nfe - pilot) * (se / target) ** 2 + pilot) / N
            if isinstance(estimator, Adaptive) and estimator.regression:  # its plan is a part of it: no scaling
                cost = nfe / N if estimator.tolerance == target else math.nan
            cells.append("– | –" if math.isnan(cost) else f"{cost:.2f} | {loop.nfe / cost:.1f}×")
        label = f"{name} ({picked})" if picked else name
        print(f"| {label} | {nfe / N:.2f} | {se:.5f} | {sd:.5f} | {' | '.join(cells)} |", flush=True)
    per_example(case, loop)
    if times:
        wall_time(case)


def per_example(case: ModelCase, loop: Loop) -> None:
    """Evaluations an image at the loop's precision for one image."""
    estimator = Adaptive(loop.error, design="per_example")
    bound = evaluate(case.model, case.images, estimator=estimator, condition=case.condition, per_example=True)
    rows = bound.per_example
    assert rows is not None
    one = float(rows.standard_error.square().mean().sqrt()) / bound.dimensions / math.log(2)
    cost = bound.nfe_per_example
    print(f"\nPer-example mode: {cost:.2f} evaluations an image give {one:.4f} bits/dim for one image", end=" ")
    print(f"(the loop's {loop.one:.4f}): {loop.nfe / cost:.0f}×.")


def wall_time(case: ModelCase) -> None:
    """`evaluate` against the bare network on as many inputs of the same batch shape, by processor time."""
    model, D = case.model, case.model.domain.dimensions
    size = 256
    z, index = torch.randn(size, *model.domain.shape), torch.full((size,), model.levels().logsnr.shape[0] // 2)
    t = model.levels()[index]
    ratios, noise = [], 0.0
    estimator = Adaptive(design="per_example", strata=3)
    with model.denoiser.inference(), torch.no_grad():
        for _ in range(3):
            started = time.process_time()
            options = {"condition": case.condition, "batch_size": size}
            nfe = evaluate(model, case.images, estimator=estimator, **options).nfe_total
            ours = time.process_time() - started
            started = time.process_time()
            for _ in range(round(nfe / size)):
                model.denoiser(z, t, case.condition_of(torch.zeros(size).long()) or {})
            bare = time.process_time() - started
            ratios.append(ours / bare)
        started = time.process_time()
        for k in range(20):
            random.normal(0, torch.arange(size), 1, k, model.domain.shape)
        noise = (time.process_time() - started) / 20 / size
    print(f"Processor time of evaluate / bare network: {min(ratios):.3f} (best of 3); network", end=" ")
    number = noise / D * 1e9
    print(f"{bare / nfe * 1e6:.0f} µs an evaluation, keyed noise {noise * 1e6:.1f} µs, {number:.0f} ns a number.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small models and few repetitions, to see that it runs")
    parser.add_argument("--reps", type=int, default=10)
    parser.add_argument("--ours", action="store_true", help="without the protocols of others")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--no-times", action="store_true", help="without the processor time beside the bare network")
    parser.add_argument("--only", nargs="*", default=["cifar16", "foreign16", "fashion", "digits"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--subset", type=int, default=96, help="images for the loop's own standard error")
    parser.add_argument("--scale", type=int, default=4, help="budget of the published protocols; their cost is scaled")
    parser.add_argument("--every", type=int, default=10, help="thinning of its levels beyond the first fifty")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.reps, options.images, options.subset, options.runs = 3, min(options.images, 100), 8, Path("runs/quick")
    print(f"nelbo {nelbo.__version__}, torch {torch.__version__}, one thread, {options.reps} repetitions")
    for case in cases(options.only, options.runs, options.images, options.quick):
        scale = 1 if options.quick else options.scale
        report(case, options.reps, options.subset, options.every, scale, options.ours, not options.no_times)


if __name__ == "__main__":
    main()

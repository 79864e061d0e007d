"""Network evaluations to classify an image by a conditional model: `nelbo.contrast` beside other protocols.

    python benchmarks/contrast.py digits [--images 60]
    python benchmarks/contrast.py fashion --data ../shared/data/fashion_mnist [--images 30]

A class-conditional DDPM of nelbo's own (ε̂, linear β, T = 1000, L_simple, as such classifiers have) is trained and kept
under runs/, or taken from --model, and every protocol is asked how many evaluations an image, all ten classes counted,
it takes until 99 % of its decisions are those that endless draws make, of images whose best two classes are a nat or
more apart. Of protocols with a fixed number of draws this is computed from the variances that strata of draws show; the
race is run, at several seeds. The published protocol (Li et al. 2023) decides by the error of ε̂ without the weights of
the bound, at even times, keeps five classes after a tenth of the draws and then one: its evaluations are given for its
own decision, on as many images as are clear to the bound, and the share of images on which both agree. The race is run
at several confidences: 0.95 is a certificate, and lower ones show what decisions of which 99 % are right take.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nelbo
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import Alternatives, Conditions, UnderConditions
from nelbo.bound.contrast.places import Places
from nelbo.bound.planned.allocation import CellDensity
from nelbo.bound.prepare import prepare
from nelbo.bound.problem import Draws
from nelbo.bound.runner import Runner

CLASSES, STRATA, SURE = 10, 64, 0.99
CLEAR = 1.0
"""Nats between the best two classes of an image that counts."""
CONFIDENCES = (0.95, 0.8, 0.5)


COMMON = {
    "condition": "y", "objective": "simple", "schedule": {"name": "linear", "T": 1000}, "levels": 1000, "ema": 0.998,
    "warmup": 100, "weight_decay": 0.01, "reconstruction_share": 0.02,
}  # fmt: skip
HOW = {
    "digits": {"steps": 2500, "batch_size": 192, "lr": 1e-3,
               "net": {"name": "mlp", "head": "plain", "predicts": "eps", "size": "small"}},
    "fashion": {"steps": 5450, "batch_size": 64, "lr": 2e-3, "channels_last": True,
                "net": {"name": "unet", "head": "plain", "predicts": "eps", "width": 16, "multipliers": [1, 2, 4],
                        "blocks": 1, "patch": 2, "attention": False}},
}  # fmt: skip
"""How the networks are trained: about one and twelve minutes on one core of 2026."""


def network(name: str, data: str, model: str | None) -> tuple[nelbo.DiffusionModel, nelbo.Examples]:
    """The trained model and its test images."""
    folder = Path(model) if model else Path("runs/contrast") / name
    train, test = (
        ("digits:train", "digits:test")
        if name == "digits"
        else (f"{data}/train-images-idx3-ubyte.gz", f"{data}/t10k-images-idx3-ubyte.gz")
    )
    if not (folder / "model.json").exists():
        began = time.process_time()
        nelbo.train(train, folder, {**COMMON, **HOW[name]}, progress=False)
        print(f"trained in {time.process_time() - began:.0f} CPU seconds")
    from nelbo import data as readers

    return nelbo.load(folder), readers.resolve(test)


class Measured:
    """Values of pairs of draws at some density, and what they say of a protocol: its variance for one evaluation a
    class, of the differences of two classes (N, C, C)."""

    def __init__(self, alternatives: Alternatives, runner: Runner, where: Places, opposite: bool, plain: bool = False):
        chain, N = alternatives.chain, alternatives.chain.examples
        left = torch.ones(N, CLASSES, dtype=torch.bool)

        def nats(draws: Draws, of: Tensor) -> Tensor:
            found = alternatives.nats(runner, draws, left[of])
            if plain:
                scale = torch.ones(1) if draws.cells is None else chain.cells.scale[draws.cells]
                found = found / scale[:, None]
            return found

        values = places.drawn(chain, where, torch.arange(N), 0, STRATA, CLASSES, nats, opposite=opposite).values
        halves = (values[:, 0::2] - values[:, 1::2]) / STRATA
        covariance = torch.einsum("nkc,nkd->ncd", halves, halves)
        spent = STRATA * (2 if opposite else 1)
        self.mean = values.mean(1)
        alone = covariance.diagonal(dim1=1, dim2=2)
        self.independent = spent * (alone[:, :, None] + alone[:, None])
        self.paired = self.independent - 2 * spent * covariance
        self.covariance = spent * covariance


def evaluations(variance: Tensor, totals: Tensor, rows: Tensor) -> float:
    """Evaluations an image for `SURE` of the decisions of the images `rows`, from the variance of one evaluation a
    class: a decision is right where the best class is below every other, each a normal deviate away."""
    totals, variance = totals[rows], variance[rows]
    best = totals.argmin(1)
    gap = totals - totals.gather(1, best[:, None])
    spread = variance.gather(1, best[:, None, None].expand(-1, 1, CLASSES))[:, 0].clamp_min(1e-12)
    others = torch.ones_like(gap).scatter(1, best[:, None], 0.0).bool()
    low, high = 0.0, 30.0
    for _ in range(60):
        n = 2 ** ((low + high) / 2)
        right = torch.special.ndtr(gap * (n / spread).sqrt()).masked_fill(~others, 1.0).prod(1)
        low, high = (low, (low + high) / 2) if float(right.mean()) >= SURE else ((low + high) / 2, high)
    return CLASSES * 2**high


def staged(measured: Measured, rows: Tensor, keep: int = 5, growth: int = 10, runs: int = 200) -> float:
    """Evaluations an image of the published protocol: `keep` classes are left after n draws, and one after `growth` n.
    Means of draws are normal with the covariance measured; n is the least for which `SURE` of the decisions are right.
    """
    totals = measured.mean[rows]
    jitter = 1e-9 * measured.covariance[rows].diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(CLASSES)
    root = torch.linalg.cholesky(measured.covariance[rows] + jitter)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, runs, len(rows), CLASSES, generator=generator, dtype=torch.float64)
    first, rest = torch.einsum("ncd,arnd->arnc", root, noise)
    for power in range(0, 64):
        n = 2 ** (power / 4)
        early = totals + first / n**0.5
        late = totals + first / n**0.5 / growth + rest * ((growth - 1) / n) ** 0.5 / growth
        kept = early.argsort(2)[..., :keep]
        decided = kept.gather(2, late.gather(2, kept).argmin(2, keepdim=True))[..., 0]
        if float((decided == totals.argmin(1)).double().mean()) >= SURE:
            return n * CLASSES + (growth - 1) * n * keep
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["digits", "fashion"])
    parser.add_argument("--data", default="../shared/data/fashion_mnist")
    parser.add_argument("--model", metavar="FOLDER")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--reference", type=int, default=1024, metavar="STRATA")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, test = network(arguments.name, arguments.data, arguments.model)
    model = model.with_grid(nelbo.grids.even(1000))
    test = test.first(arguments.images)
    one = prepare(model, test)
    alternatives = UnderConditions(
        one.chain, Conditions.of("y", range(CLASSES)).rows, torch.zeros(CLASSES, dtype=torch.bool)
    )
    chain, runner = one.chain, one.runner
    with chain.model.denoiser.inference():
        planned = places.piloted(alternatives, runner)
        even = Places(CellDensity.of(torch.ones(len(planned), dtype=torch.float64)), planned.first)
        of_bound = neyman(alternatives, runner)
        left = torch.ones(len(test), CLASSES, dtype=torch.bool)
        rows = torch.arange(len(test))
        totals = torch.cat(
            [
                places.draw(alternatives, runner, planned, some, left[some], 1 << 13, arguments.reference).values.mean(
                    1
                )
                for some in rows.split(4)
            ]
        )
        gaps = totals.sort(1).values.diff(dim=1)[:, 0]
        clear = (gaps >= CLEAR).nonzero()[:, 0]
        measured = {
            "even": Measured(alternatives, runner, even, False),
            "bound": Measured(alternatives, runner, of_bound, False),
            "difference": Measured(alternatives, runner, planned, False),
            "opposite": Measured(alternatives, runner, planned, True),
            "plain": Measured(alternatives, runner, even, False, plain=True),
        }
    accuracy = float((totals.argmin(1) == test.labels).double().mean())
    largest = float((-totals).softmax(1).max(1).values.mean())
    print(
        f"{arguments.name}: {len(test)} images, {len(clear)} with a gap of a nat or more; accuracy {accuracy:.3f}, "
        f"mean largest posterior {largest:.3f}"
    )
    table: list[tuple[str, float]] = [
        ("independent noise, allocated by the bound", evaluations(measured["bound"].independent, totals, clear)),
        ("even times, common noise", evaluations(measured["even"].paired, totals, clear)),
        ("allocated by the bound, common noise", evaluations(measured["bound"].paired, totals, clear)),
        ("allocated by the difference, common noise", evaluations(measured["difference"].paired, totals, clear)),
        ("  in pairs of opposite noise", evaluations(measured["opposite"].paired, totals, clear)),
    ]
    own = measured["plain"].mean
    own_gap = own.sort(1).values.diff(dim=1)[:, 0]
    chosen = own_gap.argsort(descending=True)[: len(clear)]
    table.append(
        ("ε-MSE at even times, common noise, for its own decision", evaluations(measured["plain"].paired, own, chosen))
    )
    table.append(("  and staged, five classes kept after a tenth", staged(measured["plain"], chosen)))
    for label, value in table:
        print(f"  {label:58s} {value:12,.0f}")
    agree = float((own.argmin(1) == totals.argmin(1)).double().mean())
    raced(model, test, totals, clear, arguments.seeds)
    print(f"  ε-MSE and the bound agree on {agree:.3f} of the images")


def neyman(alternatives: Alternatives, runner: Runner) -> Places:
    """Places by the root mean square of single terms, as an estimate of the bound has them."""
    even = Places.even(alternatives)
    rows = torch.arange(min(12, alternatives.chain.examples))
    left = torch.ones(len(rows), CLASSES, dtype=torch.bool)
    seen = places.draw(alternatives, runner, even, rows, left, 1 << 12, 64)
    squares = (seen.values[..., 0] * even.density.p[seen.places]).square()
    return places.by_squares(squares, seen.places, even, alternatives.chain)


def raced(model: nelbo.DiffusionModel, test: nelbo.Examples, totals: Tensor, clear: Tensor, seeds: int) -> None:
    """The races, whose evaluations do not count the pilot, which does not grow with the images."""
    best = totals.argmin(1)
    for confidence in CONFIDENCES:
        spent, right, gone = [], [], []
        for seed in range(seeds):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*are not decided")
                found: Any = nelbo.contrast(
                    model, test, "y", range(CLASSES), confidence=confidence, indifference=0.5, seed=seed
                )
            spent.append(found.evaluations[clear].double())
            right.append((found.best == best)[clear].double())
            gone.append((~found.left.gather(1, best[:, None]))[clear].double())
        values = torch.cat(spent).numpy()
        print(
            f"  {f'nelbo.contrast, confidence {confidence}, indifference 0.5 nats':58s} {values.mean():12,.0f}   "
            f"median {np.median(values):,.0f}, agreement {float(torch.cat(right).mean()):.4f}, "
            f"wrong eliminations {float(torch.cat(gone).mean()):.4f}"
        )


if __name__ == "__main__":
    main()

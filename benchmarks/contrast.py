"""Network evaluations to classify an image by a conditional model: `nelbo.contrast` beside other protocols.

    .venv/bin/python benchmarks/contrast.py digits [--steps 2000] [--images 60]
    .venv/bin/python benchmarks/contrast.py fashion --data ../shared/data/fashion_mnist [--steps 3000]

A class-conditional network of nelbo's own is trained (and kept under runs/), and every protocol is asked how many
evaluations an image, all ten classes counted, it takes until 99 % of its decisions are those that endless draws make,
of images whose best two classes are a nat or more apart. Of protocols with a fixed number of draws this is computed
from the variances that 64 strata of draws show; the race is run, at three seeds. The published protocol decides by the
error of ε̂ without the weights of the bound, at even times: its evaluations are given for its own decision, on as many
images as are clear to the bound, and the share of images on which both agree.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
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


def network(name: str, data: str, steps: int) -> tuple[nelbo.DiffusionModel, nelbo.Examples]:
    """The trained model and its test images."""
    folder = Path("runs/contrast") / f"{name}-{steps}"
    train, test = (
        ("digits:train", "digits:test")
        if name == "digits"
        else (f"{data}/train-images-idx3-ubyte.gz", f"{data}/t10k-images-idx3-ubyte.gz")
    )
    if not (folder / "model.json").exists():
        began = time.perf_counter()
        nelbo.train(train, folder, {"condition": "y", "steps": steps, "checkpoint_every": steps}, progress=False)
        print(f"trained for {steps} steps in {time.perf_counter() - began:.0f} s")
    from nelbo import data as readers

    return nelbo.load(folder), readers.resolve(test)


class Measured:
    """Values of pairs of draws at some density, and what they say of a protocol: its variance for one evaluation a
    class, of the differences of two classes (N, C, C)."""

    def __init__(self, alternatives: Alternatives, runner: Runner, where: Places, opposite: bool, plain: bool = False):
        chain, N = alternatives.chain, alternatives.chain.examples
        left = torch.ones(N, CLASSES, dtype=torch.bool)

        def nats(draws: Draws, of: Tensor) -> Tensor:
            if not opposite:
                draws = replace(draws, signs=None)  # both draws of a pair are the same one
            found = alternatives.nats(runner, draws, left[of])
            if plain:
                scale = torch.ones(1) if draws.cells is None else chain.cells.scale[draws.cells]
                found = found / scale[:, None]
            return found

        values = places.drawn(chain, where, torch.arange(N), 0, STRATA, CLASSES, nats).values
        halves = (values[:, 0::2] - values[:, 1::2]) / STRATA
        covariance = torch.einsum("nkc,nkd->ncd", halves, halves)
        spent = STRATA * (2 if opposite else 1)
        self.mean = values.mean(1)
        alone = covariance.diagonal(dim1=1, dim2=2)
        self.independent = spent * (alone[:, :, None] + alone[:, None])
        self.paired = self.independent - 2 * spent * covariance


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["digits", "fashion"])
    parser.add_argument("--data", default="../shared/data/fashion_mnist")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--reference", type=int, default=1024, metavar="STRATA")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, test = network(arguments.name, arguments.data, arguments.steps)
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
    print(f"{arguments.name}: {len(test)} images, accuracy {accuracy:.3f}, {len(clear)} with a gap of a nat or more")
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
    scale = torch.cat([torch.ones(even.first, dtype=torch.float64), alternatives.chain.cells.scale.double()])
    along = seen.places >= even.first
    smooth = places._smooth(
        (squares / scale[seen.places].square())[along], seen.places[along] - even.first, alternatives.chain.cells.place
    )
    weights = torch.cat([squares[~along].mean().sqrt()[None].expand(even.first), scale[even.first :] * smooth.sqrt()])
    p = 0.9 * CellDensity.of(weights.nan_to_num(1e-6)).p + 0.1 * even.density.p
    return Places(CellDensity.of(p), even.first)


def raced(model: nelbo.DiffusionModel, test: nelbo.Examples, totals: Tensor, clear: Tensor, seeds: int) -> None:
    """The races, whose evaluations do not count the pilot, which does not grow with the images."""
    spent, right, gone = [], [], []
    for seed in range(seeds):
        found: Any = nelbo.contrast(model, test, "y", range(CLASSES), confidence=0.95, indifference=0.5, seed=seed)
        best = totals.argmin(1)
        spent.append(found.evaluations[clear].double())
        right.append((found.best == best)[clear].double())
        gone.append((~found.left.gather(1, best[:, None]))[clear].double())
    values = torch.cat(spent).numpy()
    print(
        f"  {'nelbo.contrast, confidence 0.95, indifference 0.5 nats':58s} {values.mean():12,.0f}   "
        f"median {np.median(values):,.0f}, agreement {float(torch.cat(right).mean()):.4f}, "
        f"wrong eliminations {float(torch.cat(gone).mean()):.4f}"
    )


if __name__ == "__main__":
    main()

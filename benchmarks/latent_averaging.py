"""What a latent model's bound saves by averaging its steps over q(z | x), as `SpreadChain` does.

    python benchmarks/latent_averaging.py MODEL DATA [--limit N] [--cells N]

For each of some cells of the chain over latents, evenly spaced, the variance of a term of one example is measured from
two draws: where z is averaged over given z_t, and where it is drawn. With the best allocation the evaluations for a
standard error go as (Σ_j s_j)² of the cells' standard deviations, so that the ratio of these is what is saved.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

import nelbo
from nelbo.bound.latent.evaluate import prepare
from nelbo.bound.latent.spread import SpreadChain
from nelbo.bound.problem import Draws
from nelbo.data import resolve
from nelbo.workers import Run


class Drawn(SpreadChain):
    """The chain in which z is drawn, given z_t."""

    averaged_steps = False


def spreads(chain: SpreadChain, cells: torch.Tensor) -> torch.Tensor:
    """Root mean variance of a term of one example at each cell, in nats, (cells,)."""
    n = chain.examples
    examples, found = torch.arange(n).repeat(2), []
    for cell in cells.tolist():
        at = torch.full((2 * n,), cell)
        draws = Draws(examples, at, torch.arange(2 * n), at, torch.full((2 * n,), 0.5, dtype=torch.float64))
        first, second = chain.columns(draws, None, torch.arange(2 * n))[:, 0].reshape(2, n)
        found.append((first - second).square().mean() / 2)
    return torch.stack(found).sqrt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--cells", type=int, default=24)
    options = parser.parse_args()
    model = nelbo.load(options.model)
    assert isinstance(model, nelbo.LatentModel)
    inner = prepare(model, resolve(options.data, limit=options.limit), Run()).chain.inner
    fields = {f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)}
    last = len(inner.cells) - 1
    cells = torch.linspace(0, last, options.cells).round().long().unique()
    averaged, drawn = (spreads(kind(**fields), cells) for kind in (SpreadChain, Drawn))
    print("| log-SNR | s, z averaged over | s, z drawn | ratio of variances |")
    print("|-|-|-|-|")
    for cell, a, d in zip(cells.tolist(), averaged.tolist(), drawn.tolist(), strict=True):
        print(f"| {float(-inner.cells.place[cell]):.1f} | {a:.4f} | {d:.4f} | {(d / a) ** 2:.2f} |")
    print(f"\nevaluations for a standard error, drawn over averaged: {float((drawn.sum() / averaged.sum()) ** 2):.2f}")


if __name__ == "__main__":
    main()

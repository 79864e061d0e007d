"""The error of a simulator's parameter by `nelbo.likelihood_profile`, beside bounds that are computed one by one.

    python benchmarks/likelihood_profile.py [--repetitions 20] [--json profile.json]

The network is the exact one of a mixture of two Gaussians whose places and weights depend on θ, so that the likelihood
and its maximum are known. 12 observations, 21 values of θ, and as many evaluations for every protocol: 64 a value and
observation. Given is the root mean square of θ̂ less the exact maximum, over repetitions with new noise; the error that
the data leave; and, over data sets, how often intervals hold the true value.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings

import numpy as np
import torch
from torch import Tensor

import nelbo
from nelbo import testing
from nelbo.bound.contrast import places
from nelbo.bound.contrast.alternatives import UnderConditions
from nelbo.bound.contrast.curve import Curve
from nelbo.bound.contrast.places import Places
from nelbo.bound.prepare import prepare
from nelbo.files import write_atomic
from nelbo.workers import Run

SCHEDULE = nelbo.schedules.logsnr_linear(9.0, -9.0)
GRID = torch.linspace(-1.6, 2.0, 21, dtype=torch.float64)
TRUE, OBSERVATIONS, DRAWS = 0.3, 12, 64


def law(theta: float) -> nelbo.exact.MixtureData:
    """Two clusters that move and trade weight."""
    means = torch.tensor([[0.8 * theta, 0.5], [-0.6, 0.7 * math.sin(theta)]], dtype=torch.float64)
    share = 1 / (1 + math.exp(-theta))
    return nelbo.exact.MixtureData(torch.tensor([share, 1 - share]), means, torch.tensor([0.25, 0.15]))


def network(z: Tensor, t: Tensor, theta: Tensor) -> Tensor:
    """The exact ε̂ of the law of each row's θ."""
    out = torch.empty_like(z)
    for value in theta.unique().tolist():
        rows = (theta == value).nonzero()[:, 0]
        out[rows] = testing.as_network(testing.oracle(law(value)), SCHEDULE, "eps", "logsnr")(z[rows], t[rows])
    return out


def model() -> nelbo.DiffusionModel:
    """On a continuous grid, whose bound with the exact network is −log p but for its ends."""
    made = nelbo.from_callable(
        network, schedule=SCHEDULE, domain=nelbo.DataDomain((2,)), predicts="eps", time="logsnr", modules=[]
    )
    return made.with_grid(nelbo.grids.continuous())


def alone(x: Tensor, seed: int, neyman: bool) -> float:
    """θ̂ of values that are computed one by one, each with noise of its own; times even, or by the mean square of
    terms."""
    totals = []
    for j, value in enumerate(GRID):
        one = prepare(model(), x, Run(seed=1000 * seed + j, precision="float64"))
        single = UnderConditions(one.chain, {"theta": value[None]}, torch.zeros(1, dtype=torch.bool))
        rows, left = torch.arange(len(x)), torch.ones(len(x), 1, dtype=torch.bool)
        where = Places.even(single)
        if neyman:
            seen = places.draw(single, one.runner, where, rows, left, places.PILOT_NUMBERS, 8)
            terms = (seen.values[..., 0] * where.density.p[seen.places]).square()
            where = places.by_squares(terms, seen.places, where, one.chain)

        def nats(draws, of, single=single, one=one):
            return single.nats(one.runner, draws, torch.ones(len(draws), 1, dtype=torch.bool))

        drawn = places.drawn(one.chain, where, rows, 0, DRAWS, 1, nats, opposite=False)
        totals.append(float(drawn.values.mean(1).sum()))
    return Curve(GRID.numpy(), np.array(totals)).minimum().place


def together(x: Tensor, seed: int) -> nelbo.Profile:
    """The profile with as many evaluations; pilots and the trial of the network are not counted."""
    most = OBSERVATIONS * len(GRID) * (DRAWS + 2 * places.PILOT_STRATA) + 16
    return nelbo.likelihood_profile(
        model(), x, "theta", GRID, tolerance=1e-4, max_nfe=most, seed=seed, precision="float64"
    )


def exact(x: Tensor) -> Curve:
    """The likelihood's own curve."""
    return Curve(GRID.numpy(), np.array([-float(law(float(t)).log_prob(x).sum()) for t in GRID]))


def measure(repetitions: int, data_sets: int) -> dict:
    """See the module."""
    x = law(TRUE).sample(OBSERVATIONS, seed=1)
    right = exact(x).minimum()
    found = {
        "independent, even times": [alone(x, seed, False) for seed in range(repetitions)],
        "independent, Neyman": [alone(x, seed, True) for seed in range(repetitions)],
        "nelbo.likelihood_profile": [together(x, seed).maximum for seed in range(repetitions)],
    }
    rmse = {name: float(np.sqrt(np.mean((np.array(v) - right.place) ** 2))) for name, v in found.items()}
    hits = []
    for k in range(data_sets):
        low, high = together(law(TRUE).sample(OBSERVATIONS, seed=100 + k), k).interval()
        hits.append(low <= TRUE <= high)
    return {
        "schema": "nelbo.benchmark.likelihood_profile/1",
        "evaluations_a_value_and_observation": DRAWS,
        "maximum": right.place,
        "error_of_the_data": right.information**-0.5,
        "rmse": rmse,
        "ratio_to_neyman": rmse["independent, Neyman"] / rmse["nelbo.likelihood_profile"],
        "coverage": float(np.mean(hits)) if hits else None,
        "data_sets": data_sets,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--data-sets", type=int, default=100)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = measure(given.repetitions, given.data_sets)
    print(json.dumps(result, indent=1))
    if given.json:
        write_atomic(given.json, json.dumps(result, indent=1) + "\n")

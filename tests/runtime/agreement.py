"""Two processes that were given different things, case by case: run by a launcher, each writes what it was told.

torchrun --nproc-per-node 2 agreement.py FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import nelbo
from nelbo import runtime
from nelbo.errors import UsageError
from nelbo.model.exact import CategoricalData
from nelbo.model.prior import GaussianPrior
from nelbo.workers import Workers

DATA = CategoricalData(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]))
CODES = DATA.sample(9)
OTHER = CODES.flip(0)
"""Of one shape, and with one value at the end of an average: only the order differs."""
TRAINING = {"steps": 2, "batch_size": 4, "bins": 3, "net": {"name": "mlp", "width": 8}, "schedule": "logsnr_linear"}


def model(first: float = 6.0) -> nelbo.DiffusionModel:
    exact = DATA.model(nelbo.schedules.logsnr_linear(first, -6.0), nelbo.grids.even(12))
    return dataclasses.replace(exact, prior=GaussianPrior())


def network(z: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return z * y[:, None].to(z.dtype)


def conditional() -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        network, schedule=nelbo.schedules.linear(12, 1e-2, 0.4), domain=nelbo.DataDomain((2,), bins=3)
    )


def evaluate(workers: Workers, given=None, data=CODES, **options: Any) -> float:
    return nelbo.evaluate(given or model(), data, workers=workers, **options).bits_per_dim


def ode(workers: Workers, data=CODES, steps: int = 4, **options: Any) -> float:
    return nelbo.ode_likelihood(model(), data, steps=steps, workers=workers, **options).bits_per_dim


def compare(workers: Workers, second: float = 5.0, data=CODES, **options: Any) -> float:
    return nelbo.compare(model(), model(second), data, tolerance=0.5, workers=workers, **options).difference


def sample(workers: Workers, n: int = 5, given=None, **options: Any) -> list:
    return nelbo.sample(given or model(), n, workers=workers, **options).tolist()


def train(workers: Workers, data=CODES, out: str = "run", **settings: Any) -> str:
    return nelbo.train(data, FOLDER / out, {**TRAINING, **settings}, workers=workers).fingerprint()


ROWS = {"y": torch.arange(9)}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "data": (evaluate, {}, {"data": OTHER}, "data"),
    "fewer examples": (evaluate, {}, {"data": CODES[:8]}, "data"),
    "model": (evaluate, {}, {"given": model(5.0)}, "model"),
    "seed": (evaluate, {}, {"seed": 1}, "seed"),
    "tolerance": (evaluate, {"estimator": "pooled", "tolerance": 0.5}, {"tolerance": 0.3}, "estimator"),
    "estimator": (evaluate, {"estimator": "exhaustive"}, {"estimator": "stratified"}, "estimator"),
    "precision": (evaluate, {}, {"precision": "float64"}, "precision"),
    "batch size": (evaluate, {}, {"batch_size": 2}, "batch_size"),
    "rows of examples": (evaluate, {}, {"per_example": True}, "estimator, per_example"),
    "condition": (
        evaluate, {"given": conditional(), "condition": ROWS}, {"condition": {"y": ROWS["y"] + 1}}, r"condition\.y"
    ),
    "model and seed": (evaluate, {}, {"given": model(5.0), "seed": 3}, "model, seed"),
    "ode: data": (ode, {}, {"data": OTHER}, "data"),
    "ode: steps": (ode, {}, {"steps": 6}, "ode"),
    "compare: data": (compare, {}, {"data": OTHER}, "data"),
    "compare: second model": (compare, {}, {"second": 4.0}, "compared_with"),
    "sample: number": (sample, {}, {"n": 6}, "n"),
    "sample: seed": (sample, {}, {"seed": 1}, "seed"),
    "sample: sampler": (sample, {}, {"sampler": "ddim"}, r"sampler\.eta, sampler\.name"),
    "sample: steps": (sample, {}, {"steps": 6}, "model"),
    "sample: start": (sample, {"start": torch.zeros(5, 2)}, {"start": torch.ones(5, 2)}, "start"),
    "sample: condition": (
        sample,
        {"given": conditional(), "condition": {"y": torch.zeros(5)}},
        {"condition": {"y": torch.ones(5)}},
        r"condition\.y",
    ),
    "train: data": (train, {"out": "a"}, {"data": OTHER}, "data"),
    "train: learning rate": (train, {"out": "b"}, {"lr": 0.1}, r"config\.lr"),
    "train: seed": (train, {"out": "c"}, {"seed": 7}, r"config\.seed"),
}  # fmt: skip
"""Verb, what both processes are given, what the second is given besides, and the names in the error."""
SHARED = {
    name: CASES[name][:2]
    for name in ("data", "tolerance", "condition", "ode: data", "compare: data", "sample: start", "sample: condition")
}


def asked(verb: Any, workers: Workers, given: dict[str, Any]) -> Any:
    try:
        return verb(workers, **given)
    except UsageError as error:
        return {"error": error.message, "hint": error.hint}


def main() -> None:
    """Every case with different things, another verb in each process, and the cases with equal things."""
    workers = runtime.workers()
    second = workers.rank == 1
    told: dict[str, Any] = {
        name: asked(verb, workers, given | (more if second else {})) for name, (verb, given, more, _) in CASES.items()
    }
    told["verb"] = asked(sample if second else evaluate, workers, {})
    told["equal"] = {name: asked(verb, workers, given) for name, (verb, given) in SHARED.items()}
    (FOLDER / f"told-{workers.rank}.json").write_text(json.dumps(told))
    runtime.finish()
    runtime.leave(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    FOLDER = Path(sys.argv[1])
    main()

"""The difference of two results on the same examples: of like quantities only."""

from __future__ import annotations

import math
from typing import Any

import torch

from nelbo._version import __version__
from nelbo.bound.compare import Comparison
from nelbo.bound.result import Bound, StandardError
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim


def compare_results(a: Bound | Any, b: Bound | Any) -> Comparison:
    """A − B of two results with per-example values, with the standard error of the paired differences.

    `estimator` takes the two estimates as independent; `total` is the spread of the differences over √N, and nan for
    one example.

    Errors: UsageError for a result and something else, for a variational bound and an ODE likelihood, for a mass and a
    density, for other examples or another domain, and where a result has no per-example values.
    """
    if not (isinstance(a, Bound) and isinstance(b, Bound)):
        raise UsageError(
            f"a {type(a).__name__} was compared with a {type(b).__name__}",
            "give two models and data, or two results of the same kind",
        )
    unlike = {
        "quantity": (a.quantity, b.quantity),
        "what is scored": (_scores(a), _scores(b)),
        "data domain": (a.description["domain"], b.description["domain"]),
        "examples": (a.data["fingerprint"][:12], b.data["fingerprint"][:12]),
    }
    for what, (of_a, of_b) in unlike.items():
        if of_a != of_b:
            raise UsageError(
                f"the results are of unlike {what}: {of_a} and {of_b}",
                "a variational bound, an ODE likelihood and a density are different numbers even of one model: "
                "evaluate both models in the same way, on the same examples",
            )
    if a.per_example is None or b.per_example is None:
        raise UsageError(
            "a result without per-example values cannot be compared", "evaluate both models with per_example=True"
        )
    difference = a.per_example.nats - b.per_example.nats
    n, D = len(difference), a.dimensions
    noise = (a.per_example.standard_error.square() + b.per_example.standard_error.square()).mean() / n
    total = difference.var() / n if n > 1 else torch.tensor(math.nan)

    def bits(nats: float) -> float:
        return float(bits_per_dim(nats, D))

    return Comparison(
        difference=bits(float(difference.mean())),
        standard_error=StandardError(
            bits(math.sqrt(noise)), bits(math.sqrt((total - noise).clamp(min=0))), bits(math.sqrt(total))
        ),
        a=a.bits_per_dim,
        b=b.bits_per_dim,
        per_example=difference,
        examples=n,
        dimensions=D,
        nfe_total=a.nfe_total + b.nfe_total,
        common_noise=a.seed == b.seed,
        tolerance=math.nan,
        seed=a.seed,
        precision=a.precision,
        data=a.data,
        models=({**a.model, **a.description}, {**b.model, **b.description}),
        version=__version__,
        warnings=(*a.warnings, *b.warnings),
        seconds=a.seconds + b.seconds,
    )


def _scores(result: Bound) -> str:
    known = result.estimator.get("scores")
    return known or ("mass" if result.description["domain"]["bins"] else "density")

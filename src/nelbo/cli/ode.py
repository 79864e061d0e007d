"""The options of `nelbo evaluate --ode`: the probability-flow likelihood in the place of the variational bound."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nelbo.errors import UsageError

Ode = Annotated[bool, typer.Option("--ode", help="The probability-flow likelihood, not the variational bound.")]
Steps = Annotated[
    int | None, typer.Option("--ode-steps", min=2, metavar="K", help="With --ode: steps, an even number.")
]
Solver = Annotated[str | None, typer.Option("--ode-solver", metavar="NAME", help="With --ode: rk4 or heun.")]
Tolerance = Annotated[
    float | None,
    typer.Option("--ode-tolerance", metavar="BPD", help="With --ode: double each example's steps down to this error."),
]
Probes = Annotated[
    int | None, typer.Option("--probes", min=1, metavar="N", help="With --ode: random probes of the divergence.")
]
ExactTrace = Annotated[
    bool, typer.Option("--exact-trace", help="With --ode: the exact divergence, a backward pass a dimension.")
]
Dequantise = Annotated[
    str | None,
    typer.Option(
        "--dequantisation", metavar="NAME", help="With --ode: variational, uniform, truncated_normal, flow or none."
    ),
]
Draws = Annotated[
    int | None, typer.Option("--draws", min=1, metavar="N", help="With --ode: starting points an example.")
]
Importance = Annotated[
    int | None, typer.Option("--importance", min=1, metavar="K", help="With --ode: points under one logarithm.")
]


def settings(wanted: bool, given: dict[str, Any], foreign: dict[str, Any]) -> dict[str, Any]:
    """What was given of the ODE's own options, as keywords; `foreign` are the bound's own.

    Errors: UsageError for one of the ODE's options without --ode, or of the bound's with it.
    """
    chosen = {name: value for name, value in given.items() if value not in (None, False)}
    if not wanted and chosen:
        first = next(iter(chosen))
        own = f"ode_{first}" if first in ("steps", "solver", "tolerance") else first
        raise UsageError(f"{_flag(own)} was given without --ode", "add --ode, or leave it out")
    for name, value in foreign.items():
        if wanted and value not in (None, False):
            raise UsageError(
                f"{_flag(name)} belongs to the variational bound, and --ode was given",
                "the ODE likelihood has --ode-steps, --ode-tolerance, --probes, --exact-trace and --draws",
            )
    return chosen


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

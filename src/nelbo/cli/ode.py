"""`nelbo ode`: the likelihood of the probability-flow ODE; and its old name, `nelbo evaluate --ode`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from nelbo import runtime
from nelbo.cli import options
from nelbo.cli.output import deliver, shared_session
from nelbo.errors import Interrupted, UsageError
from nelbo.progress import shown, to_stderr


def ode(
    model: options.Model,
    data: options.Data,
    *,
    solver: Annotated[str, typer.Option("--solver", metavar="NAME", help="rk4 or heun.")] = "rk4",
    steps: Annotated[int, typer.Option("--steps", min=2, metavar="K", help="Steps of a solve, an even number.")] = 64,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", metavar="BPD", help="Double the steps of each example until its error is below this."
        ),
    ] = None,
    probes: Annotated[
        int | None, typer.Option("--probes", min=1, metavar="N", help="Estimate the divergence by N random probes.")
    ] = None,
    exact_trace: Annotated[
        bool,
        typer.Option(
            "--exact-trace", help="The exact divergence, a backward pass a dimension; the default up to 16 dimensions."
        ),
    ] = False,
    dequantisation: Annotated[
        str,
        typer.Option("--dequantisation", metavar="NAME", help="variational, uniform, truncated_normal, flow or none."),
    ] = "variational",
    draws: Annotated[
        int | None, typer.Option("--draws", min=1, metavar="N", help="Starting points of an example (2).")
    ] = None,
    importance: Annotated[
        int, typer.Option("--importance", min=1, metavar="K", help="Points of an importance-weighted bound.")
    ] = 1,
    limit: options.Limit = None,
    running: options.Running,
    precision: options.Precision = "float32",
    files: options.Files,
    as_json: options.Json = False,
    condition: options.Condition = None,
    missing: options.Missing = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Score data by the probability-flow ODE of a model.

    It is another number than the variational bound of `nelbo evaluate`, and neither bounds the other. Codes are
    dequantised, and the result is then an upper bound of their negative log-likelihood under the flow.
    """
    with shared_session(as_json) as output:
        files.check()
        from nelbo import api

        with shown("solving", silent=output.silent) as progress:
            likelihood = api.ode_likelihood(
                model,
                data,
                solver=solver,
                steps=steps,
                tolerance=tolerance,
                probes=probes,
                exact_trace=exact_trace or None,
                dequantisation=dequantisation,
                draws=draws,
                importance=importance,
                per_example=files.per_example is not None,
                limit=limit,
                condition=condition,
                missing=missing,
                overrides=choices.overrides(),
                trust_code=trust_code,
                precision=precision,
                progress=progress,
                state=files.state,
                workers=runtime.workers(),
                **running.keywords(),
            )
        deliver(likelihood, output, files.out, files.per_example)
    if likelihood.interrupted:
        raise Interrupted(
            f"interrupted after {likelihood.nfe_total} network evaluations; the result is of the first "
            f"{likelihood.examples} examples",
            files.resume_hint(),
        )


OLD_FLAGS = {"--ode-steps": "--steps", "--ode-solver": "--solver", "--ode-tolerance": "--tolerance"}
OF_THE_BOUND = ("--tolerance", "--max-nfe", "--estimator", "--steps", "--continuous")


def renamed(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the old name of this command, `evaluate … --ode …`, replaced; a warning says so.

    Errors: UsageError for an option of the variational bound beside --ode, which means something else here.
    """
    if not arguments or arguments[0] != "evaluate" or "--ode" not in arguments:
        return list(arguments)
    new = ["ode"]
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if name in OF_THE_BOUND:
            raise UsageError(f"{name} belongs to the variational bound, and --ode was given", "see `nelbo ode --help`")
        if name != "--ode":
            new.append(OLD_FLAGS.get(name, name) + equals + value)
    if runtime.leads():
        to_stderr(f"warning: `nelbo evaluate --ode` has become a command: nelbo {shlex.join(new)}")
    return new

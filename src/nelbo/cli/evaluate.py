"""`nelbo evaluate`: the bound of a model on data, term by term, with its error bars."""

from __future__ import annotations

import dataclasses
import io
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo.cli import ode as flow
from nelbo.cli import options
from nelbo.cli.output import Output, check_target, session
from nelbo.cli.progress import shown
from nelbo.errors import Interrupted

if TYPE_CHECKING:
    from nelbo.bound.result import Bound


class Precision(StrEnum):
    """What the network computes in; everything outside it is float64."""

    float32 = "float32"
    float64 = "float64"
    bf16 = "bf16"


def evaluate(
    model: options.Model,
    data: options.Data,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", metavar="BPD", help="Standard error to aim for, in bits/dim.")
    ] = None,
    max_nfe: Annotated[
        int | None, typer.Option("--max-nfe", min=1, metavar="N", help="At most so many network evaluations.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="An even grid of K steps, not the model's own.")
    ] = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="The continuous bound (limit of fine grids).")
    ] = False,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N examples.")] = None,
    per_example: Annotated[
        Path | None,
        typer.Option("--per-example", metavar="FILE.npz", help="Write index, nats, standard_error and terms here."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Write the JSON result here.")] = None,
    estimator: Annotated[
        str | None,
        typer.Option("--estimator", metavar="NAME", help="auto, exhaustive, stratified, pooled, per_example, …"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep what is computed here; the same command goes on from it."),
    ] = None,
    variance: options.Variance = None,
    decoder: options.Decoder = None,
    bins: options.Bins = None,
    range: options.Range = None,
    clip: options.Clip = None,
    condition: options.Condition = None,
    as_json: options.Json = False,
    device: options.Device = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the network; the rest is float64.")
    ] = Precision.float32,
    ode: flow.Ode = False,
    ode_steps: flow.Steps = None,
    ode_solver: flow.Solver = None,
    ode_tolerance: flow.Tolerance = None,
    probes: flow.Probes = None,
    exact_trace: flow.ExactTrace = False,
    dequantisation: flow.Dequantise = None,
    draws: flow.Draws = None,
    importance: flow.Importance = None,
) -> None:
    """Bound a model on data, term by term, with error bars.

    The result is the variational bound of DATA under MODEL in bits/dim: a code length where the data are codes. With
    --ode it is the likelihood of the probability-flow ODE, which is another number.
    """
    from nelbo import runtime

    with session(as_json, silent=not runtime.leads()) as output:
        for path, name in ((out, "--out"), (per_example, "--per-example"), (state, "--state")):
            if path is not None:
                check_target(path, name)
        options.distinct(out=out, per_example=per_example, state=state)
        given = {"tolerance": options.check_tolerance(tolerance), "max_nfe": max_nfe, "estimator": estimator}
        wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        own: dict[str, Any] = {"steps": ode_steps, "solver": ode_solver, "tolerance": ode_tolerance}
        own |= {"probes": probes, "exact_trace": exact_trace, "dequantisation": dequantisation}
        own |= {"draws": draws, "importance": importance}
        chosen = flow.settings(ode, own, {**given, "steps": steps, "continuous": continuous})
        grid = options.chosen_grid(steps, continuous)
        device = runtime.device(options.check_device(device))
        from nelbo import api

        workers = runtime.workers()
        with shown("evaluating", silent=output.silent) as progress:
            common: dict[str, Any] = {
                "grid": grid,
                "per_example": per_example is not None,
                "limit": limit,
                "seed": seed,
                "batch_size": batch_size,
                "device": device,
                "precision": precision.value,
                "progress": progress,
                "condition": condition,
                "overrides": options.overrides(variance, decoder, bins, range, clip),
            }
            common |= {"state": state, "workers": workers}
            if ode:
                bound = api.ode_likelihood(model, data, **common, **chosen)
            else:
                bound = api.evaluate(model, data, watch=progress.estimate, **common, **wanted)
        if not output.silent:
            _deliver(bound, output, out, per_example)
        runtime.finish()
        if bound.interrupted:
            raise Interrupted(
                f"interrupted after {bound.nfe_total} network evaluations; the result is of the "
                + (f"first {bound.examples} examples" if ode else "draws made until then"),
                f"run the same command again to go on from {state}" if state else "with --state FILE it can be resumed",
            )


def _deliver(bound: Bound, output: Output, out: Path | None, per_example: Path | None) -> None:
    """Files first, then the screen."""
    from nelbo.files import write_atomic

    if per_example is not None and bound.per_example is not None:
        write_atomic(per_example, per_example_file(bound))
    elif per_example is not None:
        output.message(f"warning: {per_example} was not written: not every example was finished")
    document = bound.to_dict()
    if out is not None:
        write_atomic(out, json.dumps(document, indent=2, allow_nan=False) + "\n")
    output.document(document)
    output.text(shown_table(bound, output))


def shown_table(bound: Bound, output: Output) -> str:
    """The table; without its warnings where the same screen has them already."""
    return str(dataclasses.replace(bound, warnings=()) if output.on_one_screen else bound)


def per_example_file(bound: Bound) -> bytes:
    """The NPZ of --per-example: index, nats, standard_error and the terms, each (N,)."""
    import numpy as np

    rows = bound.per_example
    assert rows is not None
    columns = {name: np.asarray(values) for name, values in vars(rows).items()}
    arrays = {"index": np.arange(bound.examples), **columns}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()

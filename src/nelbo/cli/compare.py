"""`nelbo compare`: the difference of two models' bounds on the same data, with a paired error bar."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import session
from nelbo.cli.progress import shown


def compare(
    model_a: Annotated[str, typer.Argument(metavar="MODEL_A", help="A model folder, or package.module:function.")],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="The other model.")],
    data: options.Data,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", metavar="BPD", help="Paired standard error to aim for, in bits/dim.")
    ] = None,
    max_nfe: Annotated[
        int | None, typer.Option("--max-nfe", min=1, metavar="N", help="At most so many evaluations of both.")
    ] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N examples.")] = None,
    variance: options.Variance = None,
    decoder: options.Decoder = None,
    bins: options.Bins = None,
    range: options.Range = None,
    clip: options.Clip = None,
    condition: options.Condition = None,
    as_json: options.Json = False,
    device: options.Device = None,
) -> None:
    """Compare two models on the same data: the difference of their bounds, A − B, with paired error bars.

    Both are evaluated at the same noise, which cancels in the difference; negative means that MODEL_A is better.
    """
    from nelbo import runtime

    with session(as_json, silent=not runtime.leads()) as output:
        wanted: dict[str, Any] = {"tolerance": options.check_tolerance(tolerance), "max_nfe": max_nfe}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        device = runtime.device(options.check_device(device))
        workers = runtime.workers()
        from nelbo import api

        with shown("comparing", silent=output.silent) as progress:
            comparison = api.compare(
                model_a,
                model_b,
                data,
                limit=limit,
                seed=seed,
                batch_size=batch_size,
                device=device,
                progress=progress,
                condition=condition,
                workers=workers,
                overrides=options.overrides(variance, decoder, bins, range, clip),
                **wanted,
            )
        output.document(comparison.to_dict())
        output.text(str(comparison))
        runtime.finish()

"""`nelbo tighten`: the same weights with a better bound, in few steps, and a certificate of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_folder, session
from nelbo.cli.progress import shown
from nelbo.errors import UsageError


def tighten(
    model: options.Model,
    data: options.Data,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The tightened model's folder, with certificate.json.")
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="Network evaluations of one pass (25).")
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", metavar="BPD", help="In place of --steps: the fewest that reach it.")
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option("--held-out", metavar="DATA", help="Certify on these; else on a half of DATA."),
    ] = None,
    first_level: Annotated[
        str,
        typer.Option("--first-level", metavar="NAME", help="auto, own, gaussian, histogram, pixel or context."),
    ] = "auto",
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N examples.")] = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    variance: options.Variance = None,
    decoder: options.Decoder = None,
    bins: options.Bins = None,
    range: options.Range = None,
    clip: options.Clip = None,
    condition: options.Condition = None,
    as_json: options.Json = False,
    device: options.Device = None,
) -> None:
    """Tighten a model's bound without training: better steps, first level, decoder and reverse covariances.

    Half of DATA, which the model must not have been trained on, is fitted to; the other half certifies the gain. DIR is
    a model folder like any other.
    """
    with session(as_json) as output:
        check_folder(out, "--out")
        if target is not None and not math.isfinite(target):
            raise UsageError(f"--target {target}", "give a bound in bits/dim, such as 3.2")
        device = options.check_device(device)
        from nelbo import api

        with shown("tightening") as progress:
            _, certificate = api.tighten(
                model,
                data,
                steps,
                out=out,
                target=target,
                held_out=held_out,
                first_level=first_level,
                limit=limit,
                seed=seed,
                batch_size=batch_size,
                device=device,
                condition=condition,
                overrides=options.overrides(variance, decoder, bins, range, clip),
                progress=progress,
                message=output.message,
            )
        output.document(certificate.to_dict())
        output.text(str(certificate))
        output.text(f"next          nelbo evaluate {out} --data DATA")

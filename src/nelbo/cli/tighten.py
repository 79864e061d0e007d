"""`nelbo tighten`: the same weights with a better bound, in few steps, and a certificate of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_folder, session
from nelbo.errors import UsageError
from nelbo.progress import shown


def tighten(
    model: options.Model,
    data: options.Data,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The tightened model's folder, with certificate.json.")
    ],
    *,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="Network evaluations of one pass (25).")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option("--target", metavar="BPD", help="Instead of --steps: as few as reach this bound, in bits/dim."),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option("--held-out", metavar="DATA", help="Certify on these data instead of on half of DATA."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", metavar="DATA", help="Of symbols: count n-grams in these, such as the training data."),
    ] = None,
    first_level: Annotated[
        str,
        typer.Option("--first-level", metavar="NAME", help="auto, own, gaussian, histogram, pixel or context."),
    ] = "auto",
    limit: options.Limit = None,
    running: options.Running,
    as_json: options.Json = False,
    condition: options.Condition = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Tighten the bound of a model without training it.

    Better steps, first level, decoder and reverse covariances are fitted on half of DATA, which the model must not have
    been trained on; the other half certifies the gain. Of a model of symbols a calibration of its network and a mixture
    with n-grams are. DIR is a model folder like any other.
    """
    with session(as_json, one_process=True) as output:
        check_folder(out, "--out")
        if target is not None and not math.isfinite(target):
            raise UsageError(f"--target {target}", "give a bound in bits/dim, such as 3.2")
        from nelbo import api

        with shown("tightening") as progress:
            _, certificate = api.tighten(
                model,
                data,
                steps,
                target=target,
                held_out=held_out,
                corpus=corpus,
                first_level=first_level,
                out=out,
                limit=limit,
                condition=condition,
                overrides=choices.overrides(),
                trust_code=trust_code,
                progress=progress,
                message=output.message,
                **running.keywords(),
            )
        output.document(certificate.to_dict())
        output.text(str(certificate))
        output.text(f"next          nelbo evaluate {out} --data DATA")

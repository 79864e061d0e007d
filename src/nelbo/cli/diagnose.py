"""`nelbo diagnose`: which declaration of a network suits it best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, session
from nelbo.progress import shown


def diagnose(
    model: options.Model,
    data: options.Data,
    *,
    max_nfe: Annotated[
        int | None,
        typer.Option("--max-nfe", min=1, metavar="N", help="Spend at most N network evaluations (2000)."),
    ] = None,
    limit: options.Limit = None,
    running: options.Running,
    precision: options.Precision = "float32",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Write the JSON result here, for a report.")
    ] = None,
    as_json: options.Json = False,
    condition: options.Condition = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Find the declaration that suits a network best.

    MODEL as it is declared is ranked among its siblings, each with one thing declared otherwise: the output, the time,
    the schedule, the range of DATA, … The verdict says which is right, and which line to change.
    """
    with session(as_json) as output:
        if out is not None:
            check_target(out, "--out")
        from nelbo import api
        from nelbo.diagnosis.diagnose import MAX_NFE
        from nelbo.files import write_atomic

        output.message(f"at most {max_nfe or MAX_NFE} network evaluations; --max-nfe N sets another number")
        with shown("diagnosing", silent=output.silent) as progress:
            diagnosis = api.diagnose(
                model,
                data,
                max_nfe=max_nfe,
                limit=limit,
                condition=condition,
                overrides=choices.overrides(),
                trust_code=trust_code,
                precision=precision,
                progress=progress,
                **running.keywords(),
            )
        document = diagnosis.to_dict()
        if out is not None:
            write_atomic(out, json.dumps(document, indent=2, allow_nan=False) + "\n")
        output.document(document)
        output.text(str(diagnosis))

"""`nelbo compare`: the difference of two models' bounds on the same data, with a paired error bar."""

from __future__ import annotations

from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import deliver, shared_session
from nelbo.errors import Interrupted
from nelbo.progress import shown


def compare(
    model_a: Annotated[str, typer.Argument(metavar="MODEL_A", help="A model folder, or package.module:function.")],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="The other model.")],
    data: options.Data,
    *,
    tolerance: options.Tolerance = "0.01",
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", metavar="P", help="End as soon as the sign is known at this level."),
    ] = None,
    max_nfe: options.MaxNfe = None,
    any_cost: options.AnyCost = False,
    limit: options.Limit = None,
    running: options.Running,
    files: options.Files,
    as_json: options.Json = False,
    condition: options.Condition = None,
    missing: options.Missing = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Compare the bounds of two models on the same data.

    The result is the difference A − B in bits/dim with paired error bars. Both models are evaluated at the same noise,
    which cancels in the difference; negative means that MODEL_A is better.
    """
    from nelbo import runtime

    with shared_session(as_json) as output:
        files.check()
        from nelbo import api

        with shown("comparing", silent=output.silent) as progress:
            comparison = api.compare(
                model_a,
                model_b,
                data,
                tolerance=tolerance,
                confidence=confidence,
                max_nfe=max_nfe,
                any_cost=any_cost,
                per_example=files.per_example is not None,
                limit=limit,
                condition=condition,
                missing=missing,
                overrides=choices.overrides(),
                trust_code=trust_code,
                progress=progress,
                message=output.message,
                state=files.state,
                workers=runtime.workers(),
                **running.keywords(),
            )
        deliver(comparison, output, files.out, files.per_example)
    if comparison.interrupted:
        raise Interrupted(
            f"interrupted after {comparison.nfe_total} network evaluations; the result is of the draws made until then",
            files.resume_hint(),
        )

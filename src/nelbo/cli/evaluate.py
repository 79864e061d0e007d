"""`nelbo evaluate`: the bound of a model on data, term by term, with its error bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, deliver, shared_session
from nelbo.errors import Interrupted
from nelbo.files import write_atomic
from nelbo.progress import shown


def evaluate(
    model: options.Model,
    data: options.Data,
    *,
    tolerance: options.Tolerance = "0.01",
    max_nfe: options.MaxNfe = None,
    any_cost: options.AnyCost = False,
    steps: options.Steps = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="The continuous bound, the limit of fine grids.")
    ] = False,
    estimator: Annotated[
        str, typer.Option("--estimator", metavar="NAME", help="auto, exhaustive, stratified, pooled, per_example, …")
    ] = "auto",
    limit: options.Limit = None,
    running: options.Running,
    precision: options.Precision = "float32",
    files: options.Files,
    as_json: options.Json = False,
    condition: options.Condition = None,
    prompt: options.Prompt = None,
    mask: options.Mask = None,
    missing: options.Missing = None,
    corpus: options.Corpus = None,
    surprisal: Annotated[
        Path | None,
        typer.Option(
            "--surprisal",
            metavar="FILE.json",
            help="Of symbols: write what every place of the first sequences costs; a report shows surprisal.json.",
        ),
    ] = None,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Bound a model on data, term by term, with error bars.

    The result is the variational bound of DATA under MODEL in bits/dim, of symbols in bits a token and other units: a
    code length where the data are codes.
    """
    from nelbo import runtime

    with shared_session(as_json) as output:
        files.check()
        if surprisal is not None:
            check_target(surprisal, "--surprisal", (".json",))
        grid = options.chosen_grid(steps, continuous)
        data, given = options.given_places(data, prompt, mask)
        from nelbo import api
        from nelbo.bound.tokens.surprisal import SEQUENCES

        with shown("evaluating", silent=output.silent) as progress:
            bound = api.evaluate(
                model,
                data,
                tolerance=tolerance,
                max_nfe=max_nfe,
                any_cost=any_cost,
                grid=grid,
                estimator=estimator,
                per_example=files.per_example is not None,
                limit=limit,
                condition=condition,
                prompt=given,
                missing=missing,
                corpus=corpus,
                overrides=choices.overrides(),
                trust_code=trust_code,
                precision=precision,
                progress=progress,
                message=output.message,
                watch=progress.estimate,
                state=files.state,
                workers=runtime.workers(),
                **running.keywords(),
            )
        if surprisal is not None and not bound.interrupted and not output.silent:
            places = {"sequences": min(limit or SEQUENCES, SEQUENCES), "prompt": given, "condition": condition}
            how = {"trust_code": trust_code, "precision": precision, **running.keywords()}
            shares = api.surprisal(model, data, **places, **how)
            write_atomic(surprisal, json.dumps(shares.to_dict(), indent=1, allow_nan=False) + "\n")
        deliver(bound, output, files.out, files.per_example)
    if bound.interrupted:
        raise Interrupted(
            f"interrupted after {bound.nfe_total} network evaluations; the result is of the draws made until then",
            files.resume_hint(),
        )

"""`nelbo contrast`: the same examples under different conditions of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, shared_session
from nelbo.errors import UsageError
from nelbo.progress import shown


def contrast(
    model: options.Model,
    data: options.Data,
    *,
    condition: Annotated[str, typer.Option("--condition", metavar="NAME", help="The keyword of the network.")],
    values: Annotated[
        str | None,
        typer.Option(
            "--values",
            metavar="V1,V2,…|FILE",
            help="Numbers, class names or 'none'; or FILE.npy with one row a condition; of --condition answer texts "
            "that may follow each text of DATA. All classes of a model of nelbo's own where it is left out.",
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="P", help="Decide each example at this level.")
    ] = 0.99,
    indifference: Annotated[
        float, typer.Option("--indifference", metavar="NATS", help="Differences that need not be told apart.")
    ] = 0.0,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", metavar="NATS", help="Standard error that every difference is to reach."),
    ] = None,
    posterior_tolerance: Annotated[
        float | None,
        typer.Option("--posterior-tolerance", metavar="P", help="Standard error that every posterior is to reach."),
    ] = None,
    max_nfe: options.MaxNfe = None,
    prior: Annotated[
        str | None,
        typer.Option("--prior", metavar="P1,P2,…", help="Probabilities of the conditions; even if left out."),
    ] = None,
    limit: options.Limit = None,
    running: options.Running,
    precision: options.Precision = "float32",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Write the JSON result here.")] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="Keep what is computed here; the same command resumes from it."),
    ] = None,
    as_json: options.Json = False,
    trust_code: options.TrustCode = False,
    choices: options.Choices,
) -> None:
    """Find the condition that explains each example best.

    The bounds of DATA under every value of the condition are compared at common noise, in nats, until each example is
    decided. Conditions that cannot be the best are eliminated on the way.
    """
    from nelbo import runtime

    with shared_session(as_json) as output:
        for path, name in ((out, "--out"), (state, "--state")):
            if path is not None:
                check_target(path, name)
        texts = condition == "answer"  # which may be numbers
        chosen = None if values is None else values.split(",") if texts else _values(values)
        probabilities = None if prior is None else _probabilities(prior)
        from nelbo import api
        from nelbo.files import write_atomic

        with shown("contrasting", silent=output.silent) as progress:
            result = api.contrast(
                model,
                data,
                condition,
                chosen,
                confidence=confidence,
                indifference=indifference,
                tolerance=tolerance,
                posterior_tolerance=posterior_tolerance,
                max_nfe=max_nfe,
                prior=probabilities,
                limit=limit,
                overrides=choices.overrides(),
                trust_code=trust_code,
                precision=precision,
                progress=progress,
                state=state,
                workers=runtime.workers(),
                **running.keywords(),
            )
        document = result.to_dict()
        if out is not None and runtime.leads():
            write_atomic(out, json.dumps(document, indent=2, allow_nan=False) + "\n")
        output.document(document)
        output.text(str(result))


def _values(text: str) -> Any:
    """Numbers, names and None from a list with commas; or the rows of a file. Errors: UsageError, DataError."""
    if text.lower().endswith((".npy", ".npz")) or ".npz#" in text:
        from nelbo import data

        return data.resolve(text).data
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"--values {text!r}", "give values with commas between them, such as 0,1,2")
    return [_value(word) for word in words]


def _value(word: str) -> int | float | str | None:
    if word.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _probabilities(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"--prior {text!r}", "give numbers with commas between them, such as 0.5,0.25,0.25") from None

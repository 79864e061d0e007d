"""`nelbo report`: a folder of results as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import check_target, session


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of `nelbo demo`, or a model folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page.")],
    bound: Annotated[
        Path | None,
        typer.Option(
            "--bound",
            metavar="FILE.json",
            help="What `nelbo evaluate --out` wrote, where it is not DIR/bound.json, or beside DIR and of its model.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a folder of results as one self-contained page.

    The page needs no network and no other file.
    """
    with session(as_json) as output:
        check_target(out, "--out")
        from nelbo import report as pages

        pages.write(folder, out, bound=bound)
        output.document({"schema": "nelbo.report/1", "file": str(out)})
        output.text(str(out))

"""`nelbo equations`: the catalogue, its checks and its pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo.cli import options
from nelbo.cli.output import check_folder, session
from nelbo.errors import NumericalError, UsageError
from nelbo.progress import shown

if TYPE_CHECKING:
    from nelbo.equations import Entry
    from nelbo.typing import Json

app = typer.Typer(
    name="equations",
    help="Look up, check and publish the equations of the bound.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def equations(ctx: typer.Context) -> None:
    """Look up, check and publish the equations of the bound."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command("list")
def list_entries(
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only entries with this tag.")] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only entries of this status: misprinted, loose, …"),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NNN", help="Only entries of this source document: 000 … 004.")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="WORDS", help="Only entries that contain all these words.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the equations.

    Of each its id, its title, and how the source documents print it.
    """
    with session(as_json) as output:
        from nelbo.equations import catalogue

        known = catalogue()
        entries = known.search(search) if search else list(known.values())
        for name, select in ((tag, known.by_tag), (status, known.by_status), (source, known.by_source)):
            if name is not None:
                ids = {e.id for e in select(name)}
                entries = [e for e in entries if e.id in ids]
        output.document({"schema": "nelbo.equations/1", "entries": [_summary(e) for e in entries]})
        output.text("\n".join(_table(entries)))


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The equation, such as posterior-mean.")],
    as_json: options.Json = False,
) -> None:
    """Show an equation, and run its check.

    Its formula, statement, misprints in the sources, and code.
    """
    with session(as_json) as output:
        from nelbo.equations import catalogue, text, verify

        e = catalogue()[id]
        result = verify(id)[id]
        output.document(_document(e) | {"check": result.to_dict()})
        output.text(text.show(id, result))


@app.command()
def verify(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID ...]", help="Equations or derivations; all where none is named.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Run the checks of equations, or of all.

    The library's functions agree with independent oracles, and misprinted forms fail.

    Each line gives the outcome (holds, fails as it must, measured), the figure and its limit. The exit status is 2
    where a check fails.
    """
    with session(as_json) as output:
        from nelbo import equations

        chains = [i for i in ids or () if i in equations.derivations()]
        entries = [i for i in ids or () if i not in chains]
        empty = equations.Report(())
        with shown("verifying") as progress:
            report = empty if chains and not entries else equations.verify(*entries, progress=progress)
            derivations = empty if entries and not chains else equations.verify_derivations(*chains, progress=progress)
        output.document(report.to_dict() | {"derivations": derivations.to_dict()["entries"]})
        output.text("\n".join(str(part) for part in (report, derivations) if len(part)))
        failed = [*report.failed, *derivations.failed]
        if failed:
            raise NumericalError(
                f"the checks of {len(failed)} of {len(report) + len(derivations)} fail: {', '.join(failed[:5])}"
                + (" …" if len(failed) > 5 else ""),
                f"`nelbo equations verify {failed[0]}` shows the figures; the formula it checks is broken here",
            )


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder: new, empty, or of an earlier build.")],
    checks: Annotated[
        Path | None,
        typer.Option("--checks", metavar="FILE", help="Show the figures of `verify --json`; otherwise checks are run."),
    ] = None,
    no_checks: Annotated[bool, typer.Option("--no-checks", help="Run no checks and show no figures.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the catalogue as a site that works offline."""
    with session(as_json) as output:
        if checks is not None and no_checks:
            raise UsageError("--checks and --no-checks are both given", "choose one of them, or neither")
        check_folder(out, "--out")
        from nelbo.equations import pages

        with shown("verifying") as progress:
            built = pages.build(out, verify=not no_checks if checks is None else checks, progress=progress)
        if built.failed:
            output.message(f"warning: the pages show checks that fail: {', '.join(built.failed)}")
        index = str(out / "index.html")
        output.document(
            {
                "schema": "nelbo.equations/1",
                "out": str(out),
                "index": index,
                "pages": built.pages,
                "bytes": built.bytes,
                "failed": list(built.failed),
            }
        )
        output.text(index)


def _summary(e: Entry) -> Json:
    return {
        "id": e.id,
        "title": e.title,
        "group": e.group,
        "kind": e.kind,
        "tags": list(e.tags),
        "statuses": list(e.statuses),
        "documents": list(e.documents),
    }


def _document(e: Entry) -> Json:
    from dataclasses import asdict

    from nelbo.equations import catalogue

    places: list[Any] = [{"name": p.name, "file": p.file, "line": p.line} for p in catalogue().implementations(e.id)]
    return {"schema": "nelbo.equations/1", **asdict(e), "implemented_in": places}


def _table(entries: list[Entry]) -> list[str]:
    if not entries:
        return ["no equation fits"]
    width = max(len(e.id) for e in entries)
    lines, group = [], ""
    for e in sorted(entries, key=lambda e: e.letter):
        if e.group != group:
            group = e.group
            lines += ["", group] if lines else [group]
        wrong = ", ".join(s for s in e.statuses if s != "correct")
        lines.append(f"  {e.id:<{width}}  {e.title}" + (f"  [{wrong}]" if wrong else ""))
    return [*lines, "", f"{len(entries)} equation{'s' * (len(entries) != 1)}"]

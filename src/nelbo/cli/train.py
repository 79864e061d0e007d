"""`nelbo train`: train a model on data into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nelbo.cli import options
from nelbo.cli.output import Console, check_folder, shared_session
from nelbo.progress import shown

if TYPE_CHECKING:
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.latent.model import LatentModel
    from nelbo.model.tokens.model import TokenModel
    from nelbo.typing import Json


def _print_schema(show: bool) -> None:
    if show:
        import json

        from nelbo.training.settings import schema

        print(json.dumps(schema(), indent=2))
        raise typer.Exit


def train(
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder; checkpoints go below it.")],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, as TOML or JSON.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, over the file's; may be repeated (lr=0.001)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint, if any.")] = False,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="DATA", help="Data to bound along the way; see validation.every."),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", callback=_print_schema, is_eager=True, help="Print the JSON schema of FILE and leave."
        ),
    ] = False,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Train a model on data into a folder.

    Ctrl-C saves a checkpoint, and the same command with --resume continues it.
    """
    from nelbo import runtime

    with shared_session(as_json) as output:
        check_folder(out, "--out")
        from nelbo.bound.units import unit
        from nelbo.training.settings import read_config

        chosen = read_config(config, settings)
        device = runtime.device(device)
        model, last = run_training(data, out, chosen, output, validation=validation, resume=resume, device=device)
        document = {
            "schema": "nelbo.train/1",
            "folder": str(out),
            "parameters": model.parameters,
            "fingerprint": model.fingerprint(),
            "last": last or None,
            "provenance": model.provenance,
        }
        output.document(document)
        in_bits = unit(model.describe(), model.provenance.get("data", {}))
        output.text(f"model         {out}")
        output.text(f"parameters    {model.parameters}")
        output.text(f"fingerprint   {str(model.fingerprint())[:12]}")
        if last:
            output.text(
                f"training loss {last['loss']:.4f} {in_bits} after {last['step']} steps, {last['seconds']:.0f} s"
            )
        if "validation" in model.provenance:
            best = model.provenance["validation"]
            output.text(
                f"validation    {best['bound']:.4f} ± {best['standard_error']:.4f} {in_bits}, best, "
                f"at step {best['step']}"
            )
        output.text(f"next          nelbo evaluate {out} --data DATA")


def run_training(
    data: str,
    out: Path,
    settings: Json,
    output: Console,
    *,
    validation: str | None = None,
    resume: bool = False,
    device: str | None = None,
) -> tuple[DiffusionModel | TokenModel | LatentModel, Json]:
    """`nelbo.train` with progress and messages; the model, and the last record with a loss ({} where none was made).

    Errors: those of `nelbo.train`; Interrupted where Ctrl-C stopped it, with a checkpoint saved.
    """
    from nelbo import api, runtime

    last: Json = {}
    with shown("training", silent=output.silent) as progress:

        def after_step(record: Json) -> None:
            if "loss" in record:
                last.update(record)
            progress.training(record)

        model = api.train(
            data,
            out,
            settings,
            validation=validation,
            resume=resume,
            device=device,
            progress=after_step,
            message=output.message,
            workers=runtime.workers(),
        )
    return model, last

"""`nelbo demo`: train, bound, sample and report on real digits, in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nelbo._version import __version__
from nelbo.cli import demo_text, options
from nelbo.cli.output import check_folder, session, table
from nelbo.cli.sample import npz
from nelbo.cli.train import run_training
from nelbo.errors import Interrupted, UsageError
from nelbo.progress import shown

if TYPE_CHECKING:
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.typing import Json

TRAIN, TEST = "digits:train", "digits:test"
PICTURES = 36
CHAINS = 8
SNAPSHOTS = 10
WRITTEN = ("bound.json", "pictures.npz", "comparison.json", "report.html", *demo_text.WRITTEN)
MARK = "demo.json"
"""The file that marks a folder as the demo's own, whose model it may train again; written first."""


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for all results.")] = Path("nelbo-demo"),
    text: Annotated[
        bool, typer.Option("--text", help="On sources of Python's standard library, and compress some.")
    ] = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train, bound, sample and report on real digits, or on text.

    A model is trained on 8×8 handwritten digits, its bound on the 360 test images is evaluated term by term, and DIR
    gets the model, bound.json, pictures.npz, comparison.json and report.html. The last line printed is DIR.
    """
    with session(as_json, one_process=True) as output:
        import torch

        from nelbo import api, report
        from nelbo.data import read
        from nelbo.files import write_atomic

        torch.set_num_threads(1)  # for so small a network threads on a busy machine only wait for each other
        resume = prepare(out, seed, text)
        if text:
            demo_text.run(out, seed, resume, output)
            return
        output.message(f"training on {TRAIN}")
        try:
            model, _ = run_training(TRAIN, out / "model", {"seed": seed}, output, resume=resume)
        except Interrupted as stopped:
            raise Interrupted(stopped.message, "the same command continues it") from None
        output.message(f"evaluating the bound of {TEST}")
        with shown("evaluating") as progress:
            bound = api.evaluate(model, TEST, estimator="exhaustive", seed=seed, progress=progress)
        write_atomic(out / "bound.json", json.dumps(bound.to_dict(), indent=2, allow_nan=False) + "\n")
        output.message("sampling")
        test = read(TEST).data
        write_atomic(out / "pictures.npz", npz(**pictures(model, seed), data=test[:PICTURES]))  # type: ignore[arg-type]
        from nelbo.cli.image_formats import comparison

        formats = comparison(test)
        write_atomic(out / "comparison.json", json.dumps(formats, indent=2, allow_nan=False) + "\n")
        output.message("writing the report")
        report.write(out, out / "report.html")
        output.document(
            {
                "schema": "nelbo.demo/1",
                "folder": str(out),
                "model": str(out / "model"),
                "report": str(out / "report.html"),
                "bound": bound.to_dict(),
                "comparison": formats["rows"],
            }
        )
        output.text(f"{table(bound, output)}\n\n{comparison_lines(formats)}\n\n{out}")


def prepare(folder: Path, seed: int, text: bool = False) -> bool:
    """Make the folder ready for a run, and say whether an interrupted one with the same seed is to be continued.

    A finished demo is done again from the beginning. Errors: UsageError where `folder` holds a model or a result that
    is not a demo's, which is left alone.
    """
    from nelbo.files import write_atomic

    check_folder(folder, "--out")
    mark = {"schema": "nelbo.demo/1", "seed": seed, "version": __version__, **({"text": True} if text else {})}
    before = _mark(folder)
    model = folder / "model"
    taken = [folder / name for name in ("model", *WRITTEN) if (folder / name).exists()]
    if taken and (before is None or model.is_symlink()):
        raise UsageError(f"{taken[0]} exists and was not written by a demo", "choose another --out")
    resume = before == mark and model.exists() and not (model / "model.json").exists()
    if model.exists() and not resume:
        shutil.rmtree(model)
    for name in WRITTEN:
        (folder / name).unlink(missing_ok=True)
    write_atomic(folder / MARK, json.dumps(mark) + "\n")
    return resume


def _mark(folder: Path) -> Json | None:
    from nelbo.files import regular

    try:
        mark = json.loads(regular(folder / MARK).read_text())
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) and mark.get("schema") == "nelbo.demo/1" else None


def pictures(model: DiffusionModel, seed: int) -> dict[str, Any]:
    """Samples (36, *shape), and a few chains from noise to data: z and x̂ (10, 8, *shape), log-SNR (10,)."""
    from nelbo import api

    with shown("sampling") as progress:
        samples = api.sample(model, PICTURES, seed=seed, progress=progress)
        chains = api.sample(model, CHAINS, seed=seed, progress=progress, trajectory=True)
    count = len(chains.logsnr)
    kept = sorted({round(k * (count - 1) / (SNAPSHOTS - 1)) for k in range(SNAPSHOTS)})
    return {
        "samples": samples,
        "trajectory": chains.z[kept],
        "denoised": chains.denoised[kept],
        "trajectory_logsnr": chains.logsnr[kept],
    }


def comparison_lines(formats: Json) -> str:
    """The comparison as lines of text."""
    head = f"the same {formats['images']} images as files (bits/dim)"
    return "\n".join([head, *(f"  {r['name']:<10} {r['bits_per_dim']:.2f}   {r['note']}" for r in formats["rows"])])

"""Rows of files: archives, model folders, results, the report, the model card, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tools.recorded import cases
from tools.recorded.cases import Stratified, command, of_kind
from tools.recorded.registry import Document, On, row, stripped
from tools.recorded.tightening import oracle, tightened_model
from tools.recorded.training import MLP, PLAIN, SMALL, images

import nelbo
from nelbo.model.folder import digest


def coded(name: str, make, data, **options: Any) -> None:
    """A row that compresses data() under make(), reads it again, and keeps the bytes of the archive."""

    @row(f"compress.{name}")
    def compute(on: On) -> dict[str, Any]:
        path, given = on.folder / "a.nelbo", data()
        written = nelbo.codec.compress(make(), given, path, few=True, **options)
        back = torch.as_tensor(nelbo.codec.decompress(make(), path))
        return {
            "archive": path.read_bytes(),
            "bytes": written.bytes,
            "net_bits": written.net_bits,
            "document": Document(written.to_dict()),
            "inspect": Document(nelbo.codec.inspect(path)),
            "equal": bool((back == torch.as_tensor(given)).all()),
        }


coded("categorical", lambda: cases.categorical(), lambda: cases.CODES.sample(48).to(torch.uint8))
coded("network", lambda: of_kind("eps", grid=nelbo.grids.even(6)), lambda: cases.codes(16).to(torch.uint8))
coded("vdm", lambda: of_kind("vdm", grid=nelbo.grids.even(5)), lambda: cases.codes(16), chunk_size=7, seed=3)
coded("learned-range", lambda: of_kind("learned_range", grid=nelbo.grids.even(5)), lambda: cases.codes(12))
coded("condition", lambda: of_kind("conditional", grid=nelbo.grids.even(5)), lambda: cases.codes(12), bin_width=0.25,
      condition={"y": cases.labels(12)})  # fmt: skip
coded("tightened", tightened_model, lambda: cases.codes(16))


@row("folder.trained")
def folder(on: On) -> dict[str, Any]:
    """The files of a trained model, and what comes back from them."""
    found: dict[str, Any] = {}
    for name, net in {"mlp": MLP, "plain": PLAIN}.items():
        out = on.folder / name
        model = nelbo.train(images(), out, {**SMALL, "net": net, "steps": 4})
        raw = (out / "model.json").read_text()
        text = json.loads(raw)
        again = nelbo.load(out)
        found |= {
            f"{name}.json": Document(text),
            f"{name}.text": re.sub(r'"(date|seconds|digest)": [^,\n}]*', r'"\1": 0', raw).encode(),
            f"{name}.files": Document(sorted(p.name for p in out.iterdir())),
            f"{name}.tensors": (out / "model.safetensors").read_bytes(),
            f"{name}.same": again.fingerprint() == model.fingerprint(),
            f"{name}.describe": Document(again.describe()),
        }
    return found


@row("folder.tightened")
def folder_tightened(on: On) -> dict[str, Any]:
    """A tightened model of `package.module:function`, as a folder."""
    out = on.folder / "tight"
    reference = f"{oracle.__module__}:{oracle.__name__}"
    data = torch.arange(3 * 80).reshape(80, 3) * 7 % 5 % 3
    tight, _ = nelbo.tighten(reference, data, 3, out=out)
    text = json.loads((out / "model.json").read_text())
    text["denoiser"]["code"] = len(text["denoiser"]["code"])  # the hash of a file of this folder
    return {
        "json": Document(text),
        "certificate": Document(json.loads((out / "certificate.json").read_text())),
        "tensors": (out / "model.safetensors").read_bytes(),
        "same": nelbo.load(out, trust_code=True).fingerprint() == tight.fingerprint(),
    }


@row("folder.fingerprints")
def fingerprints(on: On) -> dict[str, Any]:
    """Fingerprints of models and data."""
    kinds = ("eps", "x0", "v", "score", "learned_range", "learned_log", "flow", "edm", "vdm", "conditional", "real")
    models = {kind: of_kind(kind) for kind in kinds}
    models |= {"gaussian": cases.gaussian(), "mixture": cases.mixture(), "categorical": cases.categorical()}
    found = {kind: "sha256:" + model.fingerprint() for kind, model in models.items()}
    return {**found, "data": "sha256:" + images().fingerprint}


def frozen(folder: Path) -> None:
    """Replace what differs from run to run in the texts of a model folder."""
    path = folder / "model.json"
    text = json.loads(path.read_text())
    text["provenance"] |= {"date": "2020-01-01T00:00:00+00:00", "seconds": 1.0}
    path.write_text(json.dumps({**text, "digest": digest(text)}, indent=1))
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    (folder / "log.jsonl").write_text("".join(json.dumps({**r, "seconds": 1.0}) + "\n" for r in records))


def run(*args: str | Path) -> tuple[int, str]:
    """A command in this process: its status and what it wrote to stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = command([str(a) for a in args])
    return status, out.getvalue()


@row("cli.json")
def cli(on: On) -> dict[str, Any]:
    """The JSON documents of commands on a model folder, and the file that --per-example writes."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    model, rows = on.folder / "run", on.folder / "rows.npz"
    calls: dict[str, tuple] = {
        "train": ("train", "--data", "digits:train", "--out", model, "--set", "steps=5", "--set", "net.width=16",
                  "--set", "net.blocks=1", "--set", "levels=8"),
        "evaluate": ("evaluate", model, "--data", "digits:test", "--limit", "12", "--per-example", rows),
        "ode": ("evaluate", model, "--data", "digits:test", "--limit", "4", "--ode", "--ode-steps", "4",
                "--probes", "1"),
        "compare": ("compare", model, model, "--data", "digits:test", "--limit", "8", "--tolerance", "0.5"),
        "tighten": ("tighten", model, "--data", "digits:test", "--limit", "40", "--steps", "3", "--out",
                    on.folder / "tight"),
        "sample": ("sample", model, "-n", "4", "--steps", "4", "--out", on.folder / "s.npz"),
        "compress": ("compress", model, "digits:test", "--limit", "12", "--few", "--out", on.folder / "d.nelbo"),
        "info": ("info", on.folder / "d.nelbo"),
        "decompress": ("decompress", model, on.folder / "d.nelbo", "--out", on.folder / "d.npy"),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, args in calls.items():
        status, text = run(*args, "--json")
        document = json.loads(text) if text.strip().startswith("{") else {"none": text == ""}
        found |= {f"{name}.status": status, name: Document(_without_paths(document, on.folder))}
        found[f"{name}.keys"] = Document(sorted(document))
    found["decompressed"] = np.load(on.folder / "d.npy")
    with np.load(rows) as table:
        found |= {f"rows.{key}": table[key] for key in sorted(table)}
    return found


def small_unet() -> Any:
    """A U-Net of diffusers with 8 channels."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def _without_paths(document: Any, folder: Path) -> Any:
    return json.loads(json.dumps(document).replace(str(folder), "FOLDER"))


@row("data.files")
def data(on: On) -> dict[str, Any]:
    """Files of data: what is read from them, by fingerprint, and a bound."""
    from PIL import Image

    codes = cases.codes(6, bins=256, side=8)[:, 0].numpy().astype("uint8")
    np.save(on.folder / "a.npy", codes)
    np.savez(on.folder / "b.npz", pictures=codes, labels=np.arange(6))
    head = np.array([0x803, *codes.shape], ">i4").tobytes()
    (on.folder / "c-ubyte").write_bytes(head + codes.tobytes())
    for i, picture in enumerate(codes):
        (on.folder / "d" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(on.folder / "d" / str(i % 2) / f"{i}.png")
    found: dict[str, Any] = {}
    for name in ("a.npy", "b.npz#pictures", "c-ubyte", "d", "digits:test"):
        shape, bins = ((1, 8, 8), 256) if name == "d" else ((8, 8), 256)
        model = nelbo.from_callable(lambda z, t: 0.5 * z, schedule=cases.TABLE, domain=nelbo.DataDomain(shape, bins))
        place = name if name.startswith("digits") else on.folder / name
        bound = nelbo.evaluate(model, str(place), limit=5, estimator=Stratified(3, 2))
        found |= {name: bound.bits_per_dim, f"{name}.fingerprint": "sha256:" + bound.data["fingerprint"]}
    return found


@row("folder.diffusers", rel=1e-4)
def diffusers(on: On) -> dict[str, Any]:
    """Networks of diffusers with the schedulers that are laws."""
    from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    found: dict[str, Any] = {}
    schedulers = {
        "flow": FlowMatchEulerDiscreteScheduler(num_train_timesteps=50),
        "edm": EDMEulerScheduler(num_train_timesteps=50),
        "ddim": DDIMScheduler(50, beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
    }
    for name, scheduler in schedulers.items():
        model = nelbo.from_diffusers((small_unet(), scheduler), bins=8)
        bound = nelbo.evaluate(model, cases.codes(4, side=8), estimator=Stratified(3, 2))
        found |= {name: bound.bits_per_dim, f"{name}.fingerprint": "sha256:" + model.fingerprint()}
    return found


@row("words.texts")
def words(on: On) -> dict[str, Any]:
    """Texts for people: the table of a result, the report and the card. Changed words are a reason to write anew."""
    out = on.folder / "run"
    model = nelbo.train(images(), out, {**SMALL, "steps": 6})
    frozen(out)
    bound = nelbo.evaluate(model, images().data[:16], estimator=Stratified(4, 2))
    document = stripped(bound.to_dict()) | {"version": nelbo.__version__, "warnings": []}
    (out / "bound.json").write_text(json.dumps(document))
    run("report", out, "--out", on.folder / "report.html")
    table = str(bound).encode()
    return {"table": table, "report": (on.folder / "report.html").read_bytes()}


@row("words.card")
def card(on: On) -> dict[str, Any]:
    """A network of diffusers: its bound, the folder written for it, and the model card."""
    from diffusers import DDPMScheduler

    model = nelbo.from_diffusers((small_unet(), DDPMScheduler(20, prediction_type="v_prediction")), bins=8)
    bound = nelbo.evaluate(model, cases.codes(8, side=8), estimator=Stratified(4, 2))
    out = nelbo.save_pretrained(model, on.folder / "pipeline", bound=bound, license="apache-2.0")
    text = (out / "README.md").read_text()
    scheduler = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    return {
        "bits_per_dim": bound.bits_per_dim,
        "metadata": text.split("---")[1].encode(),
        "card": text.encode(),
        "scheduler": Document({k: v for k, v in scheduler.items() if not k.startswith("_diffusers")}),
    }

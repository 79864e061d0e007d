"""Rows of `nelbo.train`: twenty steps of every objective, head and recipe; the weights, the log, the folder."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import torch
from tools.recorded import cases
from tools.recorded.cases import Stratified
from tools.recorded.registry import Document, On, row, stripped

import nelbo

SMALL: dict[str, Any] = {
    "steps": 20, "batch_size": 16, "levels": 8, "checkpoint_every": 10, "log_every": 5, "warmup": 2, "lr": 0.01,
    "net": {"name": "mlp", "width": 16, "embedding": 8, "blocks": 1},
}  # fmt: skip
MLP = SMALL["net"]
PLAIN = {**MLP, "head": "plain"}
UNET = {"name": "unet", "width": 8, "multipliers": [1, 2], "patch": 1}


def images() -> nelbo.Examples:
    return nelbo.Examples(cases.codes(80), "codes", cases.labels(80), cases.BINS)


def of_model(model: nelbo.DiffusionModel, on: On) -> dict[str, Any]:
    """The weights by one hash, the records of the log, the texts of the folder, and a bound."""
    weights = torch.cat([tensor.double().cpu().reshape(-1) for _, tensor in sorted(model.tensors().items())])
    records = [json.loads(line) for line in (on.folder / "model" / "log.jsonl").read_text().splitlines()]
    text = json.loads((on.folder / "model" / "model.json").read_text())
    names = "\n".join(sorted(model.tensors())).encode()
    found: dict[str, Any] = {"weights": weights, "names": names, "log": Document(records), "folder": Document(text)}
    found["loss"] = float(next(r["loss"] for r in reversed(records) if "loss" in r))
    found["fingerprint"] = "sha256:" + model.fingerprint()
    return found


def training(name: str, data=images, *, score: bool = False, rel: float = 1e-3, **config: Any) -> None:
    """A row that trains with SMALL and these settings. Twenty steps of an optimiser amplify differences of rounding."""

    @row(f"train.{name}", device=True, rel=rel)
    def compute(on: On) -> dict[str, Any]:
        model = nelbo.train(data(), on.folder / "model", {**SMALL, **config}, **on.options)
        found = of_model(model, on)
        if score:
            bound = nelbo.evaluate(model, data().data[:16], estimator=Stratified(4, 2), **on.options)
            found |= {"bound": bound.bits_per_dim, "document": Document(bound.to_dict())}
        return found


training("default", score=True)
for name in ("sigmoid", "edm_monotone"):
    training(f"objective.{name}", objective={"name": name})
for name in ("simple", "min_snr"):
    training(f"objective.{name}", net=PLAIN, objective={"name": name})
for name in ("uniform", "importance"):
    training(f"times.{name}", objective={"t": name})
training("objective.hybrid", net={**PLAIN, "predicts": "eps"}, objective={"name": "hybrid"},
         schedule={"name": "linear", "T": 20}, variance="learned_range", levels=None)  # fmt: skip
training("learned-schedule", schedule={"name": "learned", "segments": 6})
training("learned-log", net=PLAIN, variance="learned_log", schedule={"name": "cosine", "T": 20}, levels=None)
training("plain.histogram", net=PLAIN, decoder="histogram", clip=True, score=True)
training("plain.mixture", net={**PLAIN, "components": 2}, decoder="mixture", score=True)
training("head.mixture", net={**MLP, "head": "mixture", "components": 2}, score=True)
# between two CPUs its loss differs by 4e-3, and a disturbance of the size of rounding moves it by 6e-4
training("unet", net={**UNET, "head": "plain", "predicts": "eps"}, score=True, rel=0.02)
training("unet.logits", net=UNET, channels_last=True)
training("unet.noise-units", net={**UNET, "head": "plain", "predicts": "eps", "noise_units": True, "end_gate": True,
                                  "shuffle": True, "attention": False}, decoder="mixture", clip=True)  # fmt: skip
training("muon", optimizer="muon")
training("bf16", precision="bf16", rel=0.03)
training("accumulate", accumulate=2, ema=0.9)
training("augment", augment=["horizontal_flip"], weight_decay=0.0)
training("condition", condition="y")
training("continuous", levels=None, reconstruction_share=1.0)
training("validation", validation={"every": 7, "examples": 16, "max_nfe": 700, "tolerance": 0.2})


def columns() -> nelbo.Examples:
    return nelbo.Examples(cases.GAUSSIAN.sample(80, seed=1), "columns")


training("real", columns, net=PLAIN, standardise=True, score=True)


@row("train.recipe", device=True, rel=1e-3)
def recipe(on: On) -> dict[str, Any]:
    """The recipe for images of 64 codes and more, in three steps."""
    data = nelbo.Examples(cases.codes(16, channels=3, bins=64, side=8), "images", None, 64)
    few = {"steps": 3, "batch_size": 4, "net": {"width": 32}, "levels": 20}
    return of_model(nelbo.train(data, on.folder / "model", few, **on.options), on)


@row("train.resume", device=True, rel=1e-3)
def resume(on: On) -> dict[str, Any]:
    """Stopped after step 13, continued from the checkpoint."""

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 13:
            raise KeyboardInterrupt

    with contextlib.suppress(nelbo.NelboError):
        nelbo.train(images(), on.folder / "model", SMALL, progress=stop, **on.options)
    checkpoints = sorted(path.name for path in (on.folder / "model" / "checkpoints").iterdir())
    model = nelbo.train(images(), on.folder / "model", SMALL, resume=True, **on.options)
    return {**of_model(model, on), "checkpoints": Document(checkpoints)}


@row("train.config")
def config(on: On) -> dict[str, Any]:
    """The settings a run writes down, and the schema of a configuration file without its descriptions."""
    nelbo.train(images(), on.folder / "model", {**SMALL, "steps": 1})

    def undescribed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: undescribed(v) for k, v in value.items() if k != "description" or not isinstance(v, str)}
        return [undescribed(v) for v in value] if isinstance(value, list) else value

    written = json.loads((on.folder / "model" / "config.json").read_text())
    return {"config": Document(written), "schema": Document(undescribed(stripped(cases.config_schema())))}

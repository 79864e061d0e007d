"""Rows of `nelbo.tighten`: kinds of model, first levels, families of covariances, targets."""

from __future__ import annotations

from typing import Any

import torch
from tools.recorded import cases
from tools.recorded.cases import Net, of_kind
from tools.recorded.registry import Document, On, row

import nelbo


def of_certificate(model: nelbo.DiffusionModel, found) -> dict[str, Any]:
    """What is kept of a tightened model: every stage, every family, the chain, the fitted parts and the document."""
    document = found.to_dict()
    kept: dict[str, Any] = {f"stage.{i}": stage.bound.bits_per_dim for i, stage in enumerate(found.stages)}
    kept |= {f"family.{name}": bits for name, bits in document["covariance"]["tried"].items()}
    return {
        **kept,
        "steps": model.steps,
        "decoder": document["decoder"]["kind"],
        "family": document["covariance"]["family"],
        "logsnr": model.levels().logsnr,
        "nats": found.after.per_example.nats,
        "fingerprint": "sha256:" + model.fingerprint(),
        "document": Document(document),
    }


def tightened(name: str, make, data, *args, rel: float = 1e-5, **options) -> None:
    """A row that tightens make() on data()."""

    @row(f"tighten.{name}", device=True, rel=rel, planned=True)
    def compute(on: On) -> dict[str, Any]:
        return of_certificate(*nelbo.tighten(make(), data(), *args, **{**options, **on.options}))


tightened("eps", lambda: of_kind("eps"), cases.codes, 5)
for kind in ("gaussian", "histogram", "pixel", "context", "own"):
    tightened(f"first-level.{kind}", lambda: of_kind("eps"), lambda: cases.codes(64), 3, first_level=kind)
tightened("learned-range", lambda: of_kind("learned_range"), lambda: cases.codes(64), 4)
tightened("vdm", lambda: of_kind("vdm"), lambda: cases.codes(64), 4)
# rounding of another kind of CPU moves a planned draw of its first stage, and the value by 6e-3
tightened("real", lambda: of_kind("real"), lambda: cases.real_data()[:64], 4, rel=0.02)
tightened("target", lambda: of_kind("eps"), lambda: cases.codes(64), target=4.0)
tightened("held-out", lambda: of_kind("eps", clip=True), lambda: cases.codes(40), 4, seed=3,
          held_out=cases.codes(30, seed=8))  # fmt: skip
tightened("condition", lambda: of_kind("conditional"), lambda: cases.codes(64), 3, first_level="own",
          condition={"y": cases.labels(64)})  # fmt: skip


def colours() -> nelbo.DiffusionModel:
    """Three channels, for the family of one number a channel."""
    domain = nelbo.DataDomain((3, 4, 4), bins=8)
    return nelbo.from_callable(Net(3, inputs=3), schedule=cases.TABLE, domain=domain, predicts="x0")


tightened("channels", colours, lambda: cases.codes(64, channels=3, side=4), 3, first_level="own")


def oracle() -> nelbo.DiffusionModel:
    data = nelbo.exact.CategoricalData(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]]))
    return data.model(nelbo.schedules.logsnr_linear(6.0, -6.0), nelbo.grids.even(40))


tightened("oracle", oracle, lambda: torch.arange(3 * 80).reshape(80, 3) * 7 % 5 % 3, 3)


def tightened_model() -> nelbo.DiffusionModel:
    """A model with a fitted covariance and a fitted decoder."""
    return nelbo.tighten(of_kind("eps"), cases.codes(64), 3, first_level="context")[0]

"""Rows of `nelbo.sample`: every sampler, spacing and option."""

from __future__ import annotations

from typing import Any

import torch
from tools.recorded import cases
from tools.recorded.cases import of_kind
from tools.recorded.registry import On, row
from tools.recorded.tightening import tightened_model

import nelbo


def sampling(name: str, make, n: int = 6, *, rel: float = 1e-5, **options: Any) -> None:
    """A row that draws n samples."""

    @row(f"sample.{name}", device=True, rel=rel)
    def compute(on: On) -> dict[str, Any]:
        given = {k: v() if callable(v) else v for k, v in options.items()}
        drawn = nelbo.sample(make(), n, **{**given, **on.options})
        return drawn._asdict() if given.get("trajectory") else {"samples": drawn}


for name in sorted(nelbo.samplers.NAMED):
    kind = "flow" if name.startswith("flow") else "vdm"
    sampling(f"sampler.{name}", lambda kind=kind: of_kind(kind), sampler=name, steps=6, codes=False)
sampling("own-grid", lambda: of_kind("eps"))
sampling("ddim.eta", lambda: of_kind("eps"), sampler=lambda: nelbo.samplers.DDIM(eta=0.5), steps=6, codes=False)
for spacing in ("quadratic", "karras", "logsnr"):
    make = cases.mixture if spacing != "quadratic" else lambda: of_kind("eps")
    sampling(f"spacing.{spacing}", make, sampler="ddim", steps=5, grid=spacing, codes=False)
sampling("clipped", lambda: of_kind("x0", clip=True), steps=6, seed=4, batch_size=4, codes=False)
sampling("learned-range", lambda: of_kind("learned_range"), steps=6, codes=False)
sampling("categorical", cases.categorical)
sampling("gaussian", lambda: cases.gaussian(nelbo.grids.even(6)))
sampling("density", lambda: of_kind("real"), steps=6)
sampling("exact-ends.gaussian", lambda: cases.gaussian(nelbo.grids.even(4)), codes=False)
sampling("fitted", tightened_model)
sampling("trajectory", lambda: of_kind("eps"), steps=4, trajectory=True, sampler="dpmpp_2m", codes=False)
sampling("condition", lambda: of_kind("conditional"), steps=4, condition={"y": cases.labels(6)}, codes=False)
sampling("guidance", lambda: of_kind("conditional"), steps=4, condition={"y": cases.labels(6)}, codes=False,
         guidance=2.0, null_condition={"y": torch.tensor(3)})  # fmt: skip


@row("sample.encode", device=True)
def encode(on: On) -> dict[str, Any]:
    """From data to noise, and back."""
    model = of_kind("vdm")
    z = nelbo.samplers.encode(model, cases.codes(4), sampler="ddim", steps=6, **on.options)
    back = nelbo.sample(model, 4, sampler="ddim", steps=6, start=z, codes=False, **on.options)
    return {"z": z, "back": back}

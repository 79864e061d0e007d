"""Rows of `nelbo.evaluate`: estimators, decoders, variances, clipping, precision, conditions, state."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import torch
from tools.recorded import cases
from tools.recorded.cases import Adaptive, Exhaustive, Stratified, Threshold, baseline, of_kind
from tools.recorded.registry import Document, On, row

import nelbo

grids = nelbo.grids


def of_bound(bound: nelbo.Bound) -> dict[str, Any]:
    """What is kept of a result: the headline, its errors and terms, the cost, and the hash of the JSON document."""
    e, document = bound.standard_error, bound.to_dict()
    found = {
        "bits_per_dim": bound.bits_per_dim,
        "estimator_error": e.estimator,
        "data_error": e.data,
        "nfe": bound.nfe_total,
        "document": Document(document),
    }
    found |= {name: term["bits_per_dim"] for name, term in document["terms"].items()}
    if bound.per_example is not None:
        found |= {"nats": bound.per_example.nats, "nats_error": bound.per_example.standard_error}
    return found


def evaluation(name: str, make, data, *, rel: float = 1e-5, **options) -> None:
    """A row that evaluates make() on data() with these options."""
    estimator = options.get("estimator", "auto")
    fixed = estimator in ("exhaustive", "stratified") or isinstance(estimator, Exhaustive | Stratified)

    @row(f"evaluate.{name}", device=True, rel=rel, planned=not fixed)
    def compute(on: On) -> dict[str, Any]:
        return of_bound(nelbo.evaluate(make(), data(), **{**options, **on.options}))


def points(n: int = 40):
    """Examples of the mixture on the line."""
    return cases.MIXTURE.sample(n, seed=3)


def letters(n: int = 64):
    """Examples of the categorical law."""
    return cases.CODES.sample(n, seed=3)


def few() -> torch.Tensor:
    """24 images of codes."""
    return cases.codes(24)


def thresholded() -> nelbo.DiffusionModel:
    """A model whose x̂ is clipped by dynamic thresholding."""
    model = of_kind("x0")
    reverse = dataclasses.replace(model.reverse, clip=Threshold(0.9, 1.5))
    return dataclasses.replace(model, reverse=reverse)


# ---------------------------------------------------------------- estimators

FINITE, CONTINUOUS = grids.even(6), grids.continuous()
for name, estimator, levels in [
    ("exhaustive.2", Exhaustive(2), FINITE),
    ("exhaustive.1", Exhaustive(1, 8), FINITE),
    ("exhaustive.name", "exhaustive", FINITE),
    ("stratified.finite", Stratified(4, 2), FINITE),
    ("stratified.more-strata-than-levels", Stratified(7, 2), grids.even(3)),
    ("stratified.continuous", Stratified(4, 2), CONTINUOUS),
    ("stratified.name", "stratified", CONTINUOUS),
    ("auto.mixture", "auto", CONTINUOUS),
]:
    evaluation(name, lambda levels=levels: cases.mixture(levels), points, estimator=estimator, per_example=True)

evaluation("auto.small-grid", lambda: of_kind("eps"), few, grid=grids.even(4))
evaluation("auto.large", lambda: of_kind("eps"), lambda: cases.codes(400), tolerance=0.02)
evaluation("auto.per-example", lambda: of_kind("eps"), lambda: cases.codes(), tolerance=0.05, per_example=True)
evaluation("auto.max-nfe", lambda: of_kind("eps"), lambda: cases.codes(), tolerance=1e-4, max_nfe=1500)
evaluation("auto.one-example", lambda: of_kind("eps"), lambda: cases.codes(1), tolerance=0.1)
for design in ("pooled", "per_example"):
    evaluation(f"{design}.finite", lambda: of_kind("eps"), lambda: cases.codes(), estimator=design, tolerance=0.03)
    evaluation(
        f"{design}.continuous",
        lambda: of_kind("vdm"),
        lambda: cases.codes(),
        rel=1e-4,
        estimator=design,
        tolerance=0.03,
    )
for kind in ("uniform", "low_discrepancy", "importance"):
    evaluation(f"one-time.{kind}", lambda: of_kind("eps"), lambda: cases.codes(), estimator=baseline(kind))
for name, settings in {
    "no-controls": {"controls": False},
    "no-regression": {"regression": False, "design": "pooled"},
    "uniform": {"allocation": "uniform"},
    "importance": {"allocation": "importance", "pilot": 16},
    "strata": {"design": "per_example", "strata": 3},
}.items():
    estimator = Adaptive(0.05, **settings)
    evaluation(f"adaptive.{name}", lambda: of_kind("eps"), lambda: cases.codes(), estimator=estimator)

# ---------------------------------------------------------------- exact models

evaluation("gaussian.continuous", cases.gaussian, lambda: cases.GAUSSIAN.sample(40), estimator=Stratified(4, 2))
evaluation("gaussian.finite", lambda: cases.gaussian(grids.even(5)), lambda: cases.GAUSSIAN.sample(40), seed=7)
evaluation("mixture.exact-ends", lambda: cases.mixture(exact_ends=True), points, tolerance=0.05)
evaluation("categorical.finite", cases.categorical, letters, precision="float64", per_example=True)
evaluation("categorical.continuous", lambda: cases.categorical(CONTINUOUS), letters, tolerance=0.03)

# ---------------------------------------------------------------- parts of the model

for kind in ("x0", "v", "score", "learned_range", "learned_log", "flow", "edm", "vdm", "real"):
    data = cases.real_data if kind == "real" else few
    evaluation(f"model.{kind}", lambda kind=kind: of_kind(kind), data, estimator=Stratified(5, 2), per_example=True)
evaluation("variance.beta", lambda: of_kind("eps", variance="beta"), few, estimator=Stratified(5, 2))
evaluation("variance.table", lambda: of_kind("eps", variance=torch.linspace(0.001, 0.3, 40)), few,
           estimator=Stratified(5, 2))  # fmt: skip
evaluation("clip.range", lambda: of_kind("eps", clip=(-0.8, 0.9)), few, estimator=Stratified(5, 2))
evaluation("clip.true", lambda: of_kind("x0", clip=True), few, estimator=Exhaustive(2), grid=grids.even(5))
evaluation("clip.threshold", thresholded, few, estimator=Stratified(5, 2))
evaluation("decoder.categorical-prior",
           lambda: of_kind("vdm", decoder=nelbo.decoders.Categorical(torch.linspace(0.1, 1, 8).double().log())),
           few, estimator=Stratified(5, 2))  # fmt: skip
evaluation("decoder.discretized", lambda: of_kind("vdm", decoder=nelbo.decoders.DiscretizedGaussian(0.02)), few,
           estimator=Stratified(5, 2))  # fmt: skip
evaluation("first-level", lambda: of_kind("eps", first_level=3), few, estimator=Stratified(5, 2))
for name, levels in {
    "karras": grids.karras(6),
    "quadratic": grids.quadratic(6),
    "logsnr": grids.logsnr_uniform(6),
}.items():
    evaluation(f"grid.{name}", cases.mixture, points, grid=levels, estimator=Exhaustive(2))
DENSITY = grids.Density(4, (4.0, 1.0, -3.0), (0.3, 0.7))
for name, levels in {"times": grids.times([0.0, 0.3, 1.0]), "density": DENSITY}.items():
    evaluation(f"grid.{name}", cases.mixture, points, grid=levels, estimator=Exhaustive(2))
evaluation("grid.subset", lambda: of_kind("eps"), few, grid=grids.subset([0, 3, 8, 39]))
for name, law in {
    "interpolated": cases.TABLE.interpolated(),
    "cosine": nelbo.schedules.cosine(30),
    "betas": nelbo.schedules.from_betas(torch.linspace(0.01, 0.4, 20)),
}.items():
    evaluation(
        f"schedule.{name}",
        lambda law=law: nelbo.from_callable(cases.Net(), schedule=law, domain=cases.DOMAIN),
        few,
        estimator=Stratified(5, 2),
    )
LEARNED = nelbo.schedules.learned(7.0, -6.0, shape=[1.0, 3.0, 0.5])
evaluation(
    "schedule.learned",
    lambda: nelbo.from_callable(cases.Net(), schedule=LEARNED, domain=cases.DOMAIN, time="logsnr"),
    few,
    estimator=Stratified(5, 2),
)

# ---------------------------------------------------------------- options

evaluation("precision.float64", lambda: of_kind("eps"), few, precision="float64", estimator=Stratified(5, 2))
# bf16 keeps three digits, and other hardware rounds in another order
evaluation("precision.bf16", lambda: of_kind("eps"), few, precision="bf16", estimator=Stratified(5, 2), rel=0.03)
evaluation("condition", lambda: of_kind("conditional"), few, condition={"y": cases.labels(24)},
           estimator=Stratified(5, 2))  # fmt: skip
evaluation("batch-and-seed", lambda: of_kind("eps"), few, batch_size=7, seed=11, estimator=Stratified(5, 2))
evaluation("overrides", lambda: of_kind("eps"), few, estimator=Stratified(5, 2),
           overrides=nelbo.Overrides(variance="beta", clip=True, bins=16))  # fmt: skip
evaluation("labels-of-data", lambda: of_kind("conditional"), estimator=Stratified(5, 2), condition="y", limit=20,
           data=lambda: nelbo.Examples(cases.codes(24), "labelled", cases.labels(24)))  # fmt: skip


@row("evaluate.state")
def state(on: On) -> dict[str, Any]:
    """Evaluations resumed from a file that was cut off in the middle, and the bytes of the finished files."""
    found: dict[str, Any] = {}
    for name in ("auto", "exhaustive", "stratified"):
        path = on.folder / name
        options = {"tolerance": 0.1, "estimator": name, "grid": grids.even(12), "state": path}
        whole = nelbo.evaluate(of_kind("eps"), few(), **options)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        resumed = nelbo.evaluate(of_kind("eps"), few(), **options)
        found |= {f"{name}.bits": resumed.bits_per_dim, f"{name}.same": resumed.bits_per_dim == whole.bits_per_dim}
        found |= {f"{name}.file": content, f"{name}.again": path.read_bytes() == content}
    return found


@row("evaluate.progress")
def progress(on: On) -> dict[str, Any]:
    """What the callbacks were told."""
    seen: dict[str, list] = {"progress": [], "watch": []}
    nelbo.evaluate(
        of_kind("eps"), cases.codes(), tolerance=0.05,
        progress=lambda done, planned: seen["progress"].append([done, planned]),
        watch=lambda bits, error: seen["watch"].append([bits, error]),
    )  # fmt: skip
    return {name: Document(values) for name, values in seen.items()}


class Thread:
    """One of two workers that are threads of this process."""

    size, stopping = 2, False

    def __init__(self, rank: int, barrier: threading.Barrier, shelf: dict[int, torch.Tensor]):
        self.rank, self.barrier, self.shelf = rank, barrier, shelf

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """The rows of both, in the order of ranks."""
        self.shelf[self.rank] = values
        self.barrier.wait(60)
        both = [self.shelf[rank] for rank in range(2)]
        self.barrier.wait(60)
        return both


def by_two(compute) -> list[Any]:
    """What compute(workers) returns in either of two threads."""
    barrier, shelf, found = threading.Barrier(2), {}, {}

    def work(rank: int) -> None:
        try:
            found[rank] = compute(Thread(rank, barrier, shelf))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(2)]


@row("evaluate.workers")
def workers(on: On) -> dict[str, Any]:
    """Shared between two workers: both have the result, and it is that of one process."""
    found: dict[str, Any] = {}
    for design in ("pooled", "per_example", "exhaustive", "stratified"):
        options = {"estimator": design, "tolerance": 0.5, "grid": grids.even(12)}
        models = of_kind("eps"), of_kind("eps")  # not made in the threads, which share torch's generator
        pair = by_two(lambda it, m=models, o=options: nelbo.evaluate(m[it.rank], few(), workers=it, **o))
        alone = nelbo.evaluate(of_kind("eps"), few(), **options)
        found |= {f"{design}.{i}": bound.bits_per_dim for i, bound in enumerate(pair)}
        found[f"{design}.same"] = [bound.bits_per_dim == alone.bits_per_dim for bound in pair]
        found[f"{design}.nfe"] = [bound.nfe_total for bound in pair]
    return found

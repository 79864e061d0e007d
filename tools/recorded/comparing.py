"""Rows of `nelbo.compare` and `nelbo.ode_likelihood`."""

from __future__ import annotations

from typing import Any

from tools.recorded import cases
from tools.recorded.cases import Stratified, of_kind
from tools.recorded.evaluating import few, letters, of_bound
from tools.recorded.registry import Document, On, row

import nelbo


def of_comparison(found) -> dict[str, Any]:
    """What is kept of a comparison."""
    return {
        "difference": found.difference,
        "estimator_error": found.standard_error.estimator,
        "total_error": found.standard_error.total,
        "a": found.a,
        "b": found.b,
        "a_error": found.standard_error_a,
        "b_error": found.standard_error_b,
        "nfe": found.nfe_total,
        "per_example": found.per_example,
        "document": Document(found.to_dict()),
    }


@row("compare.same-levels", device=True, planned=True)
def same_levels(on: On) -> dict[str, Any]:
    return of_comparison(
        nelbo.compare(of_kind("eps"), of_kind("eps", variance="beta"), cases.codes(), tolerance=0.1, **on.options)
    )


@row("compare.other-levels", device=True, planned=True)
def other_levels(on: On) -> dict[str, Any]:
    a, b = of_kind("vdm", grid=nelbo.grids.even(12)), of_kind("vdm", grid=nelbo.grids.even(5))
    return of_comparison(nelbo.compare(a, b, few(), tolerance=0.05, seed=2, **on.options))


@row("compare.continuous", device=True, rel=1e-4, planned=True)
def continuous(on: On) -> dict[str, Any]:
    a, b = of_kind("vdm"), of_kind("vdm", predicts="x0", clip=True)
    return of_comparison(nelbo.compare(a, b, few(), tolerance=0.2, max_nfe=2_000, **on.options))


@row("compare.condition", device=True, planned=True)
def condition(on: On) -> dict[str, Any]:
    a, b = of_kind("conditional"), of_kind("conditional", clip=True)
    return of_comparison(nelbo.compare(a, b, few(), tolerance=0.2, condition={"y": cases.labels(24)}, **on.options))


@row("compare.results", device=True)
def results(on: On) -> dict[str, Any]:
    how = {"estimator": Stratified(5, 2), "per_example": True, **on.options}
    a, b = (nelbo.evaluate(of_kind(kind), few(), **how) for kind in ("eps", "x0"))
    return of_comparison(nelbo.compare(a, b))


@row("compare.ode-results", device=True)
def ode_results(on: On) -> dict[str, Any]:
    how = {"steps": 4, "per_example": True, "precision": "float64", **on.options}
    a, b = (nelbo.ode_likelihood(cases.gaussian(), cases.GAUSSIAN.sample(8, seed), **how) for seed in (0, 0))
    return of_comparison(nelbo.compare(a, b))


def flow(name: str, make, data, *, rel: float = 1e-5, **options) -> None:
    """A row that computes the ODE likelihood of make() on data() with these options."""

    @row(f"ode.{name}", device=True, rel=rel)
    def compute(on: On) -> dict[str, Any]:
        how = {"per_example": True, "steps": 8, **options, **on.options}
        found = nelbo.ode_likelihood(make(), data(), **how)
        return {**of_bound(found), "text": str(found.estimator["trace"])}


def image() -> Any:
    return cases.codes(6)


flow("rk4.exact", lambda: cases.categorical(nelbo.grids.continuous()), lambda: letters(6), precision="float64")
flow("heun.exact", lambda: cases.categorical(nelbo.grids.continuous()), lambda: letters(6), solver="heun")
flow("probes", lambda: of_kind("eps"), image, probes=2, steps=6)
flow("default-trace", lambda: of_kind("vdm"), image, steps=6)
flow("flow-path", lambda: of_kind("flow"), image, steps=6, probes=1)
flow("adaptive", lambda: of_kind("vdm"), image, probes=1, tolerance=1e-4, max_steps=64, precision="float64")
flow("importance", lambda: cases.categorical(), lambda: letters(6), importance=3, exact_trace=True)
flow("condition", lambda: of_kind("conditional"), image, probes=1, condition={"y": cases.labels(6)})
for kind in ("uniform", "truncated_normal", "flow"):
    # the fit of the flow takes a hundred optimiser steps, which amplify differences of rounding
    flow(f"dequantisation.{kind}", cases.categorical, lambda: letters(6), dequantisation=kind, steps=4,
         rel=1e-3 if kind == "flow" else 1e-5)  # fmt: skip
flow("dequantisation.none", cases.gaussian, lambda: cases.GAUSSIAN.sample(10), dequantisation="none")
flow("real", lambda: of_kind("real"), lambda: cases.real_data()[:6], probes=2, draws=3)


@row("ode.state")
def state(on: On) -> dict[str, Any]:
    """An ODE likelihood resumed from a file that was cut off in the middle."""
    path = on.folder / "state"
    options = {"steps": 4, "probes": 1, "state": path}
    whole = nelbo.ode_likelihood(of_kind("vdm"), image(), **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    resumed = nelbo.ode_likelihood(of_kind("vdm"), image(), **options)
    return {"bits": resumed.bits_per_dim, "same": resumed.bits_per_dim == whole.bits_per_dim, "file": content}

"""The text and numbers of the page: what the bound means, the table of terms, and the provenance."""

from __future__ import annotations

import math
from typing import Any

from nelbo.bound.result import NOT_MEASURABLE
from nelbo.report.contents import FolderContents, is_number
from nelbo.typing import Json

ABOUT = {
    "prior": "how far the noisiest level is from the prior, a KL divergence",
    "diffusion": "the steps of the chain, each a KL divergence",
    "reconstruction": "the data, given the least noisy level",
}
ABOUT_ODE = {
    "prior": "the density of the noise at the end of the flow",
    "flow": "the change of volume along the flow",
    "dequantisation": "the density of the starting point, given the data",
    "reconstruction": "the data, given the starting point",
    "importance": "the gain from several starting points under one logarithm",
}
NAMES = {
    "nfe_total": "network evaluations",
    "nfe_per_example": "network evaluations an example",
    "version": "nelbo",
    "clipping": "clipping of x̂",
    "variance": "reverse variance",
    "trained_by": "trained by",
    "prior": "prior",
}
# Shown in other sections of the page.
_OTHER_SECTIONS = {"schema", "bits_per_dim", "standard_error", "terms", "levels", "nats_per_example", "warnings"}


def plus_minus(value: float, error: float | None) -> tuple[str, str | None]:
    """`value` and `error` to two significant digits of the error, with three decimals at least."""
    if not is_number(error) or not error:
        return f"{value:.3f}", None
    decimals = min(8, max(3, 1 - math.floor(math.log10(abs(error)))))
    return f"{value:.{decimals}f}", f"{error:.{decimals}f}"


def number(value: Any, decimals: int = 5) -> str:
    """A number with so many decimals, or a dash where there is none."""
    return f"{value:.{decimals}f}".replace("-", "−") if is_number(value) else "–"


def headline(contents: FolderContents) -> Json:
    """value, error, unit, a sentence on what they mean, and a sentence on the error bars."""
    bound = contents.bound or {}
    bits, D = bound["bits_per_dim"], bound["dimensions"]
    error = bound["standard_error"]
    total = error.get("total") if is_number(error.get("total")) else error.get("estimator")
    value, spread = plus_minus(bits, total)
    bins = bound["domain"].get("bins")
    if bins:
        uniform = math.log2(bins)
        meaning = (
            f"A code built on this model spends at most {value} bits on each of the {_count(D, 'value')} of an "
            f"example, on average: {bits * D:,.0f} bits an example. Without a model, {_count(bins, 'level')} need "
            f"log₂ {bins} = {uniform:.3f} bits each, {uniform * D:,.0f} in all; "
            + (
                f"the model needs {100 * bits / uniform:.0f} % of that."
                if bits < uniform
                else "the model is no better."
            )
        )
    else:
        meaning = (
            "The data are real numbers, so this bounds a negative log density, not the length of a code: it depends on "
            "the data's unit, and may be negative."
        )
    if bound.get("quantity") == "ode":
        meaning += " It is the likelihood of the probability-flow ODE, not the variational bound."
    return {"value": value.replace("-", "−"), "error": spread, "unit": "bits/dim", "meaning": meaning} | {
        "errors": _about_errors(error, bound["examples"])
    }


def _about_errors(error: Json, examples: int) -> str:
    estimator, data = error.get("estimator"), error.get("data")
    parts = []
    if is_number(estimator):
        what = "the noise of the Monte Carlo estimate" if estimator else "the estimate, which is exact"
        parts.append(f"±{_short(estimator)} from {what}")
    if is_number(data):
        parts.append(f"±{_short(data)} from the choice of {_count(examples, 'example')} from all that there could be")
    if not parts:
        return ""
    unknown = ""
    if not is_number(data):
        unknown = f" How much other examples would change it is {NOT_MEASURABLE} from these {examples}."
        if examples == 1:
            unknown = " One example does not show how much others differ."
    return f"The ± is one standard error: {', and '.join(parts)}.{unknown}"


def terms(bound: Json) -> list[Json]:
    """Rows of the table of terms: name, about, bits, share in per cent, both standard errors, bits an example."""
    rows = []
    total = bound["bits_per_dim"]
    ode = bound.get("quantity") == "ode"
    for name, about in (ABOUT_ODE if ode else ABOUT).items():
        term = bound["terms"][name]
        share = max(0.0, min(100.0, 100 * term["bits_per_dim"] / total)) if total > 0 else None
        rows.append({"name": name, "about": about, "share": share, **_row(term, bound["dimensions"])})
    error = bound["standard_error"]
    whole = {"bits_per_dim": total, "standard_error": error.get("estimator"), "standard_error_data": error.get("data")}
    return [*rows, {"name": "ode" if ode else "bound", "about": "", "share": None, **_row(whole, bound["dimensions"])}]


def _row(term: Json, dimensions: int) -> Json:
    return {
        "bits": number(term["bits_per_dim"]),
        "estimator": number(term.get("standard_error")),
        "data": number(error) if is_number(error := term.get("standard_error_data")) else NOT_MEASURABLE,
        "per_example": number(term["bits_per_dim"] * dimensions, 1),
    }


def coders(contents: FolderContents) -> list[Json]:
    """Bars of the comparison, shortest first: name, bits, width in per cent, note, whether it is this model."""
    bound = contents.bound
    rows = [
        {"name": r["name"], "bits": r["bits_per_dim"], "note": str(r.get("note") or "")} for r in contents.comparison
    ]
    bins = contents.domain.get("bins")
    if bins:
        rows.append({"name": f"no model ({bins} equal levels)", "bits": math.log2(bins), "note": f"log₂ {bins}"})
    if bound is not None:
        rows.append({"name": "this model", "bits": bound["bits_per_dim"], "note": "the bound", "own": True})
    longest = max((r["bits"] for r in rows), default=1.0)
    rows.sort(key=lambda r: r["bits"])
    return [
        {"own": False} | r | {"width": max(0.0, 100 * r["bits"] / longest), "text": f"{r['bits']:.2f}"} for r in rows
    ]


def made_with(contents: FolderContents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (name, text): all fields of the bound and of the model's description, with its training."""
    groups = []
    if contents.bound is not None:
        facts = {k: v for k, v in contents.bound.items() if k not in _OTHER_SECTIONS}
        groups.append(("The evaluation", _facts(facts)))
    if contents.model is not None:
        training = contents.model.get("provenance")
        if isinstance(training, dict) and training:
            groups.append(("The training", _facts(training)))
        parts = {k: v for k, v in contents.model.items() if k != "provenance"}
        groups.append(("The model folder", _facts(parts)))
    return [(name, rows) for name, rows in groups if rows]


def _facts(source: Json, prefix: str = "") -> list[tuple[str, str]]:
    """One row a field; a plain dictionary is spread over rows of its own, a part ("kind": …) stays on one."""
    rows = []
    for key, value in source.items():
        name = prefix + NAMES.get(key, str(key).replace("_", " "))
        if isinstance(value, dict) and value.get("kind") == key:  # "domain: domain, shape …"
            value = {k: v for k, v in value.items() if k != "kind"}
            rows.append((name, text(value)))
        elif isinstance(value, dict) and value and "kind" not in value and not prefix:
            rows += _facts(value, f"{name}: ")
        else:
            rows.append((name, text(value)))
    return rows


def text(value: Any, depth: int = 0) -> str:
    """A JSON value as a readable line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return (f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)).replace("-", "−")
    if isinstance(value, float):
        return f"{value:.6g}".replace("-", "−")
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        rest = [f"{str(k).replace('_', ' ')} {text(v, depth + 1)}" for k, v in value.items() if k != "kind"]
        joined = ", ".join([*kind, *rest])
        return f"({joined})" if depth and len(rest) > 0 else joined or "none"
    if isinstance(value, list):
        shown = ", ".join(text(v, depth + 1) for v in value[:8])
        return f"({shown}, … {len(value)} in all)" if len(value) > 8 else f"({shown})"
    return str(value)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _short(value: float) -> str:
    return f"{value:.2g}" if value else "0"

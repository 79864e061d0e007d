"""The text and numbers of the page: what the bound means, other coders, and the provenance."""

from __future__ import annotations

import math
from typing import Any

from nelbo.bound.units import symbol
from nelbo.documents.numbers import is_number, plus_minus
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.report.contents import FolderContents
from nelbo.typing import Json

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


def headline(contents: FolderContents) -> Json:
    """value, error, unit, a sentence on what they mean, and a sentence on the error bars."""
    bound = contents.bound or {}
    bits, D = bound["bits_per_dim"], bound["dimensions"]
    error = bound["standard_error"]
    total = error.get("total") if is_number(error.get("total")) else error.get("estimator")
    value, spread = plus_minus(bits, total)
    symbols = bound["domain"].get("vocabulary")
    bins = bound["domain"].get("bins") or symbols
    one, choice = ("symbol", "symbol") if symbols else ("value", "level")
    if bins:
        uniform = math.log2(bins)
        meaning = (
            f"A code built on this model spends at most {value} bits on each of the {_count(D, one)} of an "
            f"example, on average: {bits * D:,.0f} bits an example. Without a model, {_count(bins, choice)} need "
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
    meaning += _in_other_units(bound.get("units"))
    return {"value": value.replace("-", "−"), "error": spread, "unit": unit(bound), "meaning": meaning} | {
        "errors": _about_errors(error, bound["examples"])
    }


def unit(bound: Json) -> str:
    """The unit of the bound: bits/dim, or of symbols bits/token, bits/char or bits/byte."""
    data = bound.get("data")
    one = symbol(data if isinstance(data, dict) else {})
    return f"bits/{one}" if (bound.get("domain") or {}).get("vocabulary") else "bits/dim"


def _in_other_units(units: Json | None) -> str:
    """Perplexity, and bits a byte where they are known, as a sentence; "" of what is no text."""
    shown = []
    for name, called in (("perplexity", "a perplexity of"), ("bits_per_byte", "bits/byte:")):
        one = (units or {}).get(name)
        if one is not None and is_number(one.get("value")):
            error = one["standard_error"]
            of_both = error["total"] if is_number(error.get("total")) else error.get("estimator")
            value, spread = plus_minus(one["value"], of_both)
            shown.append(f"{called} {value}{'' if spread is None else f' ± {spread}'}")
    return f" In other units: {', '.join(shown)}." if shown else ""


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

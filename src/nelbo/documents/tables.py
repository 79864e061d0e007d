"""Rows of the tables of results, as texts, from their JSON: of the report and of notebooks."""

from __future__ import annotations

from typing import Any

from nelbo.documents.numbers import is_number, number
from nelbo.typing import Json

NOT_MEASURABLE = "not measurable"
ABOUT = {
    "prior": "how far the noisiest level is from the prior, a KL divergence",
    "diffusion": "the steps of the chain, each a KL divergence",
    "reconstruction": "the data, given the least noisy level",
}
ABOUT_LATENT = {
    "pixels": "the image, given its latent",
    "encoder": "less the entropy of the latent, given the image",
    **ABOUT,
    "reconstruction": "the latent, given the least noisy level",
}
ABOUT_ODE = {
    "prior": "the density of the noise at the end of the flow",
    "flow": "the change of volume along the flow",
    "dequantisation": "the density of the starting point, given the data",
    "reconstruction": "the data, given the starting point",
    "importance": "the gain from several starting points under one logarithm",
}
DECLARATIONS = 10
"""Declarations of a diagnosis that are shown; that of what was declared is always among them."""
EXAMPLES = 10
"""Examples of a contrast that are shown."""


def terms(bound: Json) -> list[Json]:
    """Rows of the table of terms: name, about, bits, share in per cent, both standard errors, bits an example."""
    rows = []
    total = bound["bits_per_dim"]
    ode = bound.get("quantity") == "ode"
    for name, about in (ABOUT_ODE if ode else ABOUT_LATENT if "pixels" in bound["terms"] else ABOUT).items():
        term = bound["terms"][name]
        share = max(0.0, min(100.0, 100 * term["bits_per_dim"] / total)) if total > 0 else None
        rows.append({"name": name, "about": about, "share": share, **_term(term, bound["dimensions"])})
    error = bound["standard_error"]
    whole = {"bits_per_dim": total, "standard_error": error.get("estimator"), "standard_error_data": error.get("data")}
    return [*rows, {"name": "ode" if ode else "bound", "about": "", "share": None, **_term(whole, bound["dimensions"])}]


def _term(term: Json, dimensions: int) -> Json:
    return {
        "bits": number(term["bits_per_dim"]),
        "estimator": number(term.get("standard_error")),
        "data": number(error) if is_number(error := term.get("standard_error_data")) else NOT_MEASURABLE,
        "per_example": number(term["bits_per_dim"] * dimensions, 1),
    }


def stages(certificate: Json) -> list[Json]:
    """Rows of a certificate: name, steps, bits, gained over the row before, its error, predicted."""
    return [_stage(stage) for stage in certificate["stages"]]


def _stage(stage: Json) -> Json:
    part = stage["part"] or {}
    return {
        "name": stage["name"],
        "steps": "∞" if stage["steps"] is None else str(stage["steps"]),
        "bits": number(stage["bits_per_dim"], 3),
        "gained": number(part.get("bits_per_dim"), 3),
        "error": error(part["standard_error"]) if part else "–",
        "predicted": number(stage["fitted_bits_per_dim"], 3),
    }


def error(value: Any) -> str:
    """A standard error with three decimals, or that it cannot be measured."""
    return number(value, 3) if is_number(value) else NOT_MEASURABLE


def declarations(diagnosis: Json) -> list[Json]:
    """Rows of a diagnosis, the best first: name, own (what was declared), choice (another model), bits, difference, and
    the error of either."""
    rows = diagnosis["rows"]
    return [_declaration(row) for place, row in enumerate(rows) if place < DECLARATIONS or row["as_declared"]]


def _declaration(row: Json) -> Json:
    own = bool(row["as_declared"])
    return {
        "name": str(row["name"]) + (" *" if row["kind"] == "choice" else ""),
        "own": own,
        "choice": row["kind"] == "choice",
        "bits": number(row["bits_per_dim"], 3),
        "error": number(row["standard_error"], 3),
        "difference": "" if own else number(row["difference"], 3, "+"),
        "difference_error": "" if own else number(row["difference_error"], 3),
    }


def difference(comparison: Json) -> list[Json]:
    """Rows of a comparison: A and B with the estimator's errors of their own, where they are known, and their
    difference, whose errors are those of the pairs."""
    errors, bits, own = comparison["standard_error"], comparison["bits_per_dim"], comparison.get("standard_errors", {})
    of_data = number(data) if is_number(data := errors["data"]) else NOT_MEASURABLE
    whole = {
        "bits": number(comparison["difference"], 5, "+"),
        "estimator": number(errors["estimator"]),
        "data": of_data,
    }
    models = [
        {
            "name": name.upper(),
            "bits": number(bits[name]),
            "estimator": number(own[name]) if is_number(own.get(name)) else "",
            "data": "",
        }
        for name in ("a", "b")
    ]
    return [*models, {"name": "A − B", **whole}]


def decisions(contrast: Json) -> list[Json]:
    """Rows of a contrast, the first examples: name, best, posterior, the next best condition, how many nats it is above
    the best and the error of that, and what is not decided."""
    return [_decision(contrast, i) for i in range(min(contrast["examples"], EXAMPLES))]


def _decision(contrast: Json, i: int) -> Json:
    values, gone = contrast["values"], contrast["at_elimination"][i]
    gaps = [at if at is not None else gap for at, gap in zip(gone, contrast["difference"][i], strict=True)]
    b = values.index(contrast["best"][i])
    rival = min((c for c in range(len(values)) if c != b), key=gaps.__getitem__, default=None)
    return {
        "name": str(i),
        "best": str(values[b]),
        "posterior": number(contrast["posterior"][i][b], 3),
        "next": "" if rival is None else str(values[rival]),
        "difference": "" if rival is None else number(gaps[rival], 2),
        "error": "" if rival is None else number(contrast["standard_error"][i][rival], 2),
        "undecided": "" if contrast["decided"][i] or contrast["confidence"] is None else "undecided",
    }


def profile(document: Json) -> list[Json]:
    """Rows of a likelihood profile: name, value."""
    errors, ends = document["standard_error"], document["interval"]
    return [
        {"name": "maximum", "value": number(document["maximum"], 5)},
        {"name": "± data", "value": number(errors["data"], 5)},
        {"name": "± draws", "value": number(errors["monte_carlo"], 5)},
        {"name": f"{100 * ends['confidence']:g} % from", "value": number(ends["low"], 5)},
        {"name": "to", "value": number(ends["high"], 5)},
    ]

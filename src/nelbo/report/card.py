"""The model card: README.md with the metadata of the Hugging Face hub, and the bound with everything behind it.

The metadata are YAML whose scalars are written as JSON, which YAML reads. The bound is a metric of the model index, and
in the text the table of `print(bound)`.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any

from nelbo._version import __version__
from nelbo.bound import units
from nelbo.bound.evaluate import ESTIMATORS
from nelbo.bound.result import Bound
from nelbo.bound.values import error_in_words
from nelbo.documents.numbers import plus_minus
from nelbo.documents.tables import NOT_MEASURABLE
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.tokens.model import TokenModel
from nelbo.typing import Json

TASK = "unconditional-image-generation"
OF_TEXT = "text-generation"
_SIGNS = "\\`*_[]#|~"
"""Signs of Markdown within a line, beside those of HTML."""


def card(
    model: DiffusionModel | TokenModel,
    bound: Bound | None = None,
    *,
    name: str,
    license: str | None = None,
    library: str = "diffusers",
) -> str:
    """README.md of `model`, called `name`: metadata, how to use it, the bound where it is given, what it is made of.

    license: an identifier of the hub ("apache-2.0"); left out where None. library: what loads the folder.
    """
    meta = metadata(bound, name=name, license=license, library=library, task=task_of(model))
    sections = [f"---\n{yaml(meta)}---\n", f"# {escaped(name)}\n", _about(model, library)]
    if bound is not None:
        sections.append(_likelihood(bound))
    sections.append(_parts(model))
    return "\n".join(sections)


def task_of(model: DiffusionModel | TokenModel) -> str | None:
    """The hub's name for what a model makes; None of symbols that are not known to be a text."""
    if isinstance(model, DiffusionModel):
        return TASK
    text = "tokenizer" in model.provenance.get("data", {}) or "transformers" in model.provenance
    return OF_TEXT if text else None


def metadata(bound: Bound | None, *, name: str, license: str | None, library: str, task: str | None = TASK) -> Json:
    """The metadata of the hub: library, license, tags, and the bound as a metric of the model index."""
    meta: Json = {"library_name": library}
    if license is not None:
        meta["license"] = license
    if task is not None:
        meta["pipeline_tag"] = task
    kind = "ddpm" if task == TASK else "discrete-diffusion"
    meta["tags"] = ["diffusion", kind, "nelbo", "likelihood"]
    if bound is None:
        return meta
    unit, measure = _unit(bound), _measure(bound)
    metric = {
        "type": measure,
        "name": f"variational bound, {unit}",
        "value": round(bound.bits_per_dim, 6),
        "args": {
            "standard_error_estimator": _finite(bound.standard_error.estimator),
            "standard_error_data": _finite(bound.standard_error.data),
            "examples": bound.examples,
            "seed": bound.seed,
        },
    }
    # the hub expects the identifier of a data set: the name without its split
    dataset = {"name": bound.data["name"], "type": bound.data["name"].split(":")[0]}
    result = {"task": {"type": task or "other"}, "dataset": dataset, "metrics": [metric]}
    return {**meta, "metrics": [measure], "model-index": [{"name": name, "results": [result]}]}


def yaml(value: Any, indent: int = 0) -> str:
    """`value`, made of dicts, lists and scalars, as YAML in block form; scalars as JSON."""
    pad, lines = "  " * indent, []
    items = value.items() if isinstance(value, dict) else [(None, v) for v in value]
    for key, inner in items:
        head = f"{pad}- " if key is None else f"{pad}{key}:"
        if isinstance(inner, (dict, list)) and inner:
            block = yaml(inner, indent + 1)
            # a list's entry begins on the line of its dash
            lines.append(f"{pad}- {block.lstrip()}" if key is None else f"{head}\n{block}")
        else:
            lines.append(f"{head}{'' if key is None else ' '}{_scalar(inner)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    """A scalar as JSON, which is YAML too if control signs and lone surrogates are escaped."""
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def escaped(text: str) -> str:
    """A name in a line of Markdown: its signs mean themselves, and it begins and ends nothing."""
    signs = "".join(f"\\{c}" if c in _SIGNS else c for c in " ".join(text.split()))
    return signs.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str, language: str = "") -> str:
    """A block of code, whose fence is longer than every row of back-ticks within."""
    longest = max((len(row) for row in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def _about(model: DiffusionModel | TokenModel, library: str) -> str:
    if isinstance(model, TokenModel):
        return _about_symbols(model)
    domain = model.domain
    codes = f"{domain.bins} codes a value, on [{domain.low:g}, {domain.high:g}]" if domain.bins else "real values"
    steps = "continuous time" if model.steps is None else f"{model.steps} steps"
    lines = [
        f"A diffusion model of examples of shape {domain.shape} ({codes}): {steps}, {model.parameters:,} parameters.\n",
        "```python",
    ]
    if library == "diffusers":
        lines += [
            "from diffusers import DDPMPipeline",
            "",
            "images = DDPMPipeline.from_pretrained(FOLDER)().images",
            "```",
        ]
    else:
        lines += ["import nelbo", "", "images = nelbo.sample(nelbo.load(FOLDER), n=16)", "```"]
    return "\n".join(lines) + "\n"


def _about_symbols(model: TokenModel) -> str:
    domain = model.domain
    steps = "continuous time" if model.steps is None else f"{model.steps} steps"
    code = "import nelbo\n\nmodel = nelbo.load(FOLDER)\nsequences = nelbo.sample(model, n=16)"
    return (
        f"A diffusion model of sequences of {domain.length} symbols of {domain.vocabulary:,}, noised by the kernel "
        f"{model.kernel.kind!r}: {steps}, {model.parameters:,} parameters.\n\n{fenced(code, 'python')}"
    )


def _likelihood(bound: Bound) -> str:
    measured = not math.isnan(bound.standard_error.total)
    errors = bound.standard_error.total if measured else bound.standard_error.estimator
    value, error = plus_minus(bound.bits_per_dim, errors)
    of = (
        f"of both together: {error_in_words(bound.standard_error.estimator)} of the estimator about the bound of these "
        f"examples, and {error_in_words(bound.standard_error.data)} of these examples as a sample"
        if measured
        else f"of the estimator alone; with so few or equal examples, that of their sampling is {NOT_MEASURABLE}"
    )
    of_tokens = units.is_of_tokens(bound.description)
    kind = (
        "a code length: per symbol and on average, −log2 of the model's probability of a sequence is at most this"
        if of_tokens
        else "a code length: per value and on average, −log2 of the model's probability of an example is at most this"
        if bound.description["domain"]["bins"]
        else "a negative log density in the units of the data, and no code length"
    )
    name = bound.estimator["name"]
    named = f" --estimator {name}" if name in ESTIMATORS else ""
    fields = bound.to_dict()
    own = ("kernel", "schedule", "reverse", "units") if of_tokens else ("variance", "clipping", "decoder")
    parts = ("grid", *own, "prior", "domain", "estimator")
    facts = {k: fields[k] for k in parts if k in fields}
    facts |= {k: fields[k] for k in ("precision", "seed", "examples", "nfe_total", "data", "model", "version")}
    return "\n".join(
        [
            "## Likelihood\n",
            f"**{value}{'' if error is None else f' ± {error}'} {_unit(bound)}** on {escaped(bound.data['name'])} "
            f"({bound.examples} examples): {kind}. The error is one standard error, {of}. "
            "This is a variational bound: the model's own −log p(x) is no larger.\n",
            fenced(str(bound), "text"),
            "Evaluate it again:\n",
            fenced(
                f"nelbo evaluate FOLDER --data {shlex.quote(bound.data['name'])} --seed {bound.seed} "
                f"--precision {bound.precision}{named}"
            ),
            "<details><summary>Everything that the number depends on</summary>\n",
            fenced(json.dumps(facts, indent=1, ensure_ascii=False), "json"),
            "</details>\n",
        ]
    )


def _parts(model: DiffusionModel | TokenModel) -> str:
    return "\n".join(
        [
            "## Parts\n",
            fenced(
                json.dumps(
                    {**model.describe(), "fingerprint": model.fingerprint(), "provenance": model.provenance},
                    indent=1,
                    ensure_ascii=False,
                ),
                "json",
            ),
            f"Written by nelbo {__version__}.\n",
        ]
    )


def _measure(bound: Bound) -> str:
    return "bits_per_token" if units.is_of_tokens(bound.description) else "bits_per_dim"


def _unit(bound: Bound) -> str:
    if units.is_of_tokens(bound.description):
        return f"bits/{units.symbol(bound.data)}"
    return "bits/dim" if bound.description["domain"]["bins"] else "bits/dim (density)"


def _finite(value: float) -> float | None:
    return round(value, 6) if value == value else None  # nan, of what is not measurable, is no JSON

"""The bound of sequences of symbols in the units that their readers use, each with its standard errors.

bits a token      nats of all sequences / (scored tokens · log 2)
perplexity        e^{nats a token}, its error by the delta method: perplexity times that of nats a token
bits a byte       bits of all sequences / UTF-8 bytes of the raw text, where these are known; never by a constant
"""

from __future__ import annotations

import math

from nelbo.maths.units import LOG_2
from nelbo.typing import Json


def is_of_tokens(description: Json) -> bool:
    """Whether a result's description is that of a model of symbols."""
    return "vocabulary" in description["domain"]


def of_tokens(bits_per_token: float, errors: Json, data: Json) -> Json:
    """Each unit as {value, standard_error: {estimator, data, total}}, from bits a token and their errors.

    data: `tokens`, all those scored, and `bytes`, those of their text; where that is unknown bits_per_byte is None.
    """

    def scaled(factor: float, value: float) -> Json:
        return {"value": value, "standard_error": {name: factor * error for name, error in errors.items()}}

    nats = bits_per_token * LOG_2
    perplexity = math.exp(nats) if nats < 700 else math.inf
    of_bytes = None
    if data.get("bytes"):
        share = data["tokens"] / data["bytes"]
        of_bytes = scaled(share, bits_per_token * share)
    return {
        "bits_per_token": scaled(1.0, bits_per_token),
        "nats_per_token": scaled(LOG_2, nats),
        "perplexity": scaled(perplexity * LOG_2, perplexity),
        "bits_per_byte": of_bytes,
    }


def facts(bits_per_token: float, errors: Json, data: Json, description: Json, examples: int) -> dict[str, str]:
    """What was scored and how, a line of text each."""
    domain, grid, reverse = description["domain"], description["grid"], description["reverse"]
    units = of_tokens(bits_per_token, errors, data)

    def shown(name: str, unit: str) -> list[str]:
        if units[name] is None:
            return []
        e = units[name]["standard_error"]
        error = e["estimator"] if math.isnan(e["total"]) else e["total"]
        return [f"{units[name]['value']:.5g} ± {error:.2g} {unit}"]

    steps = "continuous" if grid["steps"] is None else f"{grid['steps']} steps"
    rules = [reverse["rule"]] if description["kernel"]["kind"] != "absorbing" else []
    rules += [] if reverse["remove_mask"] else ["the mask's probability left in"]
    rules += [] if reverse["carry_over"] else ["without carry-over"]
    names = {"nats_per_token": "nats/token", "perplexity": "perplexity", "bits_per_byte": "bits/byte"}
    return {
        "units": ", ".join(text for name, unit in names.items() for text in shown(name, unit)),
        "data": f"{data['name']}, {examples} sequences, {data['tokens']} of {examples * domain['length']} places "
        f"scored, vocabulary {domain['vocabulary']}",
        "grid": f"{grid['kind']} over {grid['over']}, {steps}",
        "model": ", ".join(
            [f"kernel {description['kernel']['kind']}", *rules, f"prior {description['prior']['kind']}"]
        ),
    }

"""The bound of sequences of symbols in the units that their readers use, each with its standard errors.

bits a token      nats of all sequences / (scored tokens · log 2)
perplexity        e^{nats a token}, its error by the delta method: perplexity times that of nats a token
bits a byte       bits of all sequences / UTF-8 bytes of the raw text, where these are known; never by a constant
"""

from __future__ import annotations

import math

from nelbo.equation import equation
from nelbo.maths.units import LOG_2
from nelbo.typing import Json


def is_of_tokens(description: Json) -> bool:
    """Whether a result's description is that of a model of symbols."""
    return "vocabulary" in description["domain"]


SYMBOL = {"bytes": "byte", "chars": "char"}
"""What a symbol is called where the data say what it is; else a token."""


def symbol(data: Json) -> str:
    """What the symbols of the data are: "token", "char" or "byte"."""
    return SYMBOL.get(str(data.get("tokenizer")), "token")


def unit(description: Json, data: Json) -> str:
    """Of a bound in bits an element: bits a symbol where the description is that of a model of symbols."""
    return f"bits/{symbol(data)}" if is_of_tokens(description) else "bits/dim"


@equation("token-perplexity", "token-bits-per-byte")
def of_tokens(bits_per_token: float, errors: Json, data: Json) -> Json:
    """Each unit as {value, standard_error: {estimator, data, total}}, from bits a token and their errors.

    data: `tokens`, all those scored, and `bytes`, those of their text; where that is unknown bits_per_byte is None.
    `bits_per_byte_error`: the data's error of that, by the bytes of every sequence, which vary as its tokens do; where
    it is unknown, bytes a token are taken as fixed. The errors of the perplexity are by the delta method.
    """

    def scaled(factor: float, value: float) -> Json:
        return {"value": value, "standard_error": {name: factor * error for name, error in errors.items()}}

    nats = bits_per_token * LOG_2
    perplexity = math.exp(nats) if nats < 700 else math.inf
    of_bytes = None
    if data.get("bytes"):
        share = data["tokens"] / data["bytes"]
        of_bytes = scaled(share, bits_per_token * share)
        if "bits_per_byte_error" in data:
            error, of_data = of_bytes["standard_error"], data["bits_per_byte_error"]
            error |= {"data": of_data, "total": math.hypot(error["estimator"], of_data)}
    return {
        "bits_per_token": scaled(1.0, bits_per_token),
        "nats_per_token": scaled(LOG_2, nats),
        "perplexity": scaled(perplexity * LOG_2, perplexity),
        "bits_per_byte": of_bytes,
    }


def facts(units: Json, data: Json, description: Json, examples: int) -> dict[str, str]:
    """What was scored and how, a line of text each; units: as of `of_tokens`. Of the two errors of a unit the first is
    the estimator's."""
    domain, grid, reverse = description["domain"], description["grid"], description["reverse"]

    def shown(name: str, unit: str) -> list[str]:
        if units[name] is None or unit == f"bits/{symbol(data)}":
            return []
        e = units[name]["standard_error"]
        of_data = "" if math.isnan(e["data"]) else f" ± {e['data']:.2g}"
        return [f"{units[name]['value']:.5g} ± {e['estimator']:.2g}{of_data} {unit}"]

    steps = "continuous" if grid["steps"] is None else f"{grid['steps']} steps"
    rules = [reverse["rule"]] if description["kernel"]["kind"] != "absorbing" else []
    rules += [] if reverse["remove_mask"] else ["the mask's probability left in"]
    rules += [] if reverse["carry_over"] else ["without carry-over"]
    rules += [] if reverse.get("block") is None else [f"blocks of {reverse['block']}"]
    one = symbol(data)
    names = {
        "nats_per_token": f"nats/{one}",
        "perplexity": "perplexity" if one == "token" else f"perplexity a {one}",
        "bits_per_byte": "bits/byte",
    }
    law = {"law": data["law"]} if "law" in data else {}  # results of earlier versions do not say it
    return {
        "units": ", ".join(text for name, unit in names.items() for text in shown(name, unit)),
        **law,
        "data": f"{data['name']}, {examples} sequences, {data['tokens']} of {examples * domain['length']} places "
        f"scored, vocabulary {domain['vocabulary']}",
        "grid": f"{grid['kind']} over {grid['over']}, {steps}",
        "model": ", ".join(
            [f"kernel {description['kernel']['kind']}", *rules, f"prior {description['prior']['kind']}"]
        ),
    }

"""Messages of the library in the words of the command line: `max_nfe=900` becomes `--max-nfe 900`.

The library is used from Python, and its errors, hints and warnings name arguments as Python writes them, `name=value`.
The command that is running knows which of its options stands for which argument, and puts it in the argument's place.
Settings of a training run, such as `net.head=plain`, are given by `--set`. A call of a verb, such as
`nelbo.tighten(model, data)`, becomes a command. What stands inside the brackets of any other call is Python and stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_options: Mapping[str, tuple[str, ...]] = {}
"""Of the running command: its options, with the negative one of a switch, by the names of their arguments."""
_VERB = r"nelbo\.(?P<verb>tighten|train|evaluate|compare|sample)\((?P<given>[^()]*)\)"
_CALL = r"[\w.]+\((?:[^()]|\([^()]*\))*\)"
_ARGUMENT = re.compile(
    rf"{_VERB}|{_CALL}"
    r"|(?<![\w.])(?P<name>[a-zA-Z_]\w*(?:\.\w+)*)=(?!\{)(?P<value>'[^']*'|\"[^\"]*\"|[^\s,;:()]*[^\s,;:().]|)"
)


def of_command(options: Mapping[str, tuple[str, ...]]) -> None:
    """From now on a command with these `options` is running."""
    global _options
    _options = options


def translated(text: str) -> str:
    """`text` with the options of the running command in the place of arguments."""
    return _ARGUMENT.sub(_option, text)


def _option(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    if match["verb"] is not None and _options:
        return _command(match["verb"], match["given"])
    if name is None:
        return match[0]
    if name not in _options:
        if "settings" not in _options or not _is_setting(name):
            return match[0]
        return f"--set {name}={value.lower() if value in ('True', 'False') else value}"
    bare = value[1:-1] if value[:1] in ("'", '"') and " " not in value else value
    positive, *negative = _options[name]
    if bare == "False" and negative:
        return negative[0]
    return positive if bare in ("", "True") else f"{positive} {bare}"


def _command(verb: str, given: str) -> str:
    """`nelbo.tighten(model, data, steps=20)` as `nelbo tighten MODEL --data DATA --steps 20`."""
    words = ["nelbo", verb]
    for argument in given.split(","):
        name, equals, value = argument.strip().partition("=")
        option = f"--{name.replace('_', '-')}"
        known = {"model": "MODEL", "data": "--data DATA", "…": "…"}
        words.append(known.get(name, name) if not equals else option if value == "True" else f"{option} {value}")
    return " ".join(words)


def _is_setting(name: str) -> bool:
    from nelbo.training.config import TrainConfig

    return name.partition(".")[0] in TrainConfig.model_fields

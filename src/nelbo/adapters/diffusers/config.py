"""Configurations as folders of diffusers hold them: written by hand, by other tools, by old versions.

Numbers that are written as text ("1e-4") are read; a key that no class knows, in place of one that is missing, is
refused; and a default that stands in for a missing key is named.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from nelbo.errors import UsageError
from nelbo.nets.diffusers import library
from nelbo.typing import Json

BOOLEANS = {"true": True, "false": False}
FORMER = ("tensor_format", "timestep_values", "predict_epsilon")
"""Keys of schedulers of old versions that say nothing of the chain, or are read where they do."""
PREDICTION_SINCE = (0, 12)
"""The first version of diffusers whose schedulers all write prediction_type."""


def defaults(name: str) -> Json:
    """The defaults of the class `name` of diffusers, by key; `inspect.Parameter.empty` where there is none."""
    parameters = inspect.signature(getattr(library(f"the class {name}"), name).__init__).parameters
    return {key: p.default for key, p in parameters.items() if key not in ("self", "kwargs")}


def typed(config: Json, known: Json, name: str) -> Json:
    """`config` with the type that the default of each key has. Errors: UsageError for a text that is no such value.

    >>> typed({"beta_start": "1e-4", "clip_sample": "False"}, {"beta_start": 0.1, "clip_sample": True}, "a scheduler")
    {'beta_start': 0.0001, 'clip_sample': False}
    """
    return {key: _typed(key, value, known.get(key), name) for key, value in config.items()}


def _typed(key: str, value: Any, default: Any, name: str) -> Any:
    if isinstance(value, (list, tuple)) and any(isinstance(part, str) for part in value) and not _names(default):
        return [_number(key, part, 0.0, name) for part in value]
    if isinstance(default, bool):
        if isinstance(value, str) and value.lower() in BOOLEANS:
            return BOOLEANS[value.lower()]
        if value is not None and not isinstance(value, (bool, int)):
            raise UsageError(f"{key} = {value!r} in the configuration of {name}", "write true or false there")
        return value
    if isinstance(default, (int, float)) and isinstance(value, (str, float)):
        return _number(key, value, default, name)
    return value


def _names(default: Any) -> bool:
    """Whether the default is a list of names, such as those of blocks."""
    return isinstance(default, (list, tuple)) and any(isinstance(part, str) for part in default)


def _number(key: str, value: Any, default: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{key} = {value!r} in the configuration of {name} is no number", "write a number there, without quotes"
        ) from None
    return int(number) if isinstance(default, int) and number.is_integer() else number


def check_keys(
    config: Json, known: Json, where: str, everywhere: Collection[str] = (), needed: Collection[str] = ()
) -> None:
    """Errors: UsageError for a key that is known nowhere where one of nearly its name, or one of `needed`, is missing.

    known: the defaults of the class; everywhere: keys that other classes know.
    """
    absent = [key for key in known if key not in config]
    missing = [key for key in needed if key in absent]
    for key in config:
        if key.startswith("_") or key in known or key in everywhere or key in FORMER:
            continue
        meant = next(iter(get_close_matches(key, absent, 1, 0.8) + missing), None)
        if meant is not None:
            raise UsageError(
                f"{where} has {key!r}, which its class does not know, and no {meant!r}",
                f"write {meant!r} there as it was in training: the default, {known[meant]!r}, may be another model",
            )


def notes(config: Json, known: Json, everywhere: Collection[str], where: str) -> list[str]:
    """What is to be said of a scheduler's configuration file: the defaults that stand for keys that define the chain.

    known: the defaults of its class; everywhere: the keys of all schedulers. Errors: those of `check_keys`.
    """
    missing = [key for key in _defining(config) if key in known and key not in config]
    check_keys(config, known, where, everywhere, missing)
    return [f"{where} does not give {key}: the default of its class, {known[key]!r}, is taken" for key in missing]


def _defining(config: Json) -> list[str]:
    """The keys without which a chain is not determined by its configuration alone."""
    keys = ["num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "sigma_min", "sigma_max", "sigma_data"]
    if config.get("trained_betas") is not None:
        keys = ["num_train_timesteps"]
    elif config.get("beta_schedule") in ("squaredcos_cap_v2", "exp", "laplace"):
        keys = ["num_train_timesteps", "beta_schedule"]
    version = re.match(r"(\d+)\.(\d+)", str(config.get("_diffusers_version", "")))
    former = version is not None and (int(version[1]), int(version[2])) < PREDICTION_SINCE
    return keys if former or "predict_epsilon" in config else [*keys, "prediction_type"]

"""Settings of a training run from TOML or JSON, overridden by key=value, and checked: a `TrainConfig`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from nelbo.arguments import plain
from nelbo.errors import UsageError
from nelbo.fields import parse_json
from nelbo.training.config import TrainConfig
from nelbo.typing import Json

LARGEST = 1 << 20
"""Bytes of a config file."""


def read_config(file: str | Path | None = None, overrides: list[str] | None = None) -> Json:
    """Settings from a TOML or JSON file, then `key=value` strings (dotted keys reach inside) on top; not yet checked.

    Errors: UsageError for a file that cannot be read or parsed, and for an override without '='.
    """
    settings: Json = {}
    if file is not None:
        path = Path(file)
        try:
            with path.open("rb") as stream:
                text = stream.read(LARGEST + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the config file {path} cannot be read: {error}", "give a TOML or JSON file") from None
        if len(text) > LARGEST:
            raise UsageError(f"the config file {path} has more than {LARGEST} bytes", "give a TOML or JSON file")
        try:
            settings = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"the config file {path} cannot be parsed: {error}", "write TOML, or JSON as *.json"
            ) from None
        if not isinstance(settings, dict):
            raise UsageError(f"the config file {path} holds a {type(settings).__name__}", "write a table of settings")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"{override!r} is no key=value", "write it as lr=0.001 or net.width=512")
        _put(settings, key.strip().split("."), _value(text.strip()))
    return settings


def check_config(settings: Json | TrainConfig | None) -> TrainConfig:
    """The settings as a TrainConfig. Errors: UsageError naming the key, its value, and what it may be."""
    if isinstance(settings, TrainConfig):
        return settings
    try:
        return TrainConfig.model_validate(plain(settings or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            owner: Any = TrainConfig
            for part in first["loc"][:-1]:
                owner = owner.model_fields[str(part)].annotation
                owner = next((a for a in get_args(owner) if a is not type(None)), owner)
            known = ", ".join(owner.model_fields)
            raise UsageError(f"unknown configuration key {key!r}", f"choose one of: {known}") from None
        problem = f"configuration key {key} = {first['input']!r}: {first['msg'].lower()}"
        raise UsageError(problem, f"change it in the config file, or by {key}=…") from None


def schema() -> Json:
    """The JSON schema of a configuration file (draft 2020-12)."""
    keys = TrainConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **keys, "title": "nelbo train"}


def _put(settings: Json, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = settings.setdefault(part, {})
        if isinstance(inner, str):
            inner = settings[part] = {"name": inner}
        if not isinstance(inner, dict):
            raise UsageError(f"{'.'.join(path)}=…: {part} = {inner!r} has no keys inside it", f"set {part} itself")
        settings = inner
    if isinstance(settings.get(path[-1]), dict) and isinstance(value, str):
        value = {**settings[path[-1]], "name": value}
    settings[path[-1]] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "none" else text

"""What every table of settings shares: unknown keys are refused, values are frozen, a bare string is a name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def named(value: Any) -> Any:
    """`"bound"` stands for `{"name": "bound"}`."""
    return {"name": value} if isinstance(value, str) else value

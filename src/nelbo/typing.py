"""Types that every floor uses."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from nelbo.errors import UnknownNameError

Shape = tuple[int, ...]
Condition = Mapping[str, Tensor]
"""Explicit conditioning: keyword of the network -> one row an example, (N, ...)."""
Json = dict[str, Any]


class Choice(enum.Enum):
    """An enum whose members are named by strings at public edges: `class Solver(Choice, noun="ODE solver")`."""

    _noun: str

    def __init_subclass__(cls, noun: str):
        cls._noun = noun

    @classmethod
    def parse(cls, name: str | Self) -> Self:
        """The member called `name`. Errors: UnknownNameError listing the members."""
        if isinstance(name, cls):
            return name
        values = {m.value: m for m in cls}
        if name not in [*values]:  # which may be anything, also what cannot be hashed
            raise UnknownNameError.of(cls._noun, name, values)
        return values[name]

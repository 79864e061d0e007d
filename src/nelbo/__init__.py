"""nelbo: the likelihood instrument for diffusion models.

Names are loaded on first use, so that `import nelbo` costs nothing until something is asked of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nelbo._version import __version__

if TYPE_CHECKING:
    from nelbo.adapters.callable import from_callable
    from nelbo.api import compare, evaluate, load, sample, train
    from nelbo.bound.result import Bound
    from nelbo.errors import NelboError
    from nelbo.model import decoder as decoders
    from nelbo.model import exact
    from nelbo.model.diffusion import DiffusionModel
    from nelbo.model.domain import DataDomain
    from nelbo.model.examples import Examples
    from nelbo.process import grid as grids
    from nelbo.process import schedule as schedules

_NAMES = {
    "Bound": "nelbo.bound.result:Bound",
    "DataDomain": "nelbo.model.domain:DataDomain",
    "DiffusionModel": "nelbo.model.diffusion:DiffusionModel",
    "Examples": "nelbo.model.examples:Examples",
    "NelboError": "nelbo.errors:NelboError",
    "compare": "nelbo.api:compare",
    "decoders": "nelbo.model.decoder",
    "evaluate": "nelbo.api:evaluate",
    "exact": "nelbo.model.exact",
    "from_callable": "nelbo.adapters.callable:from_callable",
    "grids": "nelbo.process.grid",
    "load": "nelbo.api:load",
    "sample": "nelbo.api:sample",
    "schedules": "nelbo.process.schedule",
    "train": "nelbo.api:train",
}

__all__ = [
    "Bound",
    "DataDomain",
    "DiffusionModel",
    "Examples",
    "NelboError",
    "__version__",
    "compare",
    "decoders",
    "evaluate",
    "exact",
    "from_callable",
    "grids",
    "load",
    "sample",
    "schedules",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'nelbo' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    value = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Displays of a training run's numbers, such as tensorboard, by accelerate's trackers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nelbo.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from nelbo.typing import Json


class Tracker(Protocol):
    """A display of the numbers of a run while it goes on, such as tensorboard."""

    def log(self, values: Json, step: int) -> None:
        """The values of one step."""
        ...

    def finish(self) -> None:
        """Nothing more will come."""
        ...


def tracker(name: str, folder: Path, config: Json) -> Tracker:
    """accelerate's tracker called `name`, for a run with the name of the folder; its files are written below `folder`.

    Errors: UsageError where accelerate or the tracker's own package is missing, UnknownNameError listing the names.
    """
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError:
        raise UsageError(
            f"the tracker {name!r} comes with accelerate, which is not installed",
            "pip install 'nelbo[train]', or leave tracker out: log.jsonl is always written",
        ) from None
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UnknownNameError.of("tracker", name, LOGGER_TYPE_TO_CLASS)
    PartialState(cpu=True)
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    place = (str(folder / "tracker"),) if kind.requires_logging_directory else ()
    try:
        made = kind(folder.resolve().name, *place)
        getattr(made, "start", lambda: None)()  # older versions start when they are made
    except ImportError as error:
        raise UsageError(
            f"the tracker {name!r} needs a package that is not installed: {error}",
            "install it, or leave tracker out: log.jsonl is always written",
        ) from None
    made.store_init_configuration(_flat(config))
    return made


def _flat(config: Json, prefix: str = "") -> Json:
    """The settings as one table of names (net.width) and plain values, as trackers need them."""
    flat: Json = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat

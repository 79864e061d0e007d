"""Every grid under one name: `nelbo.grids`."""

from __future__ import annotations

from nelbo.process.grid import (
    Continuous,
    Even,
    Full,
    Grid,
    Subset,
    Times,
    continuous,
    even,
    full,
    subset,
    times,
)
from nelbo.process.spacing import (
    NAMED,
    Density,
    Karras,
    LogSNRUniform,
    Quadratic,
    Spaced,
    karras,
    logsnr_uniform,
    named,
    of_bound,
    quadratic,
)

__all__ = [
    "NAMED",
    "Continuous",
    "Density",
    "Even",
    "Full",
    "Grid",
    "Karras",
    "LogSNRUniform",
    "Quadratic",
    "Spaced",
    "Subset",
    "Times",
    "continuous",
    "even",
    "full",
    "karras",
    "logsnr_uniform",
    "named",
    "of_bound",
    "quadratic",
    "subset",
    "times",
]

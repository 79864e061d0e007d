"""What results draw on matplotlib axes: a density along the chain, a histogram of examples, values with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nelbo.errors import UsageError
from nelbo.typing import Json

STRATA = 240
"""Most strata that are drawn; longer chains are joined pairwise, errors in quadrature."""


def new(axes: Any) -> Any:
    """`axes`, or those of a new figure where None. Errors: UsageError without matplotlib."""
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UsageError("a plot needs matplotlib, which is not installed", "pip install matplotlib") from None
    return pyplot.subplots(layout="constrained")[1]


def joined(levels: Sequence[Json], most: int) -> np.ndarray:
    """(S, 4) rows of (λ_from, λ_to, bits/dim, standard error), rising in λ, S ≤ most; neighbours are joined evenly."""
    rows = np.array(
        [
            [v["logsnr_t"], v["logsnr_s"], v["bits_per_dim"], v.get("standard_error") or 0.0]
            for v in levels
            if v["logsnr_s"] > v["logsnr_t"]
        ],
        dtype=np.float64,
    ).reshape(-1, 4)
    rows = rows[rows[:, 0].argsort(kind="stable")]
    parts = np.array_split(rows, min(most, len(rows))) if len(rows) else []
    return np.array([[p[0, 0], p[-1, 1], p[:, 2].sum(), np.sqrt(np.square(p[:, 3]).sum())] for p in parts]).reshape(
        -1, 4
    )


def along_chain(axes: Any, strata: np.ndarray, colour: Any) -> None:
    """The bound per unit of log-SNR with a band of one standard error; strata: rows as `joined` makes them."""
    start, stop, bits, error = strata.T
    x = strata[:, :2].reshape(-1)
    y, e = (np.repeat(v / (stop - start), 2) for v in (bits, error))
    axes.fill_between(x, 0, y, color=colour, alpha=0.16, linewidth=0)
    axes.fill_between(x, y - e, y + e, color=colour, alpha=0.38, linewidth=0)
    axes.plot(x, y, color=colour, linewidth=1.5)
    axes.set_ylim(min(0.0, float((y - e).min())), 1.12 * max(float((y + e).max()), 1e-9))


def histogram(axes: Any, values: np.ndarray, label: str) -> None:
    """How a value of every example is spread, with a line at the mean."""
    values = values[np.isfinite(values)]
    axes.hist(values, bins="auto", color="C0", alpha=0.6)
    axes.axvline(float(values.mean()), color="C1", label=f"mean {values.mean():.4g}")
    axes.set_xlabel(label)
    axes.set_ylabel("examples")
    axes.legend(frameon=False)


def rows(axes: Any, names: Sequence[str], values: Sequence[float], errors: Sequence[float], label: str) -> None:
    """Values with a bar of one standard error (nan: none), one row each, the first on top."""
    places = np.arange(len(names))
    bars = np.nan_to_num(np.asarray(errors, dtype=np.float64))
    axes.errorbar(values, places, xerr=bars, fmt="o", capsize=3)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)

"""Figures as inline SVG: text stays text, colours are variables of the page, nothing refers outside.

Each figure is drawn twice, for a wide and for a narrow screen, because text in a shrunk drawing is not readable; the
style sheet shows one of the two. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nelbo.documents import plots
from nelbo.documents.numbers import is_number
from nelbo.typing import Json

WIDE, NARROW = 840, 344
"""Widths in the page's pixels."""

# Placeholders for the page's variables while matplotlib draws; each is replaced by var(--name).
COLOURS = {
    name: f"#0{i}0203"
    for i, name in enumerate(["ink", "faint", "rule", "prior", "diffusion", "reconstruction", "accent"])
}
Draw = Callable[[Any, bool], None]


def chain(bound: Json, unit: str = "bits/dim") -> str:
    """The bound along the chain in a unit per unit of log-SNR, and the running sum of the three terms.

    bound: a checked dictionary of schema nelbo.bound/1 with at least one level of positive width.
    """
    strata = plots.joined(bound["levels"], plots.STRATA)
    terms = {name: bound["terms"][name]["bits_per_dim"] for name in ("prior", "diffusion", "reconstruction")}
    return both("chain", lambda figure, narrow: _draw_chain(figure, narrow, strata, terms, unit), 400, 420)


def loss(records: Sequence[Json], final: float | None, unit: str = "bits/dim") -> str:
    """The training loss against the step, its running mean, validation where logged, and the bound."""
    return both("loss", lambda figure, narrow: _draw_loss(figure, narrow, records, final, unit), 270, 250)


def _draw_chain(figure: Any, narrow: bool, strata: np.ndarray, terms: dict[str, float], unit: str) -> None:
    ink, faint = COLOURS["ink"], COLOURS["faint"]
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.15))
    plots.along_chain(top, strata, COLOURS["diffusion"])
    top.set_title(f"{unit} per unit of log-SNR", loc="left")

    stop, bits = strata[:, 1], strata[:, 2]
    first, last = strata[0, 0], stop[-1]
    gutter = (last - first) * (0.15 if narrow else 0.085)
    total, prior, diffusion = sum(terms.values()), terms["prior"], terms["diffusion"]
    running = prior + np.concatenate([[0.0], bits.cumsum()])
    places = np.concatenate([[first], stop])
    bottom.fill_between(places, prior, running, color=COLOURS["diffusion"], alpha=0.16, linewidth=0)
    bottom.plot(places, running, color=COLOURS["diffusion"], linewidth=1.8)
    for left, base, height, name in (
        (first - gutter, 0.0, prior, "prior"),
        (last + 0.25 * gutter, prior + diffusion, terms["reconstruction"], "reconstruction"),
    ):
        bottom.bar(left, height, 0.75 * gutter, base, align="edge", color=COLOURS[name], edgecolor=COLOURS[name])
    for level, a, b in ((prior, first - gutter, first), (prior + diffusion, last, last + gutter)):
        bottom.plot([a, b], [level, level], color=faint, linewidth=0.8, linestyle=(0, (2, 2)))
    bottom.axhline(0, color=faint, linewidth=0.8)
    bottom.set_ylim(min(0.0, running.min(), total), 1.22 * max(running.max(), total, 1e-9))
    bottom.set_title(f"running sum, {unit}", loc="left")
    lift = 0.03 * bottom.get_ylim()[1]
    label: dict[str, Any] = {"fontsize": 11, "va": "bottom"}
    bottom.text(first - gutter, max(prior, 0) + lift, f"prior {prior:.3f}", color=COLOURS["prior"], **label)
    half = prior + 0.6 * diffusion
    at = np.interp(half, np.maximum.accumulate(running), places) - 0.02 * (last - first)
    words = f"diffusion {diffusion:.3f}"
    bottom.text(at, half + lift, words, color=COLOURS["diffusion"], ha="right", **label)
    name = "recon." if narrow else "reconstruction"
    bottom.text(
        last + gutter, max(total, prior + diffusion) + lift, f"{name} {terms['reconstruction']:.3f}",
        color=COLOURS["reconstruction"], ha="right", **label,
    )  # fmt: skip
    inside = [v for v in bottom.get_xticks() if first - 1e-9 <= v <= last + 1e-9]
    bottom.set_xticks(inside)
    bottom.set_xlim(first - 1.15 * gutter, last + 1.15 * gutter)
    ends = "log-SNR" if narrow else "log-SNR λ"
    bottom.set_xlabel(f"noise  ←    {ends}    →  data", color=ink)
    share = bottom.secondary_yaxis(
        "right", functions=(lambda v: 100 * v / (total or 1.0), lambda v: v * (total or 1.0) / 100)
    )
    share.set_ticks([0, 25, 50, 75, 100], [f"{p} %" for p in (0, 25, 50, 75, 100)])
    share.tick_params(length=0, colors=faint)
    share.spines["right"].set_visible(False)
    figure.get_layout_engine().set(hspace=0.06)


def _draw_loss(figure: Any, narrow: bool, records: Sequence[Json], final: float | None, unit: str) -> None:
    axes = figure.subplots()
    step, values = series(records, "loss")
    accent, faint = COLOURS["diffusion"], COLOURS["faint"]
    mean = running_mean(values, max(1, len(values) // 50))
    axes.plot(*_thin(step, values), color=accent, alpha=0.35, linewidth=0.9, label="one batch")
    axes.plot(*_thin(step, mean), color=accent, linewidth=1.9, label="running mean")
    shown = [values]
    for key in validation_keys(records):
        steps, losses = series(records, key)
        axes.plot(
            steps, losses, color=COLOURS["reconstruction"], linewidth=1.6, marker="o", markersize=3,
            label=key.replace("_", " "),
        )  # fmt: skip
        shown.append(losses)
    if final is not None:
        axes.axhline(final, color=COLOURS["ink"], linewidth=1.1, linestyle=(0, (4, 3)), label=f"the bound, {final:.3f}")
        shown.append(np.array([final]))
    everything = np.concatenate(shown)
    high = min(float(everything.max()), 1.15 * float(np.quantile(everything, 0.98)))
    low = float(everything.min())
    pad = 0.08 * (high - low or 1.0)
    axes.set_ylim(low - pad, high + pad)
    axes.set_title(f"loss, {unit}", loc="left")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}".replace(",", "\u202f"))
    axes.legend(frameon=False, labelcolor=faint, ncols=1, loc="upper right", fontsize=11)


def series(records: Sequence[Json], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records in which `key` is a finite number, in the order of the steps."""
    pairs = sorted((r["step"], r[key]) for r in records if is_number(r.get(key)))
    return tuple(np.array(pairs, dtype=np.float64).reshape(-1, 2).T)  # type: ignore[return-value]


def validation_keys(records: Sequence[Json]) -> list[str]:
    """Keys of the log that are losses on held-out data, under the usual names, at most two."""
    keys = dict.fromkeys(k for r in records for k, v in r.items() if is_number(v))
    return [
        k
        for k in keys
        if re.fullmatch(r"(val|valid|validation|held_out|test)([_ /.-][\w /.-]*)?", k) and "second" not in k
    ][:2]


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a value and `window` values on either side, fewer at the ends; the same length as `values`."""
    sums = np.concatenate([[0.0], values.cumsum()])
    here = np.arange(len(values))
    start, stop = np.maximum(0, here - window), np.minimum(len(values), here + window + 1)
    return (sums[stop] - sums[start]) / (stop - start)


def _thin(x: np.ndarray, y: np.ndarray, most: int = 700) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int)) if len(x) > most else slice(None)
    return x[keep], y[keep]


def both(name: str, draw: Draw, wide: int, narrow: int) -> str:
    """The figure for both widths, as two svg elements of the classes `wide` and `narrow`; heights in pixels."""
    return _svg(f"{name}-w", "wide", draw, WIDE, wide) + _svg(f"{name}-n", "narrow", draw, NARROW, narrow)


def _svg(prefix: str, kind: str, draw: Draw, width: int, height: int) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink, faint, rule = (COLOURS[k] for k in ("ink", "faint", "rule"))
    settings: Any = {
        "font.family": ["DejaVu Sans"], "svg.fonttype": "none", "svg.hashsalt": prefix, "text.usetex": False,
        "font.size": 11.5, "axes.titlesize": 12,
        "axes.titlecolor": ink, "axes.labelcolor": ink, "text.color": ink, "axes.edgecolor": faint,
        "xtick.color": faint, "ytick.color": faint, "xtick.labelsize": 11, "ytick.labelsize": 11,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "ytick.major.size": 0,
        "axes.grid": True, "axes.grid.axis": "y", "grid.color": rule, "grid.linewidth": 0.8, "axes.axisbelow": True,
        "path.simplify": True, "axes.facecolor": "none", "axes.unicode_minus": True, "mathtext.default": "regular",
    }  # fmt: skip
    stream = io.StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        draw(figure, kind == "narrow")
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    return _inlined(stream.getvalue(), prefix, kind)


def _inlined(svg: str, prefix: str, kind: str) -> str:
    """The svg element alone, with the colours and fonts of the page and ids of its own."""
    box = re.search(r'viewBox="([-0-9. ]+)"', svg)
    body = svg[svg.index("</defs>") + len("</defs>") : svg.rindex("</svg>")]  # after the style sheet, which would leak
    used = set(re.findall(r"[\"(]#(\w+)[\")]", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'xlink:href="#(\w+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#(\w+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg class="{kind}" viewBox="{box[1] if box else ""}" aria-hidden="true">{body}</svg>'

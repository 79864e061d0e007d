"""The section of a tightened model: the gain of each part, its levels, and bits/dim against steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from nelbo.documents import tables
from nelbo.documents.numbers import is_number, number
from nelbo.report import figures
from nelbo.typing import Json


def view(certificate: Json | None) -> Json | None:
    """What the template shows of a certificate (schema nelbo.tightening/1); None where there is none."""
    if certificate is None:
        return None
    data, gain = certificate["data"], certificate["gain"]
    shown = {
        "before": number(certificate["bits_per_dim"]["before"], 3),
        "after": number(certificate["bits_per_dim"]["after"], 3),
        "gain": number(gain["bits_per_dim"], 3),
        "error": tables.error(gain["standard_error"]["total"]),
        "steps": certificate["steps"],
        "rows": tables.stages(certificate),
        "fitted": data["fit"]["examples"],
        "held_out": data["held_out"]["examples"],
        "nfe": number(certificate["nfe"]["fit_per_example"], 1),
        "warnings": [str(w) for w in certificate.get("warnings") or []],
        "unit": certificate.get("unit", "bits/dim"),
    }
    return {**shown, **(_of_symbols(certificate) if "calibration" in certificate else _of_images(certificate))}


def _of_images(certificate: Json) -> Json:
    covariance = certificate["covariance"]
    return {
        "decoder": certificate["decoder"]["kind"],
        "first": number(certificate["chain"]["logsnr"][0], 2),
        "covariance": covariance["family"] + (f" ({covariance['note']})" if covariance.get("note") else ""),
        "svg": drawing(certificate),
    }


def _of_symbols(certificate: Json) -> Json:
    """What was tried, and the size of the table of n-grams."""
    calibration = certificate["calibration"]
    tried = [
        f"{t['name']} {number(t['gain'], 4)} ± {number(t['standard_error'], 4)}{'' if t['kept'] else ' (not kept)'}"
        for t in calibration["tried"]
    ]
    table = calibration["ngrams"]
    return {
        "svg": None,
        "tried": "; ".join(tried),
        "choosing": certificate["data"]["choice"]["examples"],
        "ngrams": None if table is None else f"{int(table['bytes']):,} bytes, counted in {int(table['sequences'])}",
    }


def drawing(certificate: Json) -> str:
    """Two panels: E(x − x̂)² along the chain with a mark at every chosen level; predicted bits/dim against steps."""
    return figures.both("tightened", lambda figure, narrow: _draw(figure, certificate), 400, 420)


def _draw(figure: Any, certificate: Json) -> None:
    ink, own = figures.COLOURS["accent"], figures.COLOURS["diffusion"]
    top, bottom = figure.subplots(2, 1, height_ratios=(1.0, 1.0))
    logsnr = np.array([row["logsnr"] for row in certificate["error"]])
    square = np.array([row["mean_square"] for row in certificate["error"]])
    chosen = np.array(certificate["chain"]["logsnr"])
    order = logsnr.argsort()
    top.plot(logsnr[order], np.log10(np.maximum(square[order], 1e-12)), color=own, linewidth=1.5)
    at = np.interp(chosen, logsnr[order], np.log10(np.maximum(square[order], 1e-12)))
    top.plot(chosen, at, linestyle="none", marker="|", markersize=11, color=ink)
    top.set_title(f"log₁₀ of E(x − x̂)² along the chain, and the {len(chosen)} levels chosen", loc="left")
    top.set_xlabel("noise  ←    log-SNR    →  data")
    curve = [(row["steps"], row["bits_per_dim"]) for row in certificate["curve"] if is_number(row["bits_per_dim"])]
    steps, bits = np.array(curve, dtype=np.float64).reshape(-1, 2).T
    bottom.plot(np.log10(steps), bits, color=own, linewidth=1.5)
    bottom.plot([np.log10(certificate["steps"])], [certificate["bits_per_dim"]["after"]], marker="o", color=ink)
    low = min(float(bits.min()), certificate["bits_per_dim"]["after"])
    bottom.set_ylim(low - 0.1, min(float(bits.max()), low + 3) + 0.1)
    ticks = [k for k in (1, 2, 5, 10, 25, 50, 100, 250, 1000) if k <= steps.max()]
    bottom.set_xticks(np.log10(ticks), [str(k) for k in ticks])
    bottom.set_title("bits/dim that the fit predicts, against steps; the dot is held out", loc="left")
    bottom.set_xlabel("network evaluations of one pass")

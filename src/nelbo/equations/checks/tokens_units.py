"""Group K: bits a token, perplexity and bits a byte, with their errors. Oracles: plain sums, repeated samples."""

from __future__ import annotations

import numpy as np
import torch

from nelbo.bound import units
from nelbo.bound.estimate import Spread
from nelbo.data.symbols import widths
from nelbo.equations.check import Checks, check

GOLF = "parameter-golf, 2026-03-29_LLaDA_MDLM_Diffusion/train_mdlm.py"
LENGTHS = np.array([4, 30, 9, 17, 2, 25, 11, 6])
NATS = np.array([5.1, 61.0, 15.2, 30.9, 1.1, 55.3, 20.4, 13.0])
BYTES = np.array([12, 97, 41, 60, 9, 80, 44, 20])
ERRORS = {"estimator": 0.01, "data": 0.04, "total": 0.0412}


def _units(bits: float) -> dict:
    return units.of_tokens(bits, ERRORS, {"tokens": int(LENGTHS.sum()), "bytes": int(BYTES.sum())})


@check("token-perplexity")
def _(c: Checks) -> None:
    bits = NATS.sum() / LENGTHS.sum() / np.log(2)
    found = _units(bits)["perplexity"]
    exact = np.exp(NATS.sum() / LENGTHS.sum())
    c.holds("nelbo's perplexity = e^{Σ nats/Σ tokens}", found["value"] - exact, 1e-12)
    step = 1e-5
    slope = (_units(bits + step)["perplexity"]["value"] - _units(bits - step)["perplexity"]["value"]) / (2 * step)
    c.holds("nelbo's error = |slope| times that of bits a token", found["standard_error"]["data"] - 0.04 * slope, 1e-8)
    c.must_fail("the mean of the sequences' perplexities", np.exp(NATS / LENGTHS).mean() - exact, 0.1)
    c.must_fail("2 to the nats", 2 ** (NATS.sum() / LENGTHS.sum()) - exact, 1.0)


@check("token-bits-per-byte")
def _(c: Checks) -> None:
    bits = NATS.sum() / LENGTHS.sum() / np.log(2)
    exact = NATS.sum() / BYTES.sum() / np.log(2)
    c.holds(
        "nelbo's bits a byte = bits of all sequences/bytes of all",
        _units(bits)["bits_per_byte"]["value"] - exact,
        1e-14,
    )
    texts = ["plain", "é", "€uro", "😀", "日本語"]
    points = [np.array([ord(s) for s in text], np.uint32) for text in texts]
    found = np.array([widths(p).sum() for p in points])
    c.holds("nelbo's bytes of a character = those of its UTF-8", found - np.array([len(t.encode()) for t in texts]), 0)
    c.must_fail(
        f"{GOLF}: 4.3 bytes a token",
        bits / 4.3 - exact,
        0.05,
    )
    c.must_fail("characters for bytes", found - np.array([len(t) for t in texts]), 2)
    c.must_fail("the mean of the sequences' ratios", (NATS / BYTES).mean() / np.log(2) - exact, 0.02)


@check("token-ratio-error")
def _(c: Checks) -> None:
    random, n, sets = np.random.default_rng(1), 40, 4000
    sizes = random.integers(2, 60, (sets, n)).astype(float)
    nats = 1.3 * sizes + random.normal(size=(sets, n)) * np.sqrt(sizes)
    ratios = nats.sum(1) / sizes.sum(1)
    variance = [
        Spread(torch.from_numpy(y), 0.0).of_ratio(float(y.mean()), torch.from_numpy(s)) / s.mean() ** 2
        for y, s in zip(nats[:400], sizes[:400], strict=True)
    ]
    spread = ratios.std()
    error = np.std(variance) / 20 / (2 * spread)  # of the root of their mean, and of `spread`, by the normal law
    both = float(np.hypot(error, spread / np.sqrt(2 * sets)))
    c.z("nelbo's error of Σ nats/Σ tokens = its spread over 4,000 data sets", np.sqrt(np.mean(variance)), spread, both)
    of_a_mean = float(np.sqrt((nats.var(1, ddof=1) / n).mean()) / sizes.mean())
    c.z_must_fail("the error of a mean, by the mean length", of_a_mean, spread, both)

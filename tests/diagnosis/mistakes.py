"""Mistakes of declaration and data, one at a time, and how each is noticed; with the right bits/dim and the printed.

The networks are exact, on the four schedules of cases.py. Both numbers are those of `nelbo.evaluate` on CODES with
standard errors below 1 %, of the right declaration and of the mistaken one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import nelbo
from nelbo.process import forward
from tests.diagnosis.cases import CODES, SCHEDULES, SHAPE, VALUES, model

T = 100
COARSE = nelbo.DataDomain(SHAPE, 17)
COARSE_CODES = COARSE.codes(VALUES)
BAR = SCHEDULES["table"].at_index(torch.arange(T)).alpha.square()


@dataclass(frozen=True)
class Mistake:
    """right, printed: bits/dim. where, change: of `cases.model`. data: as they are given. row: what the first row of a
    diagnosis is (a pattern), and line: what is to be written. check: the check of a diagnosis that fails. warning: what
    `evaluate` warns of (a pattern). max_nfe: of the diagnosis."""

    right: float
    printed: float
    where: str
    change: dict[str, Any] = field(default_factory=dict)
    data: Tensor = CODES
    row: str | None = None
    line: str = ""
    check: str | None = None
    warning: str | None = None
    max_nfe: int = 900

    def model(self) -> nelbo.DiffusionModel:
        """As it is declared."""
        return model(self.where, **self.change)


def domain(**otherwise) -> nelbo.DataDomain:
    """The domain with other fields."""
    return nelbo.DataDomain(**{"shape": SHAPE, "bins": 256, **otherwise})


def around(f: Callable) -> dict[str, Any]:
    """A network that is evaluated through f(net, z, t)."""
    return {"wrap": lambda net: lambda z, t: f(net, z, t)}


def betas(values: Tensor) -> dict[str, Any]:
    """Another table."""
    return {"schedule": nelbo.schedules.from_betas(values)}


def variances() -> Tensor:
    """β̃ of the table."""
    levels = SCHEDULES["table"].at_index(torch.arange(T))
    variance = forward.posterior(levels[:-1], levels[1:]).variance
    return torch.cat([variance[:1], variance])


def untrained(net, z, i):
    """Nothing was learned at index 0."""
    return torch.where((i > 0)[:, None, None, None], net(z, i), 4.0 * torch.ones_like(z))


SCALED = torch.linspace(1e-3**0.5, 0.2**0.5, T, dtype=torch.float64).square()
SIGMOID = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * 0.199 + 0.001
LINEAR = r"schedule linear, β (0\.001 to 0\.2|scaled to T = 100)"
WRITE_LINEAR = "schedule=nelbo.schedules.linear(100, 0.001, 0.2)"
LAST = CODES.permute(0, 2, 3, 1).reshape(CODES.shape)
FIRST = CODES.reshape(-1, 2, 2, 3).permute(0, 3, 1, 2).contiguous()
TRANSPOSED = CODES.transpose(-1, -2).contiguous()
REAL = domain(bins=None)

RANKED = {
    # ------------------------------------------------------------ what the network predicts
    "v declared for ε": Mistake(7.66, 7.97, "table", {"predicts": "v"}, row="predicts eps", line='predicts="eps"'),
    "x̂ declared for ε": Mistake(7.66, 444, "table", {"predicts": "x0"}, row="predicts eps", line='predicts="eps"'),
    "score declared for ε": Mistake(7.66, 46.51, "table", {"predicts": "score"}, row="predicts eps"),
    "ε with the other sign": Mistake(7.66, 55.07, "table", around(lambda n, z, i: -n(z, i)), row="predicts −eps"),
    "ε declared for v": Mistake(6.36, 10.31, "law", {"predicts": "eps"}, row="predicts v", line='predicts="v"'),
    "x̂ declared for v": Mistake(6.36, 232, "law", {"predicts": "x0"}, row="predicts v"),
    "v with the other sign": Mistake(
        6.36, 14.7, "law", around(lambda n, z, t: -n(z, t)), row="predicts −v", line="-net(z, t)"
    ),
    "v declared for a velocity": Mistake(
        6.39, 8.03, "flow", {"predicts": "v"}, row="predicts velocity", line='predicts="velocity"'
    ),
    "ε declared for a velocity": Mistake(6.39, 8.52, "flow", {"predicts": "eps"}, row="predicts velocity"),
    "a velocity from noise to data": Mistake(
        6.39, 15.38, "flow", around(lambda n, z, t: -n(z, t)), row="predicts −velo"
    ),
    "data at t = 1": Mistake(
        6.39, 11.35, "flow", around(lambda n, z, t: -n(z, 1 - t)), row="data at t = 1", line="-net(z, 1 - t)"
    ),
    "D declared for F": Mistake(
        6.35, 186, "edm", {"predicts": "edm_D", "sigma_data": None}, row="predicts edm_F, σ_data 0.5"
    ),
    "ε declared for F": Mistake(6.35, 28.55, "edm", {"predicts": "eps", "sigma_data": None}, row="predicts edm_F"),
    "F with σ_data 1 for ½": Mistake(
        6.35, 9.22, "edm", {"sigma_data": 1.0}, row="predicts edm_F, σ_data 0.5", line="sigma_data=0.5"
    ),
    # ------------------------------------------------------------ the time
    "the index for index/T": Mistake(
        7.66, 10.24, "table", around(lambda n, z, t: n(z, T * t)), row="time index/T", line="net(z, t - 1 / T)"
    ),
    "the index for 1000 (i + 1)/T": Mistake(
        7.66, 41.24, "table", around(lambda n, z, t: n(z, t / 10 - 1)), row="time 1000 × unit"
    ),
    "indices from noise to data": Mistake(
        7.66,
        18.89,
        "table",
        around(lambda n, z, i: n(z, T - 1 - i)),
        row="time T − 1 − index",
        line="net(z, T - 1 - t)",
    ),
    "unit time for the index": Mistake(7.66, 18.91, "table", {"time": "unit"}, row="time index", line='time="index"'),
    "σ for the index": Mistake(7.66, 20.83, "table", {"time": "sigma"}, row="time index"),
    "unit time for the log-SNR": Mistake(6.36, 7.35, "law", {"time": "unit"}, row="time log-SNR", line='time="logsnr"'),
    "σ for the log-SNR": Mistake(6.36, 7.45, "law", {"time": "sigma"}, row="time log-SNR"),
    "c_noise for the log-SNR": Mistake(6.36, 7.46, "law", {"time": "c_noise"}, row="time log-SNR"),
    "the log-SNR for half of it": Mistake(
        6.36, 7.06, "law", around(lambda n, z, t: n(z, 2 * t)), row="time half the log-SNR", line="net(z, t / 2)"
    ),
    "the log-SNR for log σ/α": Mistake(6.36, 9.31, "law", around(lambda n, z, t: n(z, -2 * t)), row="time log σ/α"),
    "t for 1 − t": Mistake(6.39, 8.75, "flow", around(lambda n, z, t: n(z, 1 - t)), row="time 1 − unit"),
    "t for 1000 t": Mistake(
        6.39, 9.42, "flow", around(lambda n, z, t: n(z, t / 1000)), row="time 1000 × unit", line="net(z, 1000 * t)"
    ),
    "t for its shift by 3": Mistake(
        6.39, 6.83, "flow", around(lambda n, z, t: n(z, t / (3 - 2 * t))), row=r"time 3 t/\(1 \+ 2 t\)", max_nfe=2000
    ),
    "the log-SNR for t": Mistake(6.39, math.nan, "flow", {"time": "logsnr"}, row="time (unit|σ)"),
    "σ for c_noise": Mistake(6.35, 8.2, "edm", {"time": "sigma"}, row=r"time ln\(σ\)/4", line='time="c_noise"'),
    "the log-SNR for c_noise": Mistake(6.35, 8.62, "edm", {"time": "logsnr"}, row=r"time ln\(σ\)/4"),
    # ------------------------------------------------------------ the schedule
    "scaled linear for linear": Mistake(7.66, 7.31, "table", betas(SCALED), row=LINEAR, line=WRITE_LINEAR),
    "sigmoid for linear": Mistake(7.66, 7.39, "table", betas(SIGMOID), row="schedule linear"),
    "√ᾱ for ᾱ": Mistake(
        7.66, 7.97, "table", {"schedule": nelbo.schedules.from_alphas_cumprod(BAR.sqrt())}, row=rf"{LINEAR}|of ᾱ"
    ),
    "β of 1000 steps in 100": Mistake(
        7.66, 9.33, "table", {"schedule": nelbo.schedules.linear(T)}, row=LINEAR, check="terminal level"
    ),
    "the path VP for a flow": Mistake(
        6.39, 6.95, "flow", {"schedule": SCHEDULES["flow"].on("vp")}, row="path flow", line='schedule.on("flow")'
    ),
    # ------------------------------------------------------------ the data
    "range 0..1 for −1..1": Mistake(
        6.36, 15.44, "law", {"domain": domain(low=0.0, high=1.0)}, row="range −1 … 1", line="low=-1, high=1"
    ),
    "range 0..255 for −1..1": Mistake(
        7.66, 757000, "table", {"domain": domain(low=0.0, high=255.0)}, row="range −1 … 1"
    ),
    "BGR for RGB": Mistake(6.36, 18.34, "law", data=CODES.flip(1), row="channels reversed", line="[2, 1, 0]"),
    "(H, W, C) reshaped": Mistake(
        6.36, 13.81, "law", data=LAST, row="read as channels last", line="permute(0, 3, 1, 2)"
    ),
    "(C, H, W) read as (H, W, C)": Mistake(6.36, 13.25, "law", data=FIRST, row="read as channels first"),
    "rows as columns": Mistake(6.36, 9.8, "law", data=TRANSPOSED, row="rows as columns", line="transpose(-1, -2)"),
    "negatives": Mistake(6.39, 16.94, "flow", data=255 - CODES, row="values inverted", line="bins - 1 - data"),
    "real values in 0..1": Mistake(
        -0.55, 7.56, "law", {"domain": REAL}, (VALUES + 1) / 2, row="data as 2 x − 1", line="torch.full(shape, 0.5)"
    ),
    "values k/8 − 1 declared real": Mistake(
        2.64,
        -0.5,
        "law",
        {"domain": REAL},
        COARSE.values(COARSE_CODES),
        check="bins",
        warning="declared real, but .*bins=17, low=-1, high=1",
    ),
    "codes 0..16 with 256 bins": Mistake(
        2.64, 32.71, "law", {}, COARSE_CODES, row="bins 17", line="bins=17", warning="worse than none"
    ),
    "codes 0..16 with 20 bins": Mistake(
        2.64,
        3.59,
        "law",
        {"domain": domain(bins=20)},
        COARSE_CODES,
        row="bins 17",
        line="bins=17",
        max_nfe=1500,
    ),
    "codes times 15": Mistake(
        2.64, 6.57, "law", {}, 15 * COARSE_CODES, row="bins 17, codes divided", check="bins", warning="multiples of 15"
    ),
    # ------------------------------------------------------------ the steps
    "standard deviations for variances": Mistake(
        7.66, 49.57, "table", {"variance": variances().sqrt()}, row="variance squared", line="as_tensor(table) ** 2"
    ),
    "squares of variances": Mistake(
        7.66, 6310, "table", {"variance": variances().square()}, row="variance square root"
    ),
    "variances from noise to data": Mistake(
        7.66, 608, "table", {"variance": variances().flip(0)}, row="variance reversed", line="as_tensor(table).flip(0)"
    ),
    "an untrained first level": Mistake(
        7.66,
        23.2,
        "table",
        around(untrained),
        row="first level 1",
        line="first_level=1",
        check="first level",
        warning="worse than none at the first level",
    ),
    "an output clamped to ±1": Mistake(
        7.66,
        9.27,
        "table",
        around(lambda n, z, i: n(z, i).clamp(-1, 1)),
        check="output",
        warning=r"cut off at \[-1, 1\]",
    ),
}
"""Mistakes that give a number, and how a diagnosis and an evaluation notice them."""

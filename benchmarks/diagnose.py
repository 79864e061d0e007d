"""How often `nelbo.diagnose` finds a mistake: 100 declarations with one mistake each, over seven networks.

    python benchmarks/diagnose.py                # all: about ten minutes on one core
    python benchmarks/diagnose.py --only flow    # the cases of one network, or whose name holds the word
    python benchmarks/diagnose.py --json FILE    # the rows as JSON, too

A case declares one thing of a network wrongly. It is found if the first row is the right declaration, or a check names
the mistake. The cost of a mistake is the bound as declared less that of the right declaration, at common noise
where the right one is a row; else less that of the network without a mistake.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # started as a script it finds its networks

import torch
from benchmarks.diagnosed_networks import SCHEDULES, T, of_unet, right, unet
from torch import Tensor

import nelbo
from nelbo.process import forward

COSTLY = 0.02
"""Bits/dim from which a mistake is to be found; one that costs less is not to be told apart."""


@dataclass(frozen=True)
class Case:
    """A declaration of a network. make: model, data and condition. found: names of the right declaration, or of the
    check that names the mistake; empty where nothing is wrong."""

    network: str
    mistake: str
    make: Callable[[], tuple[Any, Tensor, dict[str, Tensor] | None]]
    found: tuple[str, ...]


def _model(
    network: str, mistake: str, *found: str, fn: Callable | None = None, data: Callable | None = None, **otherwise: Any
) -> Case:
    """A case of other arguments, another function of the right network, or other data."""

    def make() -> tuple[Any, Tensor, dict[str, Tensor] | None]:
        true = right(network)
        function = None if fn is None else functools.partial(fn, true.fn)
        given = true.data if data is None else data(true.data)
        return true.model(function, **otherwise), given, true.condition

    return Case(network, mistake, make, found)


def _first(net, z, i):
    return torch.where((i > 0)[:, None, None, None], net(z, i), 4.0 * torch.ones_like(z))


def _domain(**otherwise: Any) -> nelbo.DataDomain:
    return nelbo.DataDomain(**{"shape": (1, 8, 8), "bins": 17, **otherwise})


def _logsnr_of_sigma(s):
    return torch.log((1 - s**2) / s**2)


def _shuffled(rows: Tensor) -> Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def _beta_tilde() -> Tensor:
    levels = SCHEDULES["ddpm"].at_index(torch.arange(T))
    variance = forward.posterior(levels[:-1], levels[1:]).variance
    return torch.cat([variance[:1], variance])


BAR = SCHEDULES["ddpm"].at_index(torch.arange(T)).alpha.square()
SQRT_BETAS = torch.linspace(1e-3**0.5, 0.2**0.5, T, dtype=torch.float64).square()
SIGMOID_BETAS = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * 0.199 + 0.001
LINEAR = ("schedule linear",)


def _ddpm() -> list[Case]:
    case = functools.partial(_model, "ddpm")
    return [
        case("nothing"),
        case("v for eps", "predicts eps", predicts="v"),
        case("x0 for eps", "predicts eps", predicts="x0"),
        case("score for eps", "predicts eps", predicts="score"),
        case("the sign", "predicts −eps", fn=lambda net, z, i: -net(z, i)),
        case("steps from 1", "time index + 1", fn=lambda net, z, i: net(z, i - 1)),
        case("steps from −1", "time index − 1", fn=lambda net, z, i: net(z, i + 1)),
        case("unit for index", "time index", time="unit"),
        case("log-SNR for index", "time index", time="logsnr"),
        case("σ for index", "time index", time="sigma"),
        case("c_noise for index", "time index", time="c_noise"),
        case("index for index/T", "time index/T", fn=lambda net, z, t: net(z, T * t)),
        case("index for 1000 (i + 1)/T", "time 1000", fn=lambda net, z, t: net(z, t / 10 - 1)),
        case("time reversed", "time T − 1 − index", fn=lambda net, z, i: net(z, T - 1 - i)),
        case("scaled linear for linear", *LINEAR, schedule=nelbo.schedules.from_betas(SQRT_BETAS)),
        case("sigmoid for linear", *LINEAR, schedule=nelbo.schedules.from_betas(SIGMOID_BETAS)),
        case("cosine for linear", *LINEAR, schedule=nelbo.schedules.cosine(T)),
        case("linear, not scaled to T", *LINEAR, schedule=nelbo.schedules.linear(T)),
        case("√ᾱ for ᾱ", *LINEAR, "of ᾱ", schedule=nelbo.schedules.from_alphas_cumprod(BAR.sqrt())),
        case("ᾱ² for ᾱ", *LINEAR, "of √ᾱ", schedule=nelbo.schedules.from_alphas_cumprod(BAR.square())),
        case("range 0..1", "range −1 … 1", domain=_domain(low=0.0, high=1.0)),
        case("range −½..½", "range −1 … 1", domain=_domain(low=-0.5, high=0.5)),
        case("range 0..16", "range −1 … 1", domain=_domain(low=0.0, high=16.0)),
        case("range −2..2", "range −1 … 1", domain=_domain(low=-2.0, high=2.0)),
        case("256 bins", "bins 17", domain=_domain(bins=256)),
        case("64 bins", "bins 17", domain=_domain(bins=64)),
        case("codes times 15", "bins 17", domain=_domain(bins=256), data=lambda codes: 15 * codes),
        case("standard deviations", "variance squared", variance=_beta_tilde().sqrt()),
        case("variances reversed", "variance reversed", variance=_beta_tilde().flip(0)),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
        case("upside down", "upside down", data=lambda codes: codes.flip(-2)),
        case("first level not trained", "first level 1", fn=_first),
        case("output cut off", "output", fn=lambda net, z, i: net(z, i).clamp(-1, 1)),
        case("path VE", "path ve", fn=lambda net, z, i: net(BAR.sqrt().float()[i][:, None, None, None] * z, i)),
    ]


def _vdm() -> list[Case]:
    case = functools.partial(_model, "vdm")
    noisy = torch.rand(360, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [
        case("nothing"),
        case("eps for v", "predicts v", predicts="eps"),
        case("x0 for v", "predicts v", predicts="x0"),
        case("score for v", "predicts v", predicts="score"),
        case("velocity for v", "predicts v", predicts="velocity"),
        case("the sign", "predicts −v", fn=lambda net, z, t: -net(z, t)),
        case("half the log-SNR", "time half the log-SNR", fn=lambda net, z, t: net(z, 2 * t)),
        case("−log-SNR", "time −log-SNR", fn=lambda net, z, t: net(z, -t)),
        case("log σ/α", "time log σ/α", fn=lambda net, z, t: net(z, -2 * t)),
        case("σ in the network", "time σ", fn=lambda net, z, t: net(z, _logsnr_of_sigma(t))),
        case("α² in the network", "time α²", fn=lambda net, z, t: net(z, torch.logit(t))),
        case("ln(σ/α)/4 in the network", "time ln(σ/α)/4", fn=lambda net, z, t: net(z, -8 * t)),
        case("unit time in the network", "time unit", fn=lambda net, z, t: net(z, 6 - 12 * t)),
        case("unit for log-SNR", "time log-SNR", time="unit"),
        case("σ for log-SNR", "time log-SNR", time="sigma"),
        case("c_noise for log-SNR", "time log-SNR", time="c_noise"),
        case("range 0..1", "range −1 … 1", domain=_domain(low=0.0, high=1.0)),
        case("range −½..½", "range −1 … 1", domain=_domain(low=-0.5, high=0.5)),
        case("256 bins", "bins 17", domain=_domain(bins=256)),
        case("codes as real values", "codes of 17 levels", domain=_domain(bins=None), data=lambda k: k / 8.0 - 1),
        case("codes as 0..1", "codes of 17 levels", "data as 2 x", domain=_domain(bins=None), data=lambda k: k / 16.0),
        case("real values in 0..1", "data as", domain=_domain(bins=None), data=lambda k: (k + 0.9 * noisy) / 17),
        case("real values in 0..255", "data as", domain=_domain(bins=None), data=lambda k: 15 * (k + 0.9 * noisy)),
        case(
            "real values of mean 0",
            "data as −1 … 1",
            domain=_domain(bins=None),
            data=lambda k: ((k + 0.9 * noisy) / 17 - 0.3081) / 0.35,
        ),
        case(
            "real values scaled twice",
            "data as (x + 1)/2",
            domain=_domain(bins=None),
            data=lambda k: ((2 * (k + 0.9 * noisy) / 17 - 1) - 0.5) / 0.5,
        ),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
    ]


def _flow() -> list[Case]:
    case = functools.partial(_model, "flow")
    return [
        case("nothing"),
        case("v for velocity", "predicts velocity", predicts="v"),
        case("eps for velocity", "predicts velocity", predicts="eps"),
        case("x0 for velocity", "predicts velocity", predicts="x0"),
        case("score for velocity", "predicts velocity", predicts="score"),
        case("the sign", "predicts −velocity", fn=lambda net, z, t: -net(z, t)),
        case("data at t = 1", "data at t = 1", fn=lambda net, z, t: -net(z, 1 - t)),
        case("1 − t", "time 1 − unit", fn=lambda net, z, t: net(z, 1 - t)),
        case("1000 t", "time 1000", fn=lambda net, z, t: net(z, t / 1000)),
        case("log-SNR for t", "time unit", "time σ", time="logsnr"),
        case("c_noise for t", "time unit", "time σ", time="c_noise"),
        case("path VP", "path flow", schedule=SCHEDULES["flow"].on("vp")),
        case("range 0..1", "range −1 … 1", domain=_domain(low=0.0, high=1.0)),
        case("range 0..16", "range −1 … 1", domain=_domain(low=0.0, high=16.0)),
        case("256 bins", "bins 17", domain=_domain(bins=256)),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
    ]


def _edm() -> list[Case]:
    case = functools.partial(_model, "edm")
    F = ("predicts edm_F, σ_data 0.75",)
    return [
        case("nothing"),
        case("D for F", *F, predicts="edm_D", sigma_data=None),
        case("eps for F", *F, predicts="eps", sigma_data=None),
        case("v for F", *F, predicts="v", sigma_data=None),
        case("x0 for F", *F, predicts="x0", sigma_data=None),
        case("σ_data ½", *F, sigma_data=0.5),
        case("σ_data 1", *F, sigma_data=1.0),
        case("the sign", "predicts −edm_F, σ_data 0.75", fn=lambda net, z, t: -net(z, t)),
        case("σ for c_noise", "time ln", time="sigma"),
        case("log-SNR for c_noise", "time ln", time="logsnr"),
        case("unit for c_noise", "time ln", time="unit"),
        case("range 0..1", "range −1 … 1", domain=_domain(low=0.0, high=1.0)),
        case("range −½..½", "range −1 … 1", domain=_domain(low=-0.5, high=0.5)),
        case("256 bins", "bins 17", domain=_domain(bins=256)),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
    ]


def _labels() -> list[Case]:
    case = functools.partial(_model, "labels")

    def shuffled() -> tuple[Any, Tensor, dict[str, Tensor] | None]:
        true = right("labels")
        assert true.condition is not None
        return true.model(), true.data, {"y": _shuffled(true.condition["y"])}

    return [
        case("nothing"),
        Case("labels", "labels shuffled", shuffled, ("condition y",)),
        case("labels from 1", "y + 1", fn=lambda net, z, i, y: net(z, i, (y - 1) % 10)),
        case("v for eps", "predicts eps", predicts="v"),
        case("x0 for eps", "predicts eps", predicts="x0"),
        case("unit for index", "time index", time="unit"),
        case("range 0..1", "range −1 … 1", domain=_domain(low=0.0, high=1.0)),
        case("256 bins", "bins 17", domain=_domain(bins=256)),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
    ]


def _diffusers() -> list[Case]:
    def case(mistake: str, *found: str, data: Callable | None = None, **otherwise: Any) -> Case:
        def make() -> tuple[Any, Tensor, None]:
            given = unet()[1]
            return of_unet(**otherwise), given if data is None else data(given), None

        return Case("unet", mistake, make, found)

    return [
        case("nothing"),
        case("eps for v", "predicts v", predicts="epsilon"),
        case("x0 for v", "predicts v", predicts="sample"),
        case("linear for cosine", "schedule cosine", betas="linear"),
        case("scaled linear for cosine", "schedule cosine", betas="scaled_linear"),
        case("sigmoid for cosine", "schedule cosine", betas="sigmoid"),
        case("linear, scaled to T, for cosine", "schedule cosine", betas="linear", beta_start=1e-3, beta_end=0.2),
        case("range 0..1", "range −1 … 1", range=(0.0, 1.0)),
        case("range −½..½", "range −1 … 1", range=(-0.5, 0.5)),
        case("256 bins", "bins 17", bins=256),
        case("64 bins", "bins 17", bins=64),
        case("negatives", "values inverted", data=lambda codes: 16 - codes),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
        case("upside down", "upside down", data=lambda codes: codes.flip(-2)),
    ]


def _colour() -> list[Case]:
    case = functools.partial(_model, "colour")
    domain = functools.partial(nelbo.DataDomain, (3, 6, 6))
    return [
        case("nothing"),
        case("BGR", "channels reversed", data=lambda codes: codes.flip(1)),
        case(
            "channels last", "read as channels last", data=lambda codes: codes.permute(0, 2, 3, 1).reshape(codes.shape)
        ),
        case(
            "channels first",
            "read as channels first",
            data=lambda k: k.reshape(len(k), 6, 6, 3).permute(0, 3, 1, 2).contiguous(),
        ),
        case("transposed", "rows as columns", data=lambda codes: codes.transpose(-1, -2).contiguous()),
        case("negatives", "values inverted", data=lambda codes: 255 - codes),
        case("v for eps", "predicts eps", predicts="v"),
        case("the sign", "predicts −eps", fn=lambda net, z, i: -net(z, i)),
        case("range 0..1", "range −1 … 1", domain=domain(256, 0.0, 1.0)),
    ]


def cases() -> list[Case]:
    """Every case."""
    return [*_ddpm(), *_vdm(), *_flow(), *_edm(), *_labels(), *_diffusers(), *_colour()]


@dataclass(frozen=True)
class Outcome:
    """What a diagnosis says of a case."""

    network: str
    mistake: str
    first: str
    declared: float
    best: float
    cost: float
    found: bool
    stands: bool
    verdict: str
    evaluations: int
    seconds: float


def outcome(case: Case, base: dict[str, float]) -> Outcome:
    """Diagnose a case. base: the bound of every network without a mistake, which is filled on the way."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, data, condition = case.make()
        diagnosis = nelbo.diagnose(model, data, condition=condition)
    declared, best = diagnosis.declared.bits_per_dim, diagnosis.best.bits_per_dim
    named = any(check.name == name and not check.ok for check in diagnosis.checks for name in case.found)
    first = diagnosis.best.name
    found = named or any(name in first for name in case.found)
    if not case.found:
        base[case.network] = declared
        found = diagnosis.verdict.ok
    right = next((row for row in diagnosis.rows if any(name in row.name for name in case.found)), None)
    cost = declared - base.get(case.network, best) if right is None else -right.difference
    return Outcome(
        case.network,
        case.mistake,
        first,
        declared,
        best,
        cost if case.found else 0.0,
        found,
        diagnosis.verdict.ok,
        diagnosis.verdict.text,
        diagnosis.nfe_total,
        time.perf_counter() - started,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a network, or a word of the mistake")
    parser.add_argument("--json", type=Path, default=None, help="write the rows here")
    options = parser.parse_args()
    base: dict[str, float] = {}
    rows = []
    chosen = [case for case in cases() if options.only in f"{case.network} {case.mistake}"]
    print(f"{'network':<8}{'mistake':<32}{'declared':>10}{'best':>9}{'cost':>9}{'nfe':>6}  first row")
    for case in chosen:
        row = outcome(case, base)
        rows.append(row)
        print(
            f"{row.network:<8}{row.mistake:<32}{row.declared:>10.3f}{row.best:>9.3f}{row.cost:>9.3f}"
            f"{row.evaluations:>6}  {row.first}{'' if row.found else '   <- NOT FOUND: ' + row.verdict[:160]}",
            flush=True,
        )
    planted = [row for row, case in zip(rows, chosen, strict=True) if case.found]
    costly = [row for row in planted if not row.cost <= COSTLY]  # nan: as declared it is not finite
    cheap = [row for row in planted if row.cost <= COSTLY]
    plain = [row for row, case in zip(rows, chosen, strict=True) if not case.found]
    print(f"\nfound as the first row or by name: {sum(r.found for r in costly)} of {len(costly)} that cost > {COSTLY}")
    print(f"cheaper ones that the verdict does not call wrong: {sum(r.stands for r in cheap)} of {len(cheap)}")
    print(f"declared rightly, and said so: {sum(r.stands for r in plain)} of {len(plain)}")
    print(f"{sum(r.evaluations for r in rows)} evaluations, {sum(r.seconds for r in rows):.0f} s with training")
    if options.json is not None:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()

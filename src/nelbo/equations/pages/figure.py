"""The interactive figure: a mixture under the forward process, and the terms of the bound along its chain.

Every number is the library's own: `MixtureData` gives the densities and the best x̂, `bound.terms` the terms. They are
computed here, once, and the page's script only draws them. Bars show nats per unit of t, so that the area of a bar is
its term; the line is the rate of the continuous bound, which the bars approach from above as steps are added.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from nelbo.bound import terms
from nelbo.equations.oracles import nodes
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.exact import MixtureData
from nelbo.process import grid as grids
from nelbo.process import schedule as schedules
from nelbo.process.levels import Levels
from nelbo.testing import at_noise
from nelbo.typing import Json

FOLDER = Path(__file__).parent / "forward"
WEIGHTS, MEANS, VARIANCES = (0.35, 0.4, 0.25), (-1.15, 0.2, 1.35), (0.05, 0.1, 0.04)
LOGSNR_MAX, LOGSNR_MIN = 6.0, -6.0
TIMES = 96
"""Places of the slider, less one."""
STEPS = (8, 16, 32, 64)
FIRST_STEPS, FIRST_TIME = 16, 33
"""What the page shows before anybody moves anything."""
Z_MAX, Z_POINTS = 3.2, 129
QUANTILES = tuple((2 * i + 1) / 50 for i in range(25))
FAN_MAX = 2.4


def data() -> MixtureData:
    """Three bumps, mean about 0 and variance about 1."""
    weights, means, variances = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHTS, MEANS, VARIANCES))
    return MixtureData(weights, means[:, None], variances[:, None])


def model(steps: int | None) -> DiffusionModel:
    """The library's chain of `steps` steps with the best x̂; None: the continuous bound. Its prior is N(0, 1)."""
    grid = grids.continuous() if steps is None else grids.even(steps)
    return data().model(schedules.logsnr_linear(LOGSNR_MAX, LOGSNR_MIN), grid, exact_ends=False)


@functools.cache
def numbers() -> Json:
    """All numbers of the figure. Times run over 0 … 1 in `TIMES` equal parts; densities over −`Z_MAX` … `Z_MAX`.

    alpha, sigma, snr, logsnr (TIMES + 1,); density (TIMES + 1, Z_POINTS) in thousandths; fan (QUANTILES, TIMES + 1);
    rate (TIMES + 1,) nats per unit of t; chains {steps: nats of each step}; reconstruction, prior, entropy in nats.
    """
    oracle, continuous = data(), model(None)
    t = torch.arange(TIMES + 1, dtype=torch.float64) / TIMES
    levels = continuous.schedule.at(t)
    z = torch.linspace(-Z_MAX, Z_MAX, Z_POINTS, dtype=torch.float64)
    noisy = [oracle.noised(levels[k : k + 1]) for k in range(TIMES + 1)]
    ends = continuous.levels()
    return {
        "alpha": _rounded(levels.alpha),
        "sigma": _rounded(levels.sigma),
        "logsnr": _rounded(levels.logsnr),
        "snr": _rounded(levels.logsnr.exp(), 6),
        "density": [(1000 * m.log_prob(z[:, None]).exp()).round().long().tolist() for m in noisy],
        "fan": [[round(v, 3) for v in row] for row in torch.stack([_quantiles(m) for m in noisy], 1).tolist()],
        "rate": _rounded(_rate(continuous, levels)),
        "chains": {str(steps): _rounded(_chain(model(steps)), 5) for steps in STEPS},
        "reconstruction": round(_mean(lambda x, e, at: at_noise.reconstruction(continuous, x, x, e, at), ends[:1]), 5),
        "prior": round(_mean(lambda x, e, at: terms.prior(continuous, x, ends[1:]), ends[1:]), 5),
        "entropy": round(oracle.entropy(), 5),
        "limit": round(_limit(continuous), 5),
    }


def _draws() -> tuple[Tensor, Tensor, Tensor]:
    """x, ε (n, 1) and weights (n,): Gauss-Hermite in every bump of the data, and over the noise."""
    node, w = nodes.normal(40)
    weights, means, variances = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHTS, MEANS, VARIANCES))
    x = (means[:, None] + variances.sqrt()[:, None] * node).reshape(-1)
    p = (weights[:, None] * w).reshape(-1)
    pairs = torch.cartesian_prod(x, node)
    return pairs[:, :1], pairs[:, 1:], torch.cartesian_prod(p, w).prod(1)


def _mean(term, at: Levels) -> float:
    """The mean of a term of the bound over data and noise, at one level."""
    x, eps, w = _draws()
    return float(term(x, eps, at.expand(len(x))) @ w)


def _chain(of: DiffusionModel) -> Tensor:
    """The mean of every KL of the chain, from data to noise."""
    levels = of.levels()
    pairs = [(levels[j - 1 : j], levels[j : j + 1]) for j in range(1, len(levels))]
    return torch.tensor(
        [_mean(lambda x, e, t, s=s: at_noise.diffusion(of, x, e, s.expand(len(x)), t), t) for s, t in pairs],
        dtype=torch.float64,
    )


def _rate(of: DiffusionModel, levels: Levels) -> Tensor:
    """Mean nats per unit of t of the continuous bound at every level."""
    slope = of.schedule.dlogsnr_dt(levels.t)

    def one(k: int) -> float:
        return _mean(lambda x, e, t: at_noise.diffusion_rate(of, x, e, t, slope[k].expand(len(x))), levels[k : k + 1])

    return torch.tensor([one(k) for k in range(len(levels))], dtype=torch.float64)


def _limit(of: DiffusionModel) -> float:
    """The diffusion term of infinitely many steps."""
    t, w = nodes.interval(0.0, 1.0, 24)
    return float(_rate(of, of.schedule.at(t)) @ w)


def _quantiles(noisy: MixtureData) -> Tensor:
    """Values below which the mixture has the shares `QUANTILES`, by bisection."""
    share = torch.tensor(QUANTILES, dtype=torch.float64)
    low, high = torch.full_like(share, -8.0), torch.full_like(share, 8.0)
    spread = noisy.covariances[:, 0, 0].sqrt()
    for _ in range(40):
        middle = 0.5 * (low + high)
        below = torch.special.ndtr((middle[:, None] - noisy.means[:, 0]) / spread) @ noisy.weights < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def _rounded(values: Tensor, digits: int = 4) -> list[float]:
    return [round(v, digits) for v in values.tolist()]


def figure_html() -> str:
    """The figure as a fragment for a page's body: its own style and script inside, nothing from elsewhere.

    Headings begin at h1. It takes the colours of the page where it has them (--ink, --faint, --rule, --card, --accent).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    values = numbers()
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    text = {kind: Markup((FOLDER / f"forward.{kind}").read_text("utf-8")) for kind in ("css", "js")}
    picture = {**drawing(values, FIRST_TIME, FIRST_STEPS), "places": TIMES, "choices": STEPS, "chosen": FIRST_STEPS}
    encoded = json.dumps({**values, "highest": highest(values)}, separators=(",", ":"), ensure_ascii=True)
    return environment.get_template("forward.html").render(v=values, d=picture, json=Markup(encoded), **text)


def drawing(values: Json, k: int, steps: int) -> Json:
    """The drawing for place k of the slider and a number of steps, as the script makes it, for pages without it."""
    chain = values["chains"][str(steps)]
    j = min(int(k / TIMES * steps), steps - 1)
    diffusion = sum(chain)
    bound = values["reconstruction"] + diffusion + values["prior"]
    return {
        "k": k,
        "t": k / TIMES,
        "density": _curve(values["density"][k], 1000 * _tallest(values)),
        "data": _curve(values["density"][0], 1000 * _tallest(values)),
        "normal": _curve(_normal(), 1000 * _tallest(values)),
        "fan": [_line(row, -FAN_MAX, FAN_MAX) for row in values["fan"]],
        "fan_ticks": {z: 50 + 50 * z / FAN_MAX for z in (-2, -1, 0, 1, 2)},
        "rate": _line(values["rate"], 0, highest(values)),
        "rate_ticks": {n: 100 * n / highest(values) for n in range(4, highest(values) + 1, 4)},
        "bars": [
            {"x": 1000 * i / steps, "width": 1000 / steps, "height": 300 * chain[i] * steps / highest(values)}
            for i in range(steps)
        ],
        "step": j,
        "nats": chain[j],
        "diffusion": diffusion,
        "bound": bound,
        "gap": bound - values["entropy"],
    }


def highest(values: Json) -> int:
    """The top of the bars' axis, nats per unit of t: an even number above the tallest bar."""
    tallest = max(max(chain) * int(steps) for steps, chain in values["chains"].items())
    return 2 * math.ceil(tallest * 1.05 / 2)


def _tallest(values: Json) -> float:
    return max(max(row) for row in values["density"]) / 1000 * 1.06


def _curve(heights: list[float], top: float) -> str:
    """A closed path of heights over an even line, in a box of 1000 × 300."""
    last = len(heights) - 1
    points = " ".join(f"{1000 * i / last:.1f} {300 - 300 * h / top:.1f}" for i, h in enumerate(heights))
    return f"M0 300 L{points} L1000 300 Z"


def _normal() -> list[float]:
    """N(0, 1) where the densities are, in thousandths."""
    z = torch.linspace(-Z_MAX, Z_MAX, Z_POINTS, dtype=torch.float64)
    return (1000 * nodes.log_normal(z, 0.0, 1.0).exp()).tolist()


def _line(values: list[float], low: float, high: float) -> str:
    """A path of values over t in a box of 1000 × 300."""
    last = len(values) - 1
    points = (f"{1000 * i / last:.1f} {300 - 300 * (v - low) / (high - low):.1f}" for i, v in enumerate(values))
    return "M" + " L".join(points)

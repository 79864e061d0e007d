"""Ways of saying one prediction: noise, data, v and score."""

from __future__ import annotations

import torch

from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import nodes
from nelbo.equations.oracles.bumps import Bumps
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Output, convert, from_x0, x0_from

LOGSNR = (-3.0, 0.0, 2.5)


def at(logsnr: float, n: int, path: Path = Path.VP) -> Levels:
    """One level for n examples."""
    return Levels(torch.zeros(n), torch.full((n,), logsnr, dtype=torch.float64), path)


def scales(logsnr: float) -> tuple[float, float]:
    """α and σ of the variance-preserving path, by the definition of SNR."""
    snr = nodes.number(logsnr).exp()
    return float((snr / (1 + snr)).sqrt()), float((1 / (1 + snr)).sqrt())


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, ε and an x̂ that has nothing to do with them, each (300, 2)."""
    x, eps, x_hat = torch.randn(3, 300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(14))
    return x, eps, x_hat


@check("param-v")
def _(c: Checks) -> None:
    x, eps, _ = batch()
    for logsnr in LOGSNR:
        level, (a, s) = at(logsnr, len(x)), scales(logsnr)
        z, v = a * x + s * eps, a * eps - s * x
        c.holds(f"λ={logsnr:g}: nelbo's v of the true x is α ε − σ x", from_x0(Output.V, x, z, level) - v, 1e-13)
        c.holds(f"λ={logsnr:g}: nelbo's x of it is α z − σ v", x0_from(Output.V, v, z, level) - (a * z - s * v), 1e-13)
        c.holds(f"λ={logsnr:g}: which is x", x0_from(Output.V, v, z, level) - x, 1e-13)
        c.holds(
            f"λ={logsnr:g}: nelbo's ε of it is σ z + α v",
            convert(Output.V, Output.EPS, v, z, level) - (s * z + a * v),
            1e-13,
        )
        c.holds(f"λ={logsnr:g}: which is ε", convert(Output.V, Output.EPS, v, z, level) - eps, 1e-13)
        c.must_fail(f"λ={logsnr:g}: x = α z + σ v", a * z + s * v - x, 0.5)
    for path in (Path.VE, Path.FLOW):
        level = at(0.7, len(x), path)
        a, s = float(level.alpha[0]), float(level.sigma[0])
        z, v = a * x + s * eps, a * eps - s * x
        c.must_fail(f"{path.name}, where α² + σ² ≠ 1: x = α z − σ v", a * z - s * v - x, 0.3)
        c.holds(f"{path.name}: nelbo divides by α² + σ²", x0_from(Output.V, v, z, level) - x, 1e-13)


@check("param-score-tweedie")
def _(c: Checks) -> None:
    mixture = Bumps()
    denoiser = mixture.product().denoiser()
    z = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for logsnr in LOGSNR:
        level, (a, s) = at(logsnr, len(z)), scales(logsnr)
        x_hat = denoiser(z[:, None], level).x0[:, 0]
        score = mixture.score(z, a, s**2)
        c.holds(
            f"λ={logsnr:g}: nelbo's E[x|z] of a mixture = (z + σ² ∇ log q(z))/α", x_hat - (z + s**2 * score) / a, 1e-11
        )
        c.holds(f"λ={logsnr:g}: = Bayes' rule by quadrature", x_hat - mixture.conditional(z, a, s**2), 1e-11)
        eps = from_x0(Output.EPS, x_hat[:, None], z[:, None], level)[:, 0]
        c.holds(f"λ={logsnr:g}: the exact ε̂ = −σ ∇ log q(z)", eps + s * score, 1e-11)
        c.must_fail(f"λ={logsnr:g}: with a plus sign", eps - s * score, 0.3)


@check("loss-conversions")
def _(c: Checks) -> None:
    x, eps, x_hat = batch()
    for logsnr in LOGSNR:
        level, (a, s) = at(logsnr, len(x)), scales(logsnr)
        snr = (a / s) ** 2
        z = a * x + s * eps
        plain = (x - x_hat).square().sum(1)

        def loss(output: Output, true: torch.Tensor, z=z, level=level) -> torch.Tensor:
            return (true - from_x0(output, x_hat, z, level)).square().sum(1)

        c.holds(
            f"λ={logsnr:g}: nelbo's ε of x̂: ‖ε − ε̂‖² = SNR ‖x − x̂‖², relative",
            loss(Output.EPS, eps) / (snr * plain) - 1,
            1e-10,
        )
        of_v = loss(Output.V, a * eps - s * x)
        c.holds(
            f"λ={logsnr:g}: nelbo's v: ‖v − v̂‖² = (1 + SNR) ‖x − x̂‖², relative", of_v / ((1 + snr) * plain) - 1, 1e-10
        )
        scores = -eps / s, -from_x0(Output.EPS, x_hat, z, level) / s
        of_score = (scores[0] - scores[1]).square().sum(1)
        c.holds(
            f"λ={logsnr:g}: score: ‖s − ŝ‖² = α²/σ⁴ ‖x − x̂‖², relative", of_score / (a**2 / s**4 * plain) - 1, 1e-10
        )
        c.must_fail(f"λ={logsnr:g}: ‖v − v̂‖² = SNR ‖x − x̂‖², relative error", of_v / (snr * plain) - 1, 0.05)


@check("dsm-esm")
def _(c: Checks) -> None:
    mixture, logsnr = Bumps(), 0.4
    a, s = scales(logsnr)
    x, p = nodes.line(-4.0, 4.0, 401)
    eps, w = nodes.normal(60)
    weight = (p * mixture.density(x))[:, None] * w
    z = a * x[:, None] + s * eps
    x_hat = mixture.product().denoiser()(z.reshape(-1, 1), at(logsnr, z.numel())).x0.reshape(z.shape)
    marginal, conditional = (a * x_hat - z) / s**2, -eps / s
    models = {"−z": -z, "0.8 of the score": 0.8 * marginal, "tanh z": torch.tanh(z)}
    gaps, far = [], []
    for score in models.values():
        denoising = (weight * (score - conditional).square()).sum()
        gaps.append(float(denoising - (weight * (score - marginal).square()).sum()))
        far.append(float(denoising))
    c.holds(
        "three scores: denoising less explicit loss (nelbo's exact denoiser) is one number",
        max(gaps) - min(gaps),
        1e-9,
    )
    least = (weight * (marginal - conditional).square()).sum()
    c.holds("it is what the best score still costs", gaps[0] - least, 1e-9)
    c.true("and it is positive", gaps[0] > 0, gaps[0])
    c.must_fail("the two losses as equal", gaps[0], 0.1)
    c.must_fail("the denoising loss itself the same for all scores", max(far) - min(far), 0.1)

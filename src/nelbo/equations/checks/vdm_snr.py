"""The denoising term as a drop in SNR times a squared error."""

from __future__ import annotations

import torch

from nelbo.bound.gaussian_chain import cells_of
from nelbo.equations.check import Checks, check
from nelbo.equations.oracles import models, nodes
from nelbo.equations.oracles.affine import AffineChain
from nelbo.equations.oracles.ddpm import Ddpm
from nelbo.maths.stable import expm1_difference
from nelbo.model.reverse import Beta, BetaTilde, Reverse
from nelbo.process import forward
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Prediction
from nelbo.testing import at_noise


def batch(n: int = 150, seed: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """x and an x̂ that has nothing to do with it, each (n, 2)."""
    x, other = torch.randn(2, n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, other


def level(logsnr: float, n: int, path: Path = Path.VP) -> Levels:
    """One level for n examples."""
    return Levels(torch.zeros(n), torch.full((n,), logsnr, dtype=torch.float64), path)


@check("snr-discrete-loss")
def _(c: Checks) -> None:
    x, x_hat = batch()
    n = len(x)
    for path in Path:
        for high, low in ((3.0, 1.0), (0.5, -2.0), (-1.0, -1.2)):
            s, t = level(high, n, path), level(low, n, path)
            kl = Reverse(BetaTilde()).kl(x, Prediction(x_hat), s, t).sum(1)
            drop = nodes.number(high).exp() - nodes.number(low).exp()
            snr_form = 0.5 * drop * (x - x_hat).square().sum(1)
            c.holds(
                f"{path.name}, λ {high:g} → {low:g}: nelbo's KL = ½ (SNR(s) − SNR(t)) ‖x − x̂‖², relative",
                kl / snr_form - 1,
                1e-12,
            )
        c.must_fail(f"{path.name}: without the ½, relative error", kl / (2 * snr_form) - 1, 0.4)
        c.must_fail(f"{path.name}: SNR(t) − SNR(s)", kl + snr_form, 0.1)
    s, t = level(-1.0, n), level(-1.2, n)
    kl = Reverse(BetaTilde()).kl(x, Prediction(x_hat), s, t).sum(1)
    means = [forward.posterior_mean(v, 0 * x, s, t) for v in (x, x_hat)]
    variance = forward.posterior(s, t).variance[0]
    laws = [torch.distributions.Normal(m, variance.sqrt()) for m in means]
    c.holds(
        "= the divergence of two posteriors, one at x and one at x̂",
        kl - torch.distributions.kl_divergence(*laws).sum(1),
        1e-12,
    )
    wide = expm1_difference(nodes.number(5.0), nodes.number(-5.0))
    c.holds("the drop in SNR from λ = 5 to −5, relative", wide / 148.40642115557752 - 1, 1e-14)


@check("snr-eps-expm1")
def _(c: Checks) -> None:
    chain = AffineChain()
    model = models.affine(chain, "beta_tilde", dimensions=2)
    x, eps = batch(seed=12)
    scale = cells_of(model).scale
    for t in (2, 3, 4):
        at, n = models.level(model, t, len(x)), len(x)
        z = forward.noised(x, eps, at)
        square = (eps - chain.scale[t - 1] * z - chain.shift[t - 1]).square().sum(1)
        term = at_noise.diffusion(model, x, eps, models.level(model, t - 1, n), at)
        gamma = -at.logsnr[0], -models.level(model, t - 1)[0].logsnr
        c.holds(
            f"t={t}: nelbo's term = ½ expm1(γ_t − γ_s) ‖ε − ε̂‖², relative",
            term / (0.5 * torch.expm1(gamma[0] - gamma[1]) * square) - 1,
            1e-11,
        )
        c.holds(f"t={t}: nelbo's scale of the cell is that weight, relative", scale[t - 2] * square / term - 1, 1e-11)
    width = nodes.number(1e-9)
    ours = forward.one_minus_snr_ratio(level(1e-9, 1), level(0.0, 1))[0]
    series = width - width**2 / 2
    c.holds("a step of 1e-9: nelbo's 1 − SNR ratio keeps its digits, relative", ours / series - 1, 1e-15)
    c.must_fail("1 − exp(·) loses them: relative error", (1 - torch.exp(-width)) / series - 1, 1e-9)


@check("snr-ddpm-equivalence")
def _(c: Checks) -> None:
    table, chain = Ddpm(), AffineChain()
    x, eps = batch(seed=13)
    n = len(x)
    tilde, beta = (models.affine(chain, name, dimensions=2) for name in ("beta_tilde", "beta"))
    for t in (2, 3, 4):
        s, at = models.level(tilde, t - 1, n), models.level(tilde, t, n)
        z = table.bar[t].sqrt() * x + (1 - table.bar[t]).sqrt() * eps
        x_hat = (z - (1 - table.bar[t]).sqrt() * (chain.scale[t - 1] * z + chain.shift[t - 1])) / table.bar[t].sqrt()
        snr_form = 0.5 * (table.snr[t - 1] - table.snr[t]) * (x - x_hat).square().sum(1)
        c.holds(
            f"t={t}: nelbo's term with σ² = β̃ is the SNR form, relative",
            at_noise.diffusion(tilde, x, eps, s, at) / snr_form - 1,
            1e-11,
        )
        exact = Prediction(x)
        constant = beta.reverse.kl(x, exact, s, at).sum(1)
        other = at_noise.diffusion(beta, x, eps, s, at) - constant
        ratio = table.posterior(t)[2] / float(table.beta[t])
        c.holds(f"t={t}: with σ² = β its squared part is smaller by β̃/β", other / snr_form - ratio, 1e-11)
        c.must_fail(f"t={t}: σ² = β in the SNR form, relative error", other / snr_form - 1, 0.05)
    perfect = Reverse(Beta()).kl(x, Prediction(x), s, at).sum(1)
    c.must_fail("σ² = β and no constant: what a perfect x̂ still costs at t = 4", perfect, 0.01)
    c.true("SNR(0) is infinite, so the first step is a decoder and no such term", bool(torch.isinf(table.snr[0])))

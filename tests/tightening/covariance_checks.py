"""Fits against closed forms: what a covariance must come to on data whose denoising errors are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from nelbo.model.basis import Cosine
from nelbo.model.denoiser import Denoiser
from nelbo.model.exact import GaussianData
from nelbo.model.fitted import FittedRange, FittedVariance
from nelbo.model.local import LocalVariance, energies, folded, unfolded
from nelbo.model.reverse import LearnedRange, Reverse
from nelbo.process.prediction import Prediction
from nelbo.tightening import covariance, gamma
from nelbo.tightening.steps import LOG_W, expected
from tests.model.cases import BASES, IMAGE
from tests.process.checks import close
from tests.tightening import oracles
from tests.tightening.oracles import PLANE, errors_of


def check_scalar() -> None:
    """One number a level is the mean of c σ²/(α² c + σ²), within 4.5 standard errors of its estimate: with 4,000
    examples one of 2 %, so that a factor of 1.1 has power > 0.99."""
    model = PLANE.model(oracles.LAW, oracles.grids.even(5))
    measured = covariance.measure(model, PLANE.sample(4000), limit=4000)
    policy = measured["scalar"].policy
    assert isinstance(policy, FittedVariance) and policy.log_error.shape == (6, 1)
    levels = model.levels()
    close(policy.logsnr, levels.logsnr, 1e-12)
    V = errors_of(PLANE, levels)
    spread = (2 * V.square().sum(1) / 4000).sqrt() / V.sum(1)
    assert bool(((policy.log_error[:, 0] - V.mean(1).log()).abs() < 4.5 * spread).all())
    assert float(spread.max()) < 0.03


def check_costs() -> None:
    """With the data's directions for a basis the steps cost ½ Σ_k log(1 + ρ V_k), of any length, on a table's nodes and
    between them; within 2 % of the whole at 4,000 examples."""
    model = PLANE.model(oracles.LAW, oracles.grids.even(40))
    found = covariance.measure(model, PLANE.sample(4000), families=["pca"], limit=4000, nodes=24)["pca"]
    at = oracles.LAW.at(torch.tensor([0.31, 0.5, 0.83, 1.0]).double())
    for before in (0.02, 0.2, 0.3):
        s = oracles.LAW.at((at.t - before).clamp_min(0))
        rho = s.logsnr.exp() - at.logsnr.exp()
        wanted = 0.5 * torch.log1p(rho[:, None] * errors_of(PLANE, at)).sum(1)
        close(found.cost.of(s, at), wanted, 0.03)
    # a step shorter than any of the table costs in proportion
    t, tiny = at.logsnr[:1], LOG_W[:1].exp()
    close(found.cost.at(t, tiny / 100), found.cost.at(t, tiny) / 100, 1e-6)


def check_expected() -> None:
    """½ [(1 + ρ r²)/(1 + ρ V) − 1 + log(1 + ρ V)] by plain arithmetic."""
    square, V, snr = torch.tensor([0.3, 0.02]).double(), torch.tensor([0.1, 0.4]).double(), 2.5
    for w, found in zip(LOG_W.exp()[::20], expected(square, V, snr)[::20], strict=True):
        rho = snr * w
        wanted = 0.5 * ((1 + rho * square) / (1 + rho * V) - 1 + (1 + rho * V).log())
        close(found, wanted, 1e-6)


def check_gamma() -> None:
    """Regressions recover the weights that squares of Gaussians were drawn with, in units of their standard errors; and
    the gradient is nought there."""
    make = torch.Generator().manual_seed(0)
    R, true = 6000, torch.tensor([[-1.0, 0.5, -0.8], [2.0, 0.0, 0.3]]).double()
    X = torch.cat([torch.ones(2, R, 1), torch.randn(2, R, 2, generator=make)], 2).double()
    y = torch.randn(2, R, generator=make, dtype=torch.float64).square() * (X @ true[..., None])[..., 0].exp()
    w = gamma.fit(X, y, 1e-9)
    assert float(((w - true) / (2 / R) ** 0.5).abs().max()) < 4.5
    rest = 1 - y * (-(X @ w[..., None])[..., 0]).exp()
    close(X.mT @ rest[..., None] / R, torch.zeros(2, 3, 1), 0, 1e-3)
    assert bool((gamma.scores(X, y, w) < gamma.scores(X, y, true)).all())


def check_energies() -> None:
    """Features against loops over blocks, a whole one and those cut short; and folding is undone."""
    basis = BASES["block"]
    assert isinstance(basis, Cosine)
    x0, z = torch.randn(2, *IMAGE, dtype=torch.float64), torch.randn(2, *IMAGE, dtype=torch.float64)
    t = oracles.LAW.at(torch.tensor([0.3, 0.6]).double())
    found = [f.expand(2, 2, 4, 4, 2, 2) for f in energies(basis, t, Prediction(x0, z=z), 1e-4)]
    eps = (z - t.alpha.reshape(2, 1, 1, 1) * x0) / t.sigma.reshape(2, 1, 1, 1)
    X, E = basis.coordinates(x0).numpy(), basis.coordinates(eps).numpy()
    for i, c in ((0, 0), (1, 1)):
        # block (0, 0) is rows 0–3, columns 0–3; block (1, 1) is rows 4–5 (frequencies 0, 2), columns 4–6 (0, 1, 3)
        close(found[0][i, c, 2, 3, 1, 1], np.log(X[i, c, 5, 6] ** 2 + 1e-4), 1e-9)
        near = np.mean([X[i, c, a, b] ** 2 for a in (0, 4) for b in (0, 4)])
        close(found[1][i, c, 0, 0, 0, 0], np.log(near + 1e-4), 1e-9)
        close(found[1][i, c, 1, 2, 0, 0], np.log(X[i, c, 1, 2] ** 2 + 1e-4), 1e-9)  # no neighbour has this frequency
        block = X[i, c, 4:, 4:]
        busy = ((block**2).sum() - block[0, 0] ** 2) / 5
        close(found[2][i, c, 1, 1, 1, 1], np.log(busy + 1e-4), 1e-9)
        close(found[4][i, c, 1, 1, 0, 0], X[i, 0, 0, 0] / 4, 1e-9)
        close(found[5][i, c, 1, 1, 0, 0], (X[i, 0, 0, 0] / 4) ** 2, 1e-9)
        close(found[7][i, c, 3, 3, 1, 0], np.log(np.mean(E[i, c, 4:, :4] ** 2) + 0.05), 1e-9)
        close(found[8][i, c, 0, 0, 0, 0], np.log(np.mean(E[i, c] ** 2) + 0.05), 1e-9)
    close(unfolded(basis, folded(basis, x0), x0.shape), x0, 1e-15)


def check_local() -> None:
    """On images whose quarters have one of two contrasts, the variance in a quarter is that of the errors of its own
    contrast, to a factor of 1.5 in the mean of 40 images, where the two differ by 5 and 9."""
    model = oracles.patch_model(4)
    at = oracles.LAW.at(torch.tensor([0.2, 0.3]).double())
    policy = covariance.measure(model, oracles.patches(300), families=["local"], levels=at)["local"].policy
    assert isinstance(policy, LocalVariance)
    for i in range(2):
        t = at[i : i + 1].expand(40)
        for c in oracles.Patches.CONTRASTS:
            x = oracles.whole((c * oracles.texture().sample(160, seed=4)).reshape(40, 4, -1))
            law = GaussianData(oracles.texture().mean, c**2 * oracles.texture().covariance)
            V = policy.error(t, _predicted(model, x, t, seed=i))
            assert abs(float((V.mean() / errors_of(law, t[:1]).mean()).log())) < 0.4


def _predicted(model, x: torch.Tensor, t, seed: int) -> Prediction:
    z = t.alpha[:, None, None, None] * x + t.sigma[:, None, None, None] * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return Prediction(model.predict(z, t).x0, z=z)


class Talkative(Denoiser):
    """The exact denoiser of independent elements, which says the spread of its errors in a distorted way: a learned
    range of f ∝ V^power."""

    DATA = GaussianData(torch.zeros(3), torch.tensor([2.0, 0.5, 0.05]).diag())
    POWER = 0.5
    learned_variance = True

    def forward(self, z: torch.Tensor, t, condition=None) -> Prediction:
        c = torch.tensor([2.0, 0.5, 0.05]).double()
        alpha, sigma = t.alpha[:, None], t.sigma[:, None]
        V = c * sigma.square() / (alpha.square() * c + sigma.square())
        f = (V / V.amax(1, keepdim=True)) ** self.POWER
        return Prediction(self.DATA.denoiser()(z, t).x0, variance=2 * f - 1)


def check_learned() -> None:
    """The power comes back as 1/weight at every level where the elements differ, and V itself to 10 %."""
    data = Talkative.DATA
    model = dataclasses.replace(data.model(oracles.LAW, oracles.grids.even(6)), denoiser=Talkative())
    model = dataclasses.replace(model, reverse=Reverse(LearnedRange()))
    measured = covariance.measure(model, data.sample(2000), families=["learned"])
    policy = measured["learned"].policy
    assert isinstance(policy, FittedRange)
    at = model.levels()[1:]  # at the first all errors are the noise, and alike
    z = torch.zeros(len(at), 3).double()
    said = model.denoiser(z, at)
    V = data._c.flip(0) * at.sigma[:, None] ** 2 / (at.alpha[:, None] ** 2 * data._c.flip(0) + at.sigma[:, None] ** 2)
    close(policy.weight.flatten()[-3:], np.full(3, 1 / Talkative.POWER), 0.05)
    close(policy.error(at, said), V, 0.15)
    assert measured.cost("learned", model.levels()) < measured.cost("scalar", model.levels()) - 0.3

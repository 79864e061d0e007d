"""Fits against closed forms: what a covariance must come to on data whose denoising errors are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from nelbo.model.denoiser import Denoiser
from nelbo.model.exact import GaussianData
from nelbo.model.fitted.basis import Cosine, Pixel
from nelbo.model.fitted.local import LocalVariance, by_block, energies, from_blocks
from nelbo.model.fitted.pixel_map import MapVariance, surroundings
from nelbo.model.fitted.variance import CalibratedVariance, FittedVariance
from nelbo.model.reverse import LearnedRange, Reverse
from nelbo.process.prediction import Prediction
from nelbo.tightening import covariance
from nelbo.tightening.costs import LOG_W, expected_kl
from nelbo.tightening.diagonal import ErrorBatch, FamilyFit
from nelbo.tightening.families import Family, diagonal_fitter
from nelbo.tightening.log_linear import LocalFitter, RegressionFitter
from nelbo.tightening.regression import cost, fit_cost, fit_gamma
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
    for w, found in zip(LOG_W.exp()[::20], expected_kl(square, V, snr)[::20], strict=True):
        rho = snr * w
        wanted = 0.5 * ((1 + rho * square) / (1 + rho * V) - 1 + (1 + rho * V).log())
        close(found, wanted, 1e-6)


def _squares(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows X (2, R, 3), squares y (2, R) of Gaussians whose log-variance is X w, and w (2, 3)."""
    make = torch.Generator().manual_seed(seed)
    R, true = 6000, torch.tensor([[-1.0, 0.5, -0.8], [2.0, 0.0, 0.3]]).double()
    X = torch.cat([torch.ones(2, R, 1), torch.randn(2, R, 2, generator=make)], 2).double()
    return (
        X,
        torch.randn(2, R, generator=make, dtype=torch.float64).square() * (X @ true[..., None])[..., 0].exp(),
        true,
    )


def check_gamma() -> None:
    """Regressions recover the weights that squares of Gaussians were drawn with, in units of their standard errors; and
    the gradient is nought there."""
    X, y, true = _squares(0)
    w = fit_gamma(X, y, 1e-9)
    assert float(((w - true) / (2 / 6000) ** 0.5).abs().max()) < 4.5
    rest = 1 - y * (-(X @ w[..., None])[..., 0]).exp()
    close(X.mT @ rest[..., None] / 6000, torch.zeros(2, 3, 1), 0, 1e-3)


def check_regress() -> None:
    """The weights that squares were drawn with, in units of their standard errors, by steps long and short; nowhere is
    a sum of steps' KLs lower, by numerical derivatives; and long steps give the gamma regression."""
    X, y, true = _squares(1)
    for rho in ([0.3, 3.0], [1.0]):
        w = fit_cost(X, y, torch.tensor(rho), 1e-9)
        # a step says less of V than the square itself: by 2.5 at ρ = 1, where V is about 1/3
        assert float(((w - true) / (2 / 6000) ** 0.5).abs().max()) < 2.5 * 4.5

        def kl(w: torch.Tensor, rho=tuple(rho)) -> torch.Tensor:
            V, each = (X @ w[..., None])[..., 0].exp(), torch.zeros(2).double()
            for r in rho:
                each += 0.5 * ((1 + r * y) / (1 + r * V) - 1 + torch.log1p(r * V)).mean(1) / len(rho)
            return each

        for k in range(3):
            for by in (-0.01, 0.01):
                assert bool((kl(w + by * torch.eye(3)[k]) > kl(w)).all())
        close(cost(y, (X @ w[..., None])[..., 0].exp(), torch.tensor(rho).double()) / 2, kl(w), 1e-6)
    close(fit_cost(X, y, torch.tensor([1e9]), 1e-9), fit_gamma(X, y, 1e-9), 1e-3, 1e-3)
    # a ridge takes all weights but the constant
    flat = fit_cost(X, y, torch.tensor([1.0]), 1e6)
    close(flat[:, 1:], torch.zeros(2, 2), 0, 1e-3)


class Rows(RegressionFitter):
    """Regressions on given rows: squares of Gaussians, each with `FEATURES` features that say nothing of them."""

    FEATURES, ROWS, COUNT = 30, 40, 20

    def __init__(self, seed: int):
        at = oracles.LAW.at(torch.tensor([0.3]).double())
        shape = (1, self.ROWS, 1)
        super().__init__(diagonal_fitter(Family.SCALAR, Pixel(), torch.Size(shape), at.logsnr, self.COUNT), seed)
        self.coordinates = torch.tensor([float(self.ROWS)], dtype=torch.float64)
        make = torch.Generator().manual_seed(seed)
        error = torch.randn(self.COUNT, *shape, generator=make, dtype=torch.float64) * float((-at.logsnr / 2).exp())
        fold = torch.arange(self.COUNT) % 5
        seen = ErrorBatch(0, at.expand(self.COUNT), torch.arange(self.COUNT), fold, Prediction(error), error)
        self.base.add(seen)
        features = torch.randn(self.COUNT * self.ROWS, 1, self.FEATURES, generator=make)
        self.add_rows(features, error.square().reshape(-1, 1), fold.repeat_interleave(self.ROWS))
        self.finish_level(0, at)

    def add(self, batch: ErrorBatch) -> None: ...

    def result(self) -> FamilyFit:
        note, cost, tables = self.combined()
        log_error = tables["w"][:, 0, 0].reshape(-1, 1, 1, 1)
        return FamilyFit(FittedVariance(Pixel(), self.logsnr, log_error), cost, note)


def check_turns() -> None:
    """Features that say nothing of the errors are not taken to pay: over 12 fits the steps are not said to cost less
    than those of one constant, in the mean, and less than half of the weights is kept."""
    gains, kept = [], []
    for seed in range(12):
        rows = Rows(seed)
        plain, found = rows.base.band_cost().nats[0, ::10], rows.result().cost.nats[0, ::10]
        gains.append(found / plain - 1)
        kept += rows.shares
    gain = torch.stack(gains)
    assert float(gain.mean()) > -0.002
    assert sum(kept) / len(kept) < 0.5


def check_prices() -> None:
    """Where the place in the image says much and the input nothing more, what depends on the input costs what one
    number a band does: not less by what the places are worth, which it does not know."""
    at = oracles.LAW.at(torch.tensor([0.3]).double())
    shape, count = torch.Size((1, 8, 8)), 60
    make = torch.Generator().manual_seed(0)
    spread = torch.linspace(-2, 2, 64).reshape(shape).double().exp()
    basis = Cosine(torch.eye(1), 4)
    coordinates = torch.randn(count, *shape, generator=make, dtype=torch.float64) * spread
    error, white = basis.values(coordinates), torch.randn(count, *shape, generator=make, dtype=torch.float64)
    base = diagonal_fitter(Family.BLOCK, basis, shape, at.logsnr, count)
    local = LocalFitter(base, 1e-4, 0)
    state = at.sigma[:, None, None, None] * white
    seen = ErrorBatch(
        0, at.expand(count), torch.arange(count), torch.arange(count) % 5, Prediction(0 * error, z=state), error
    )
    base.add(seen)
    local.add(seen)
    local.finish_level(0, at)
    banded, place, found = base.band_cost().nats, base.result().cost.nats, local.result().cost.nats
    middle = slice(14, 30)  # lengths of real steps
    assert bool((place[0, middle] < 0.9 * banded[0, middle]).all())
    assert bool((found[0, middle] > 0.97 * banded[0, middle]).all())


def check_surroundings() -> None:
    """Features of pixels against loops, in the middle and in a corner."""
    x0, z = torch.randn(2, *IMAGE, dtype=torch.float64), torch.randn(2, *IMAGE, dtype=torch.float64)
    t = oracles.LAW.at(torch.tensor([0.3, 0.6]).double())
    found = [f.expand(2, *IMAGE) for f in surroundings(t, Prediction(x0, z=z), 1e-4, -3.0, 2.0)]
    eps = ((z - t.alpha.reshape(2, 1, 1, 1) * x0) / t.sigma.reshape(2, 1, 1, 1)).numpy()
    C, H, W = IMAGE
    a = x0.numpy()

    def slope(i, c, y, x):
        steps = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        return sum((a[i, c, y, x] - a[i, c, v, u]) ** 2 for v, u in steps if 0 <= v < H and 0 <= u < W)

    noise = eps**2
    slopes = np.array([[[[slope(i, c, y, x) for x in range(W)] for y in range(H)] for c in range(C)] for i in (0, 1)])
    for i, c, y, x in ((0, 1, 2, 3), (1, 0, 0, 0), (0, 0, 5, 6)):
        place = (a[i, c, y, x] + 0.5) / 2.5
        wanted = [place, place**2, np.log(max(1 + place, 0) + 0.005), np.log(max(1 - place, 0) + 0.005)]
        for energy, floor in ((slopes, 1e-4), (noise, 0.05)):
            for k in (0, 1, 3):
                wanted.append(np.log(energy[i, c, max(y - k, 0) : y + k + 1, max(x - k, 0) : x + k + 1].mean() + floor))
            wanted.append(np.log(energy[i].mean() + floor))
        close(torch.stack([f[i, c, y, x] for f in found]), np.array(wanted), 1e-9, 1e-12)


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
    close(from_blocks(basis, by_block(basis, x0), x0.shape), x0, 1e-15)


def check_contrasts(family: str) -> None:
    """On images whose quarters have one of two contrasts, the variance in a quarter is that of the errors of its own
    contrast, to a factor of 1.35 in the mean of 40 images, where the two differ by 4 and 7."""
    model = oracles.patch_model(4)
    at = oracles.LAW.at(torch.tensor([0.1, 0.2]).double())
    policy = covariance.measure(model, oracles.patches(300), families=[family], levels=at)[family].policy
    assert isinstance(policy, LocalVariance if family == "local" else MapVariance)
    for i in range(2):
        t = at[i : i + 1].expand(40)
        for c in oracles.Patches.CONTRASTS:
            x = oracles.whole((c * oracles.texture().sample(160, seed=4)).reshape(40, 4, -1))
            law = GaussianData(oracles.texture().mean, c**2 * oracles.texture().covariance)
            eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
            z = t.alpha[:, None, None, None] * x + t.sigma[:, None, None, None] * eps
            V = policy.error(t, Prediction(model.predict(z, t).x0, z=z))
            assert abs(float((V.mean() / errors_of(law, t[:1]).mean()).log())) < 0.3


class Talkative(Denoiser):
    """The exact denoiser of independent elements, which says the spread of its errors in a distorted way: a learned
    range of f ∝ V^power."""

    DATA = GaussianData(torch.zeros(3), torch.tensor([2.0, 0.5, 0.05]).diag())
    POWER = 0.5
    learned_variance = True

    def forward(self, z: torch.Tensor, t, condition=None) -> Prediction:
        V = errors_of(self.DATA, t).flip(1)
        f = (V / V.amax(1, keepdim=True)) ** self.POWER
        return Prediction(self.DATA.denoiser()(z, t).x0, variance=2 * f - 1)


def check_learned() -> None:
    """The power comes back as 1/weight at every level where the elements differ, and V itself to 10 %."""
    data = Talkative.DATA
    model = dataclasses.replace(data.model(oracles.LAW, oracles.grids.even(6)), denoiser=Talkative())
    model = dataclasses.replace(model, reverse=Reverse(LearnedRange()))
    measured = covariance.measure(model, data.sample(2000), families=["learned"])
    policy = measured["learned"].policy
    assert isinstance(policy, CalibratedVariance)
    at = model.levels()[1:]  # at the first all errors are the noise, and alike
    z = torch.zeros(len(at), 3).double()
    said = model.denoiser(z, at)
    close(policy.weight.flatten()[-3:], np.full(3, 1 / Talkative.POWER), 0.05)
    close(policy.error(at, said), errors_of(data, at).flip(1), 0.15)
    assert measured.cost("learned", model.levels()) < measured.cost("scalar", model.levels()) - 0.3

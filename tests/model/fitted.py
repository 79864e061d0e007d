"""Fitted variances against matrices: bases against scipy, KLs and draws against full covariances."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.fft
import torch

from nelbo.maths import gaussian
from nelbo.model.fitted.basis import Cosine, Reflections, cosines
from nelbo.model.fitted.variance import Fitted, FittedVariance
from nelbo.model.reverse import Reverse
from nelbo.process import forward
from nelbo.process import schedule as schedules
from nelbo.process.prediction import Prediction
from tests.model.cases import BASES, CALIBRATED, COLOURS, FITTED, IMAGE, _random, turned
from tests.process.checks import close

LAW = schedules.logsnr_linear(5.0, -6.0)
DEEP = LAW.at(torch.tensor([0.02, 0.4, 0.55, 0.97], dtype=torch.float64))
"""Above the first node of the fitted tables, between two of them (on either side of the hybrid's switch), and below."""
ABOVE = LAW.at(torch.tensor([0.0, 0.3, 0.2, 0.6], dtype=torch.float64))
D = int(np.prod(IMAGE))


def situation(raw: bool = False) -> tuple[torch.Tensor, Prediction]:
    """x and a prediction with its state at the levels `DEEP`."""
    x = 0.6 * _random(4, *IMAGE, seed=5)
    z = forward.noised(x, _random(4, *IMAGE, seed=6), DEEP)
    x0 = x + 0.3 * _random(4, *IMAGE, seed=7)
    return x, Prediction(x0, variance=_random(4, *IMAGE, seed=8).tanh() if raw else None, z=z)


def matrix_of(policy: Fitted, i: int) -> torch.Tensor:
    """Rows of the basis at the i-th level, (D, D)."""
    unit = torch.eye(D, dtype=torch.float64).reshape(D, *IMAGE)
    return policy.coordinates(unit, DEEP[i : i + 1].expand(D)).reshape(D, D).mT


def check_bases() -> None:
    """Rows orthonormal, the inverse their transpose, in both directions; a band for every coordinate."""
    for basis in BASES.values():
        unit = torch.eye(D, dtype=torch.float64).reshape(D, *IMAGE)
        B = basis.coordinates(unit).reshape(D, D).mT
        close(B @ B.mT, np.eye(D), 0, 1e-12)
        close(basis.values(unit).reshape(D, D), B, 0, 1e-12)
        bands = basis.bands(IMAGE)
        assert bands.shape == IMAGE and int(bands.min()) >= 0 and int(bands.max()) < D


def check_cosines() -> None:
    """scipy's orthonormal DCT-II over the whole image and over blocks, the last ones shorter; colours turned."""
    x = _random(3, *IMAGE)
    turn = COLOURS
    for block in (0, 4):
        expected = torch.einsum("dc,bchw->bdhw", turn, x).numpy().copy()
        for axis, side in ((2, IMAGE[1]), (3, IMAGE[2])):
            edges = [*range(0, side, block or side), side]
            parts = [np.take(expected, range(a, b), axis) for a, b in itertools.pairwise(edges)]
            expected = np.concatenate([scipy.fft.dct(p, axis=axis, norm="ortho") for p in parts], axis)
        close(Cosine(turn, block).coordinates(x), expected, 1e-12, 1e-13)
    close(cosines(5), scipy.fft.dct(np.eye(5), axis=0, norm="ortho"), 0, 1e-14)


def check_reflections() -> None:
    """The first columns are the directions given, up to sign; and V of float32 loses no orthogonality."""
    directions = turned(9, seed=3)[:, :4]
    basis = Reflections.through(directions)
    unit = torch.eye(9, dtype=torch.float64)
    B = basis.values(unit)  # rows are basis vectors
    close((B[:4] @ directions).abs(), np.eye(4), 0, 1e-6)
    close(B @ B.mT, np.eye(9), 0, 1e-13)
    close(basis.coordinates(B), np.eye(9), 0, 1e-13)


def check_kls() -> None:
    """KL of two Gaussians with full covariances, by Cholesky factors, for every policy and level; sums as well."""
    q = forward.posterior(ABOVE, DEEP)
    for name, policy in {**FITTED, "calibrated": CALIBRATED}.items():
        x, prediction = situation(raw=name == "calibrated")
        assert isinstance(policy, Fitted)
        v = policy.of_step(ABOVE, DEEP, prediction).expand(x.shape)
        kl = Reverse(policy).kl(x, prediction, ABOVE, DEEP).expand(x.shape)
        for i in range(len(x)):
            B = matrix_of(policy, i)
            difference = (q.x_coefficient[i] * (x - prediction.x0)[i]).flatten()
            P = B.mT @ torch.diag(v[i].flatten()) @ B
            Q = q.variance[i] * torch.eye(D, dtype=torch.float64)
            expected = gaussian.kl_multivariate(difference, Q, torch.zeros(D).double(), P)
            close(kl[i].sum(), expected, 1e-9)
        close(Reverse(policy).kl_sum(x, prediction, ABOVE, DEEP), kl.flatten(1).sum(1), 1e-11)


def check_draws() -> None:
    """A draw is mean + A·noise with A Aᵀ the covariance B diag(v) Bᵀ of the step."""
    for policy in FITTED.values():
        _, prediction = situation()
        for i in range(4):
            one = Prediction(prediction.x0[i : i + 1], z=prediction.z[i : i + 1])
            s, t = ABOVE[i : i + 1], DEEP[i : i + 1]
            z = one.z
            assert z is not None
            many = Prediction(one.x0.expand(D + 1, *IMAGE), z=z.expand(D + 1, *IMAGE))
            noise = torch.cat([torch.zeros(1, D), torch.eye(D)]).double().reshape(D + 1, *IMAGE)
            drawn = Reverse(policy).draw(z.expand(D + 1, *IMAGE), many, s, t, noise).flatten(1)
            A = (drawn[1:] - drawn[0]).mT
            mean, v = Reverse(policy).step(z, one, s, t)
            close(drawn[0], mean.flatten(), 1e-12, 1e-14)
            B = matrix_of(policy, i)
            close(A @ A.mT, B.mT @ torch.diag(v.expand(1, *IMAGE).flatten()) @ B, 1e-10, 1e-12)


def check_tables() -> None:
    """log V at the nodes; halfway between two their mean; above the first V ∝ 1/SNR, below the last constant."""
    policy = FITTED["one a level"]
    assert isinstance(policy, FittedVariance)
    wanted = torch.tensor([6.0, 4.0, 2.25, 0.5, -5.0, -9.0], dtype=torch.float64)
    at = LAW.at(LAW.time_of(wanted))
    told = policy.log_error.flatten()
    expected = [told[0] - 2, told[0], (told[0] + told[1]) / 2, told[1], told[2], told[2]]
    found = policy.error(at, Prediction(torch.zeros(6, *IMAGE, dtype=torch.float64)))
    close(found.log().flatten(), torch.stack(expected), 1e-10)
    close(policy.mean_error(at), found.flatten(), 1e-12)


def check_optimum() -> None:
    """v = β̃ + (α_s c)² V is where E KL is least over the step's variance, for errors of variance V."""
    policy = FITTED["one a level"]
    nothing = Prediction(torch.zeros(4, *IMAGE, dtype=torch.float64))
    V, v = policy.error(DEEP, nothing).flatten(), policy.of_step(ABOVE, DEEP, nothing).flatten()
    q = forward.posterior(ABOVE, DEEP)

    def expected(v):
        rms = q.x_coefficient * V.sqrt()
        return gaussian.kl_from_difference(rms, q.variance, v)

    least = expected(v)
    assert bool((least < expected(v * 1.001)).all()) and bool((least < expected(v / 1.001)).all())


def check_rows() -> None:
    """What a policy says of an example is the same alone and in a batch of several levels, and needs both sides of it:
    at its own level a hybrid is one of its parts."""
    _, prediction = situation()
    hybrid, z = FITTED["hybrid"], prediction.z
    assert z is not None
    together = hybrid.error(DEEP, prediction).expand(4, *IMAGE)
    for i, part in enumerate(("local", "local", "in dct", "in dct")):
        alone = Prediction(prediction.x0[i : i + 1], z=z[i : i + 1])
        close(together[i], FITTED[part].error(DEEP[i : i + 1], alone)[0], 1e-12)

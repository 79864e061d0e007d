"""Gaussian densities and divergences against mpmath, quadrature and each other."""

import math

import mpmath as mp
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.errors import NumericalError, ShapeError
from nelbo.maths import gaussian
from tests.tables import refusals

F64 = torch.float64
laws = settings(derandomize=True, deadline=None, max_examples=150)
variance = st.floats(-12, 6).map(lambda e: 10.0**e)


def t(x):
    return torch.tensor(x, dtype=F64)


def random_covariance(generator, *shape):
    a = torch.randn(*shape, shape[-1], generator=generator, dtype=F64)
    return a @ a.mT + 0.1 * torch.eye(shape[-1], dtype=F64)


def test_density_and_entropy():
    x, w = np.polynomial.legendre.leggauss(200)
    mean, var = t(0.7), t(0.09)
    x, w = mean + 12 * var.sqrt() * t(x), 12 * var.sqrt() * t(w)
    log_p = gaussian.log_density(x, mean, var)
    assert abs((w * log_p.exp()).sum().item() - 1) < 1e-13
    assert abs((w * log_p.exp() * -log_p).sum().item() - gaussian.entropy(var).item()) < 1e-12


def test_kl_against_quadrature():
    x, w = np.polynomial.hermite_e.hermegauss(40)
    for args in ((0.0, 1.0, 0.0, 1.0), (0.3, 0.5, -1.0, 2.0), (2.0, 3.0, 1.9, 0.2)):
        q, p = (t(args[0]), t(args[1])), (t(args[2]), t(args[3]))
        points = q[0] + q[1].sqrt() * t(x)
        gap = gaussian.log_density(points, *q) - gaussian.log_density(points, *p)
        assert abs(gaussian.kl(*q, *p) - (t(w) * gap).sum() / math.sqrt(2 * math.pi)) < 1e-12
        assert p == q or abs(gaussian.kl(*p, *q) - gaussian.kl(*q, *p)) > 1e-2  # the laws exchanged


@laws
@given(st.floats(-10, 10), variance, variance)
def test_kl_from_difference_exact(difference, var_q, var_p):
    with mp.workdps(60):
        r = mp.mpf(var_q) / mp.mpf(var_p)
        exact = (r - 1 - mp.log(r)) / 2 + mp.mpf(difference) ** 2 / (2 * mp.mpf(var_p))
        value = gaussian.kl_from_difference(t(difference), t(var_q), t(var_p))
        assert mp.fabs(mp.mpf(value.item()) - exact) <= 1e-13 * exact + mp.mpf("1e-300")


@laws
@given(variance, st.floats(-15, -0.1).map(lambda e: 10.0**e), st.sampled_from([-1, 1]))
def test_kl_of_nearly_equal_variances_keeps_its_digits(var_p, size, sign):
    var_q = var_p * (1 + sign * size)
    with mp.workdps(60):
        r = mp.mpf(var_q) / mp.mpf(var_p)
        exact = (r - 1 - mp.log(r)) / 2
        value = gaussian.kl_from_difference(t(0.0), t(var_q), t(var_p))
        assert mp.fabs(mp.mpf(value.item()) - exact) <= 1e-12 * exact
    assert value >= 0


def test_kl_of_equal_laws_and_limits():
    assert gaussian.kl(t(3.0), t(0.2), t(3.0), t(0.2)) == 0.0
    assert gaussian.kl(t(0.0), t(0.0), t(0.0), t(1.0)) == torch.inf
    assert gaussian.kl(t(0.0), t(-1.0), t(0.0), t(1.0)).isnan()


def test_kl_derivatives():
    difference, var_q, var_p = (
        t(v).requires_grad_() for v in ([0.0, 0.3, 1.0], [1.0, 1e-8, 5.0], [1.0, 2.0, 5.0 + 1e-9])
    )
    slopes = torch.autograd.grad(
        gaussian.kl_from_difference(difference, var_q, var_p).sum(), (difference, var_q, var_p)
    )
    d, q, p = difference.detach(), var_q.detach(), var_p.detach()
    torch.testing.assert_close(slopes[0], d / p, rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes[1], 0.5 * (q - p) / (p * q), rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes[2], 0.5 * ((p - q) - d**2) / p**2, rtol=1e-12, atol=1e-25)
    assert torch.autograd.gradcheck(
        gaussian.kl, (t([0.1]).requires_grad_(), t([0.8]), t([0.2]), t([0.9]).requires_grad_())
    )


def test_any_argument_of_the_kl_may_have_a_batch():
    one = [t([0.3, -0.2]), random_covariance(torch.Generator().manual_seed(1), 2)] * 2
    one[2:] = [t([1.0, 0.5]), random_covariance(torch.Generator().manual_seed(2), 2)]
    expected = gaussian.kl_multivariate(*one)
    for k in range(4):
        many = [v.expand(5, *v.shape) if i == k else v for i, v in enumerate(one)]
        torch.testing.assert_close(gaussian.kl_multivariate(*many), expected.expand(5))


def test_kl_multivariate_against_torch_and_its_symmetries():
    generator = torch.Generator().manual_seed(1)
    mean_q, mean_p = torch.randn(2, 4, 3, generator=generator, dtype=F64)
    cov_q, cov_p = random_covariance(generator, 4, 3), random_covariance(generator, 3)
    value = gaussian.kl_multivariate(mean_q, cov_q, mean_p, cov_p)
    laws = [torch.distributions.MultivariateNormal(m, c) for m, c in ((mean_q, cov_q), (mean_p, cov_p.expand(4, 3, 3)))]
    torch.testing.assert_close(value, torch.distributions.kl_divergence(*laws), rtol=1e-12, atol=1e-12)
    assert ((value - gaussian.kl_multivariate(mean_p, cov_p, mean_q, cov_q)).abs() > 0.1).all()
    a = torch.randn(3, 3, generator=generator, dtype=F64)  # invariance under x -> A x
    moved = gaussian.kl_multivariate(mean_q @ a.mT, a @ cov_q @ a.mT, mean_p @ a.mT, a @ cov_p @ a.mT)
    torch.testing.assert_close(moved, value, rtol=1e-9, atol=1e-9)
    assert gaussian.kl_multivariate(mean_q, cov_q, mean_q, cov_q).abs().max() < 1e-14


def test_kl_multivariate_has_derivatives():
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(2, 2, generator=generator, dtype=F64)
    cov = random_covariance(generator, 2, 2)
    args = [v.clone().requires_grad_() for v in (mean[0], cov[0], mean[1], cov[1])]
    symmetric = lambda m, c, n, d: gaussian.kl_multivariate(m, (c + c.mT) / 2, n, (d + d.mT) / 2)  # noqa: E731
    assert torch.autograd.gradcheck(symmetric, args)


ZERO, EYE = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
test_kl_multivariate_refuses = refusals(
    (lambda: gaussian.kl_multivariate(ZERO, EYE, ZERO, -EYE), NumericalError, r"covariance_p .* not positive definite"),
    (lambda: gaussian.kl_multivariate(ZERO, EYE * torch.nan, ZERO, EYE), NumericalError, "covariance_q"),
    (lambda: gaussian.kl_multivariate(ZERO, torch.eye(3, dtype=F64), ZERO, EYE), ShapeError, "covariances"),
)


def test_dtype_and_broadcast():
    out = gaussian.kl(torch.zeros(3, 1), torch.ones(4), torch.zeros(()), torch.ones(()))
    assert out.shape == (3, 4) and out.dtype == torch.float32

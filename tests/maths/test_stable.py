"""Stable forms against mpmath, to the digits they promise, and their derivatives."""

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.maths import stable

F64 = torch.float64
laws = settings(derandomize=True, deadline=None, max_examples=150)


def t(x):
    return torch.tensor(x, dtype=F64)


def close(value, exact, rtol):
    value = mp.mpf(float(value))
    assert mp.fabs(value - exact) <= rtol * mp.fabs(exact) + mp.mpf("1e-320"), (value, exact)


positive = st.floats(-18, 2.8).map(lambda e: 10.0**e)
real = st.floats(-700, 700)


@laws
@given(positive)
def test_log1mexp(x):
    with mp.workdps(60):
        close(stable.log1mexp(t(x)), mp.log1p(-mp.exp(-mp.mpf(x))), 1e-14)


def test_log1mexp_ends():
    value = stable.log1mexp(t([0.0, torch.inf, -1.0]))
    assert value[0] == -torch.inf and value[1] == 0.0 and value[2].isnan()


@laws
@given(st.floats(-14, 0).map(lambda e: 10.0**e), st.sampled_from([-0.999, 1.0, 30.0]))
def test_x_minus_log1p_keeps_relative_accuracy(size, sign):
    x = size * sign
    with mp.workdps(60):
        close(stable.x_minus_log1p(t(x)), mp.mpf(x) - mp.log1p(mp.mpf(x)), 1e-14)


@laws
@given(real, real)
def test_expm1_difference(a, b):
    with mp.workdps(700):
        exact = mp.exp(mp.mpf(a)) - mp.exp(mp.mpf(b))
        close(stable.expm1_difference(t(a), t(b)), exact, 1e-13 * max(1.0, abs(a - b)))
    assert stable.expm1_difference(t(a), t(b)) == -stable.expm1_difference(t(b), t(a))


def test_expm1_difference_beats_subtraction():
    a, b = t(12.0 + 2.0**-40), t(12.0)
    exact = float(mp.exp(12) * mp.expm1(mp.mpf(2) ** -40))
    assert abs(stable.expm1_difference(a, b).item() / exact - 1) < 1e-14
    assert abs((a.exp() - b.exp()).item() / exact - 1) > 1e-6
    assert stable.expm1_difference(t(-800.0), t(800.0)) == -torch.inf


UNARY = {
    "log1mexp": [1e-9, 0.3, 0.699, 0.701, 5.0, 700.0],
    "x_minus_log1p": [-0.9, -0.2501, -0.2499, -1e-9, 0.0, 1e-9, 0.2499, 0.2501, 1e9],
}
DERIVATIVES = {
    "log1mexp": lambda x: 1 / mp.expm1(x),
    "x_minus_log1p": lambda x: x / (1 + x),
}


@pytest.mark.parametrize("name", UNARY)
def test_derivatives(name):
    x = t(UNARY[name]).requires_grad_()
    (slope,) = torch.autograd.grad(getattr(stable, name)(x).sum(), x)
    with mp.workdps(400):
        for value, point in zip(slope.tolist(), UNARY[name], strict=True):
            exact = DERIVATIVES[name](mp.mpf(point))
            assert mp.fabs(value - exact) <= 1e-12 * mp.fabs(exact) + mp.mpf("1e-300"), (name, point, value, exact)


def test_derivatives_of_differences():
    a, b = t([1.0, 1.0, 2.0, -3.0]).requires_grad_(), t([1.0, 2.0, 1.0, -700.0]).requires_grad_()
    slopes = torch.autograd.grad(stable.expm1_difference(a, b).sum(), (a, b))
    torch.testing.assert_close(slopes[0], a.exp().detach())
    torch.testing.assert_close(slopes[1], -b.exp().detach())


def test_dtype_and_broadcast():
    for name in UNARY:
        assert getattr(stable, name)(torch.tensor([0.5])).dtype == torch.float32
    a, b = torch.ones(3, 1, dtype=F64), torch.zeros(4, dtype=F64)
    assert stable.expm1_difference(a, b).shape == (3, 4)

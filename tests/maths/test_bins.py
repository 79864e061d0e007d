"""Bin masses against mpmath: both tails, any width, no clamp, and masses that sum to one."""

import math
import random

import mpmath as mp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.errors import DomainError
from nelbo.maths import bins
from tests.tables import refusals

torch.set_num_threads(1)
F64 = torch.float64
INF = math.inf
laws = settings(derandomize=True, deadline=None, max_examples=200)


def t(x):
    return torch.tensor(x, dtype=F64)


def exact_log_mass(a, b):
    """log(Phi(b) - Phi(a)) in 60 digits; call with mp.workdps(60)."""
    a, b = mp.mpf(a), mp.mpf(b)
    if a + b > 0:
        a, b = -b, -a
    tail = lambda x: mp.erfc(-x / mp.sqrt(2)) / 2  # noqa: E731
    if a < 0 < b:
        return mp.log1p(-(tail(a) + tail(-b)))
    return mp.log(tail(b) - tail(a))


def errors(a, b, value):
    """Relative errors of the log mass and of the mass."""
    with mp.workdps(60):
        exact = exact_log_mass(a, b)
        off = mp.mpf(value) - exact
        of_log = float(mp.fabs(off / exact)) if mp.fabs(exact) > mp.mpf("1e-300") else 0.0
        return of_log, float(mp.fabs(mp.expm1(off)))


def worst(pairs, value):
    return [
        max(column) for column in zip(*(errors(*p, v) for p, v in zip(pairs, value.tolist(), strict=True)), strict=True)
    ]


def intervals(count):
    rng = random.Random(0)
    pairs = []
    while len(pairs) < count:
        width = 10 ** rng.uniform(-12, 2.5)
        centre = rng.choice(
            [rng.uniform(-60, 60), rng.gauss(0, 1.5), rng.gauss(0, 1e-3), 2 / width * rng.uniform(0.9, 1.1)]
        )
        a, b = centre - width / 2, centre + width / 2
        if abs(centre) <= 60 and a < b:
            pairs.append((a, b))
    return pairs


def test_relative_accuracy_out_to_60_sigma():
    pairs = intervals(1200)
    a, b = t(pairs).unbind(-1)
    of_log, of_mass = worst(pairs, bins.interval_log_mass(a, b))
    assert of_log < 1e-11 and of_mass < 1e-11


@laws
@given(st.floats(-60, 60))
def test_open_tails(x):
    upper_tail = bins.interval_log_mass(t(x), t(INF))
    lower_tail = bins.interval_log_mass(t(-INF), t(x))
    with mp.workdps(60):
        for value, z in ((lower_tail, mp.mpf(x)), (upper_tail, -mp.mpf(x))):
            exact = mp.log(mp.erfc(-z / mp.sqrt(2)) / 2) if z < 0 else mp.log1p(-mp.erfc(z / mp.sqrt(2)) / 2)
            assert mp.fabs(mp.mpf(value.item()) - exact) <= 1e-12 * mp.fabs(exact) + mp.mpf("1e-300")


def test_ends():
    assert bins.interval_log_mass(t(-INF), t(INF)) == 0.0
    assert (bins.interval_log_mass(t([1.0, -INF, INF]), t([1.0, -INF, INF])) == -INF).all()
    assert bins.interval_log_mass(t(1.0), t(0.0)).isnan()
    assert bins.interval_log_mass(t(-INF), t(1e300)) == 0.0
    assert bins.interval_log_mass(t(-1e300), t(-3.0)).isfinite()


@laws
@given(st.floats(-20, 20), st.floats(1e-6, 10), st.floats(1e-6, 10))
def test_adjacent_intervals_add_and_reflection(a, first, second):
    b = a + first
    c = b + second
    parts = torch.logaddexp(bins.interval_log_mass(t(a), t(b)), bins.interval_log_mass(t(b), t(c)))
    torch.testing.assert_close(parts, bins.interval_log_mass(t(a), t(c)), rtol=1e-12, atol=1e-12)
    assert bins.interval_log_mass(t(-c), t(-a)) == bins.interval_log_mass(t(a), t(c))


def test_seams_between_the_branches():
    """Neighbouring points on both sides of h = 1/2, |m| h = 1 and b = 0 agree."""
    eps = 1e-12
    m = t([0.3, 0.0, 1.9, 20.0, 60.0, 2.0, 1.0])
    h = t([0.5, 0.5, 0.5, 1 / 20, 1 / 60, 2.0, 1.0])
    low = bins.interval_log_mass(m - h * (1 - eps), m + h * (1 - eps))
    high = bins.interval_log_mass(m - h * (1 + eps), m + h * (1 + eps))
    assert ((high - low).abs() < 3e-11).all()
    assert (high >= low - 1e-13 * low.abs()).all()


def slopes(a, b):
    a, b = t(a).requires_grad_(), t(b).requires_grad_()
    return torch.autograd.grad(bins.interval_log_mass(a, b).sum(), (a, b))


def test_derivatives():
    pairs = [
        *intervals(150),
        (-1.0, 2.0),
        (5.0, 5.0 + 1e-9),
        (-40.0, 3.0),
        (50.0, 90.0),
        (-3.0, INF),
        (-INF, 30.0),
        (40.0, INF),
    ]
    by_lower, by_upper = slopes(*zip(*pairs, strict=True))
    with mp.workdps(60):
        for (a, b), da, db in zip(pairs, by_lower.tolist(), by_upper.tolist(), strict=True):
            upper = mp.mpf(b) if b < INF else mp.mpf(1000)
            log_mass = exact_log_mass(a if a > -INF else -1000, upper)
            for x, value, sign in ((a, da, -1), (b, db, 1)):
                slope = 0.0 if math.isinf(x) else sign * mp.exp(-(mp.mpf(x) ** 2) / 2 - log_mass) / mp.sqrt(2 * mp.pi)
                assert mp.fabs(value - slope) <= 1e-9 * mp.fabs(slope) + mp.mpf("1e-14"), (a, b, x, value, slope)
    empty = slopes([0.0, -INF], [0.0, INF])
    assert all(v.isfinite().all() for v in empty)


def test_derivative_by_the_mean_of_a_narrow_bin():
    """d/dmean = (x_k - mean)/std^2 for a bin of width 1e-9 std: the two edge terms, each 1e9, cancel analytically."""
    mean = t([0.1, -0.4]).requires_grad_()
    codes = torch.tensor([60000, 5])
    bins.bin_log_mass(codes, mean, t(30.0), 2**16, -1e-3, 1e-3).sum().backward()
    x = bins.code_values(codes, 2**16, -1e-3, 1e-3)
    torch.testing.assert_close(mean.grad, ((x - mean) / 900).detach(), rtol=1e-10, atol=0)


def test_second_derivative_is_not_nan():
    mean = t([0.0, 0.3, 5.0, -40.0]).requires_grad_()
    value = bins.bin_log_mass(torch.tensor([0, 128, 255, 17]), mean, t(0.05), 256, -1.0, 1.0).sum()
    (slope,) = torch.autograd.grad(value, mean, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), mean)
    assert (curvature <= 1e-9).all()  # log-concave in the mean


@pytest.mark.parametrize("count", [2, 17, 256])
def test_edges(count):
    edges = bins.bin_edges(count, -1.0, 1.0)
    values = bins.code_values(torch.arange(count), count, -1.0, 1.0)
    assert edges.shape == (count + 1,) and edges[0] == -INF and edges[-1] == INF
    half = 1 / (count - 1)
    torch.testing.assert_close(edges[1:-1] - values[:-1], torch.full((count - 1,), half, dtype=F64), rtol=0, atol=3e-16)
    torch.testing.assert_close(values[1:] - edges[1:-1], torch.full((count - 1,), half, dtype=F64), rtol=0, atol=3e-16)
    assert values[0] == -1 and values[-1] == 1
    assert bins.bin_edges(count, 0, 255, torch.float32).dtype == torch.float32


def test_bin_mass_exact_edges_in_mpmath():
    """K = 256 on [-1, 1]: the exact rational edges, std down to 1e-3, up to 60 sigma away."""
    rng = random.Random(3)
    codes = [rng.randrange(1, 255) for _ in range(200)]
    stds = [10 ** rng.uniform(-3, 0) for _ in codes]
    means = [(2 * k - 255) / 255 + s * rng.uniform(-59, 59) for k, s in zip(codes, stds, strict=True)]
    value = bins.bin_log_mass(torch.tensor(codes), t(means), t(stds), 256, -1.0, 1.0)
    with mp.workdps(60):
        for k, mean, std, v in zip(codes, means, stds, value.tolist(), strict=True):
            a, b = ((mp.mpf(2 * k - 255 + i) / 255 - mp.mpf(mean)) / mp.mpf(std) for i in (-1, 1))
            of_log, of_mass = errors(a, b, v)
            assert of_log < 1e-11 and of_mass < 1e-10


def test_pmf_is_the_bin_mass_on_another_range():
    mean, std = t([[0.3], [5.0]]), t([0.1, 2.0, 9.0])
    log_p = bins.log_pmf(mean, std, 10, 0.0, 9.0)
    assert log_p.shape == (2, 3, 10)
    for k in range(10):
        torch.testing.assert_close(bins.bin_log_mass(torch.tensor(k), mean, std, 10, 0.0, 9.0), log_p[..., k])
    assert log_p[1, 0].argmax() == 5
    assert log_p[1, 0].max() == pytest.approx(0.0, abs=1e-6)


def test_dtype():
    log_p = bins.log_pmf(torch.zeros(3), torch.ones(()), 8, -1.0, 1.0)
    assert log_p.dtype == torch.float32 and abs(log_p.exp().sum(-1) - 1).max() < 1e-6
    mixed = bins.bin_log_mass(torch.tensor([3]), t([0.1]), 0.3, 8, -1.0, 1.0)  # the plain number is not rounded
    assert mixed == bins.bin_log_mass(torch.tensor([3]), t([0.1]), t(0.3), 8, -1.0, 1.0) and mixed.dtype == F64


ZERO, ONE, CODE = t([0.0]), t([1.0]), torch.tensor([0])
test_nonsense_is_refused = refusals(
    (
        lambda: bins.bin_log_mass(torch.tensor([-1, 256]), ZERO, ONE, 256, -1.0, 1.0),
        DomainError,
        r"codes span -1\.\.256",
    ),
    (lambda: bins.bin_log_mass(t([0.5]), ZERO, ONE, 256, -1.0, 1.0), DomainError, "integer codes"),
    (lambda: bins.bin_log_mass(CODE, ZERO, ZERO, 256, -1.0, 1.0), DomainError, "standard deviation"),
    (lambda: bins.bin_log_mass(CODE, ZERO, -ONE, 256, -1.0, 1.0), DomainError, "standard deviation"),
    (lambda: bins.bin_log_mass(CODE, ZERO, t([math.nan]), 256, -1.0, 1.0), DomainError, "standard deviation"),
    (lambda: bins.bin_edges(1, -1.0, 1.0), "1 bins"),
    (lambda: bins.log_pmf(ZERO, ONE, 256, 1.0, -1.0), "low < high"),
)

"""Conversions between ε̂, x̂ and v̂: every pair there and back, on every path, and against the truth."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nelbo.errors import UnknownNameError
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Output, Prediction, convert
from tests.process import checks

real = st.floats(-10, 10)


def test_each_output_says_the_truth():
    checks.check_conversions()


@pytest.mark.parametrize("path", Path)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(Output, Output)))
@given(logsnr=st.floats(-3, 3), x=real, eps=real)
def test_round_trip(path, source, target, logsnr, x, eps):
    """1e-12 of the size of what is converted, for |λ| ≤ 3; beyond, σ/α amplifies the rounding of z by as much."""
    t = Levels(torch.zeros(1), torch.tensor([logsnr], dtype=torch.float64), path)
    alpha, sigma = t.alpha.numpy(), t.sigma.numpy()
    z = torch.from_numpy(alpha * x + sigma * eps)
    value = torch.from_numpy(checks.said(source, alpha * 0 + x, alpha * 0 + eps, alpha, sigma))
    there = convert(source, target, value, z, t)
    checks.close(convert(target, source, there, z, t), value, 0, 1e-12 * (1 + abs(x) + abs(eps)))
    expected = checks.said(target, alpha * 0 + x, alpha * 0 + eps, alpha, sigma)
    checks.close(there, expected, 0, 1e-12 * (1 + abs(x) + abs(eps)))


def test_a_name_is_parsed_at_the_edge():
    assert Output.parse("eps") is Output.EPS and Output.parse(Output.V) is Output.V
    with pytest.raises(UnknownNameError, match=r"unknown network output 'epsilon'\nhint: .*choose one of: eps, v, x0"):
        Output.parse("epsilon")


def test_clipping_touches_x0_only():
    log_probs = torch.zeros(2, 3)
    clipped = Prediction(torch.tensor([[-2.0], [0.5]]), log_probs, torch.ones(2, 1)).clipped(-1, 1)
    assert clipped.x0.flatten().tolist() == [-1.0, 0.5]
    assert clipped.log_probs is log_probs and clipped.variance is not None

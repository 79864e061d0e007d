"""Quantiles of Student's t against those of scipy."""

import pytest
import torch
from scipy import stats

from nelbo.maths import student


@pytest.mark.parametrize(("freedom", "error"), [(2.0, 2e-3), (2.5, 5e-5), (4.0, 1e-5), (7.3, 1e-5), (60.0, 1e-6)])
def test_quantiles(freedom, error):
    for tail in (0.25, 0.05, 0.005, 1e-4, 1e-6):
        exact = stats.t.isf(tail, freedom)
        assert abs(float(student.quantile(tail, torch.tensor(freedom, dtype=torch.float64))) / exact - 1) < error


def test_shapes():
    freedom = torch.tensor([[3.0, 5.0], [8.0, 100.0]], dtype=torch.float64)
    t = student.quantile(0.01, freedom)
    assert t.shape == (2, 2) and bool((t.flatten().diff() < 0).all())  # the fewer degrees, the larger

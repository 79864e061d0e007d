"""What takes minutes: exact densities of all oracles up to 64 dimensions, probes there, the bound on every code."""

from __future__ import annotations

import math

import pytest
import torch

import nelbo
from nelbo.likelihood import RK4, ode, trace
from tests.likelihood import checks

pytestmark = pytest.mark.slow
PATHS = ("vp", "ve", "flow")
CASES = [(path, kind, D) for path in PATHS for kind in (checks.gaussian, checks.mixture) for D in (16, 64)]


@pytest.mark.parametrize(("path", "kind", "D"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_exact_up_to_64_dimensions(path, kind, D):
    """log p(z_1) = log q(z_1) to 1e-5 nats with the exact trace; with 12 probes within 4 standard errors of it."""
    model, z, exact = checks.at_first(kind(D), path, 2)
    assert float((checks.log_density(model, z, RK4(80)) - exact).abs().max()) <= 1e-5
    signs = [trace.rademacher(1, torch.arange(2), 0, p, (D,), z.device) for p in range(12)]
    end, flow = ode.log_density(model, z, solver=RK4(80), probes=signs)
    error = flow.std(0) / math.sqrt(12)
    assert bool(((end + flow.mean(0) - exact).abs() <= 4 * error + 1e-5).all())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", checks.KINDS)
def test_the_discrete_bound_over_all_codes(path, kind):
    """Σ_x P(x) (value + log P(x)) = KL(P ‖ model) + slack ≥ 0, all 64 codes of the oracle with their weights.

    Exact in the data, so that what is left is the noise of the draws and 2e-3 nats of the solves.
    """
    codes = torch.cartesian_prod(*[torch.arange(4)] * 3)
    log_P = checks.CODES.log_prob(codes)
    for first in (2.0, 5.0):
        law = nelbo.schedules.logsnr_linear(first, -8.0).on(path)
        model = checks.CODES.model(law, nelbo.grids.continuous())
        result = nelbo.ode_likelihood(
            model, codes, steps=32, draws=2, dequantisation=kind, per_example=True, precision="float64"
        )
        assert result.per_example is not None
        excess = float((log_P.exp() * (result.per_example.nats + log_P)).sum())
        error = float((log_P.exp() * result.per_example.standard_error).square().sum().sqrt())
        assert excess >= -4 * error - 2e-3, (first, excess, error)

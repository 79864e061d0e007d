"""Bugs of schedules and chains in the wild: the wrong value, the right one, and that ours is the right one."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound import terms
from nelbo.bound.checks import NelboWarning
from nelbo.errors import DomainError, UsageError
from nelbo.testing import at_noise
from tests.expected import early_end, untrained

pytestmark = untrained

BETAS = np.linspace(1e-4, 2e-2, 1000)
BAR = np.cumprod(1 - BETAS)
SCALED = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
"""Stable Diffusion's betas, `scaled_linear`."""


def exact_noise(betas: np.ndarray) -> np.ndarray:
    """1 − ᾱ_i in 60 digits."""
    with mpmath.workdps(60):
        bar, noise = mpmath.mpf(1), []
        for beta in betas:
            bar *= 1 - mpmath.mpf(float(beta))
            noise.append(float(1 - bar))
    return np.array(noise)


@pytest.mark.parametrize("betas", [BETAS, SCALED], ids=["linear", "scaled_linear"])
def test_float32_cumprod(betas):
    """diffusers' alphas_cumprod is float32: 1 − ᾱ is off by up to 3e-4 of itself at the first steps."""
    single = torch.cumprod(1 - torch.from_numpy(betas).float(), 0)
    wrong = (1 - single.numpy()).astype(np.float64)
    right = exact_noise(betas)
    off = np.abs(wrong / right - 1)
    assert 1e-5 < off[:10].max() < 1e-2
    ours = nelbo.schedules.from_betas(betas).at_index(torch.arange(1000)).sigma.square().numpy()
    assert np.abs(ours / right - 1).max() < 1e-12


def test_half_precision_says_that_the_first_levels_are_clean():
    """stable-diffusion-webui#14071: in float16 ᾱ = 1 for the first steps. Refused, with the level."""
    half = torch.from_numpy(BAR).half()
    assert int((half == 1).sum()) >= 2
    with pytest.raises(DomainError, match=r"must lie strictly between 0 and 1"):
        nelbo.schedules.from_alphas_cumprod(half)


def test_cosine_begins_below_one():
    """GenerativeModels#489, MONAI#8427: cosine tables with ᾱ = 1 at the first level divide by zero."""
    u = np.linspace(0, 1, 1000)
    wrong = np.cos(u * np.pi / 2) ** 2  # no offset and both ends
    assert wrong[0] == 1.0
    with pytest.raises(DomainError, match="strictly between 0 and 1"):
        nelbo.schedules.from_alphas_cumprod(wrong)
    assert bool(torch.isfinite(nelbo.schedules.cosine().table).all())


def test_nonzero_terminal_snr():
    """Stable Diffusion's table ends at ᾱ = 0.0047: L_T is 0.0034 bits/dim for unit variance, never dropped."""
    table = nelbo.schedules.from_betas(SCALED)
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nelbo.from_callable(lambda z, t: z, schedule=table, domain=nelbo.DataDomain((16,)))
    bar = float(np.cumprod(1 - SCALED)[-1])
    expected = 0.5 * (bar * float(x.square().mean()) - bar - math.log1p(-bar)) / math.log(2)
    with pytest.warns(NelboWarning, match=r"the prior term is 0\.003\d* bits/dim"):
        bound = nelbo.evaluate(model, x, estimator="stratified", precision="float64")
    assert bound.terms.prior.bits_per_dim == pytest.approx(expected, rel=1e-9) and 0.003 < expected < 0.004
    usual = nelbo.from_callable(lambda z, t: z, schedule=nelbo.schedules.linear(), domain=nelbo.DataDomain((16,)))
    quiet = nelbo.evaluate(usual, x, estimator="stratified", precision="float64")
    assert 0 < quiet.terms.prior.bits_per_dim < 1e-4 and not any("prior" in w for w in quiet.warnings)


def test_a_chain_that_stops_early_pays_for_it():
    """T = 200 of β up to 0.02 ends at ᾱ = 0.13: samplers start from N(0, I) all the same; the bound pays for it."""
    table = nelbo.schedules.linear(200)
    model = nelbo.from_callable(lambda z, t: z, schedule=table, domain=nelbo.DataDomain((4,), 256))
    codes = torch.full((8, 4), 255)
    with pytest.warns(UserWarning, match=r"signal 0\.36.* of the whole"):
        bound = nelbo.evaluate(model, codes, estimator="stratified")
    bar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 200))[-1]
    expected = 0.5 * (bar - bar - math.log1p(-bar)) / math.log(2)
    assert bar == pytest.approx(0.13, abs=0.005) and bound.terms.prior.bits_per_dim == pytest.approx(expected, rel=1e-9)


def test_zero_terminal_snr_is_refused_and_its_patch_is_used_as_given():
    """diffusers' rescale_betas_zero_snr ends at ᾱ = 0, patched to 2⁻²⁴: no log-SNR, or −16.6.

    On DDPM's linear table the level before has ᾱ = 4e-9 < 2⁻²⁴: the patch makes a negative β, and no chain.
    """

    def rescaled(betas):
        root = np.sqrt(np.cumprod(1 - betas))
        return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2

    for betas in (BETAS, SCALED):
        assert rescaled(betas)[-1] == 0
        with pytest.raises(DomainError, match=r"strictly between 0 and 1"):
            nelbo.schedules.from_alphas_cumprod(rescaled(betas))
    with pytest.raises(DomainError, match=r"does not fall from level 999 to 1000.*\nhint: .*zero terminal SNR"):
        nelbo.schedules.from_alphas_cumprod(np.append(rescaled(BETAS)[:-1], 2.0**-24))
    patched = nelbo.schedules.from_alphas_cumprod(np.append(rescaled(SCALED)[:-1], 2.0**-24))
    assert float(patched.table[-1]) == pytest.approx(-24 * math.log(2), rel=1e-6)
    model = nelbo.from_callable(
        lambda z, t: z, schedule=patched, domain=nelbo.DataDomain((2,), 256), predicts="v", variance="beta"
    )
    bound = nelbo.evaluate(model, torch.tensor([[3, 200], [17, 90], [0, 1]]), estimator="stratified")
    assert math.isfinite(bound.bits_per_dim) and bound.terms.prior.bits_per_dim < 1e-7


def test_strided_steps_take_the_previous_level_from_the_grid():
    """MONAI respaces and keeps t − 1: its KLs are of other steps, and their sum is far below −log p(x): no bound.

    diffusers#11347, #12633: a stride T // K is not the grid either.
    """
    data = nelbo.exact.GaussianData([0.0] * 4, torch.eye(4, dtype=torch.float64) * 0.3)
    table = nelbo.schedules.linear()
    model = data.model(table, nelbo.grids.even(200))
    x = data.sample(64)
    make = torch.Generator().manual_seed(1)
    levels, full = model.levels(), table.at_index(torch.arange(1000))

    def noise():
        return torch.randn(x.shape, generator=make, dtype=torch.float64)

    ends = terms.prior(model, x, levels[-1:])
    ends = ends + at_noise.reconstruction(model, x, x, noise(), levels[:1].expand(64))
    totals = {"wrong": ends, "ours": ends}
    for j in range(1, len(levels)):
        index, eps = int(levels.index[j]), noise()
        t = levels[j : j + 1].expand(64)
        for name, s in (("wrong", full[index - 1 : index]), ("ours", levels[j - 1 : j])):
            totals[name] = totals[name] + at_noise.diffusion(model, x, eps, s.expand(64), t)
    nll = -float(data.log_prob(x).mean())
    bound = nelbo.evaluate(model, x, estimator="exhaustive", precision="float64")
    assert float(totals["wrong"].mean()) < nll - 1.0 < nll < float(totals["ours"].mean())
    error = math.hypot(float(totals["ours"].std()) / 8, bound.standard_error.estimator * 4 * math.log(2))
    assert abs(bound.bits_per_dim * 4 * math.log(2) - float(totals["ours"].mean())) < 4 * error


def test_a_stride_that_does_not_divide():
    """T = 1000 in 7 steps: a stride of 142 from the top never reaches the first level; the grid keeps both ends."""
    stride = list(range(0, 1000, 1000 // 7))[:7]
    assert stride[-1] != 999
    levels = nelbo.grids.even(7).levels(nelbo.schedules.linear(), True)
    assert levels.index is not None and levels.index[[0, -1]].tolist() == [0, 999] and len(levels) == 7


@early_end
def test_no_prior_term():
    """MONAI has no L_T: without it a chain that ends early gives less than −log p(x) of the exact model."""
    data = nelbo.exact.GaussianData([0.5], [[0.4]])
    model = data.model(nelbo.schedules.logsnr_linear(9.0, 0.0), nelbo.grids.continuous())
    x = data.sample(200)
    bound = nelbo.evaluate(model, x, estimator="stratified", precision="float64")
    nll = -float(data.log_prob(x).mean()) / math.log(2)
    wrong = bound.bits_per_dim - bound.terms.prior.bits_per_dim
    assert bound.bits_per_dim == pytest.approx(nll, abs=4 * bound.standard_error.estimator + 1e-9)
    assert wrong < nll - 0.1


def test_clipping_is_part_of_the_model():
    """improved-diffusion clips x̂ by default, which is another p_θ; here it is off by default and in the result."""
    table = nelbo.schedules.linear(50, 1e-3, 0.2)
    domain = nelbo.DataDomain((3,), 256)

    def fn(z, t):
        return 0.2 * z

    free, clipped = (nelbo.from_callable(fn, schedule=table, domain=domain, clip=c) for c in (False, True))
    codes = torch.arange(30).reshape(10, 3) * 8
    a, b = (nelbo.evaluate(m, codes, estimator="exhaustive") for m in (free, clipped))
    assert a.to_dict()["clipping"] is None and b.to_dict()["clipping"] == {"kind": "range", "low": -1.0, "high": 1.0}
    assert abs(a.bits_per_dim - b.bits_per_dim) > 0.1 and a.model["fingerprint"] != b.model["fingerprint"]


def test_a_velocity_on_a_table_is_refused():
    with pytest.raises(UsageError, match=r"which has no derivative\nhint: .*schedules\.flow"):
        nelbo.from_callable(
            lambda z, t: z, schedule=nelbo.schedules.linear(), domain=nelbo.DataDomain((3,)), predicts="velocity"
        )

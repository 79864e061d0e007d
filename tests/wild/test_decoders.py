"""Bugs of reconstruction terms in the wild: the wrong value, the right one, and that ours is the right one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import nelbo
from nelbo.errors import UsageError
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.prior import GaussianPrior
from nelbo.model.reverse import Beta, BetaTilde, LearnedRange
from nelbo.process.levels import Levels, Path
from nelbo.process.prediction import Prediction
from tests.expected import untrained

T = 1000
TABLE = nelbo.schedules.linear()
BETAS = np.linspace(1e-4, 2e-2, T)
BAR = np.cumprod(1 - BETAS)
LEVEL = Levels(torch.zeros(1), torch.tensor([9.0]).double(), Path.VP)


def bits(code: int, mean: float, std: float, bins: int = 256, low: float = -1.0, high: float = 1.0) -> float:
    """Our −log2 of the mass of one pixel."""
    domain = nelbo.DataDomain((1,), bins, low, high)
    prediction = Prediction(torch.tensor([[mean]], dtype=torch.float64))
    z = torch.zeros(1, 1, dtype=torch.float64)
    return float(DiscretizedGaussian(std**2).nll(torch.tensor([[code]]), z, LEVEL, prediction, domain)) / math.log(2)


def interval_bits(lower: float, upper: float, mean: float, std: float) -> float:
    """−log2 of the mass of N(mean, std²) in [lower, upper], in the tail that keeps digits."""
    a, b = (lower - mean) / std, (upper - mean) / std
    a, b = (-b, -a) if a > 0 else (a, b)
    return -float(stats.norm.logcdf(b) + np.log1p(-np.exp(stats.norm.logcdf(a) - stats.norm.logcdf(b)))) / math.log(2)


@pytest.mark.parametrize(("half", "shift"), [(1 / 127.5, -1.0), (1 / 510, 1.0)])
@pytest.mark.parametrize("std", [0.01, 0.05, 0.3])
def test_bin_half_width(half, shift, std):
    """pixel-cnn#33: half a bin of 256 on [−1, 1] is 1/255; 1/127.5 and 1/510 move L_0 by about one bit/dim."""
    x = -1 + 2 * 130 / 255
    wrong = interval_bits(x - half, x + half, x + 0.3 * std, std)
    right = interval_bits(x - 1 / 255, x + 1 / 255, x + 0.3 * std, std)
    assert bits(130, x + 0.3 * std, std) == pytest.approx(right, rel=1e-9)
    assert wrong - right == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize(("pixels", "right"), [(2, 28.9), (4, 141.0)])
def test_clamp_1e_12_caps_a_pixel_at_39_9_bits(pixels, right):
    """improved-diffusion's losses.py in float32: log(max(Φ(b) − Φ(a), 1e-12)), Φ by tanh; not a bound in the tails."""
    x, mean, std = np.float32(0.0), np.float32(2 * pixels / 255), np.float32(0.002)

    def cdf(v):
        return np.float32(0.5) * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (v + np.float32(0.044715) * v**3)))

    mass = cdf((x + np.float32(1 / 255) - mean) / std) - cdf((x - np.float32(1 / 255) - mean) / std)
    wrong = -math.log2(max(float(mass), 1e-12))
    assert wrong == pytest.approx(39.86, abs=0.01)
    middle = -1 + 2 * 128 / 255
    ours = bits(128, middle + 2 * pixels / 255, 0.002)
    assert ours == pytest.approx(interval_bits(-1 / 255, 1 / 255, 2 * pixels / 255, 0.002), rel=1e-9)
    assert ours == pytest.approx(right, abs=0.5)


def test_edge_test_with_range_0_1():
    """MONAI tests for edges at ±0.999, but its range is (0, 1) by default: black loses its tail."""
    half = 1 / 510
    wrong = interval_bits(-half, half, 0.0, 0.02)  # 0 > −0.999: treated as a middle bin
    ours = bits(0, 0.0, 0.02, low=0.0, high=1.0)
    assert ours == pytest.approx(-math.log2(stats.norm.cdf(half / 0.02)), rel=1e-9)
    assert wrong == pytest.approx(3.68, abs=0.01) and ours == pytest.approx(0.888, abs=0.01)


def test_eight_bits_are_not_everywhere():
    """1/255 on data of 17 codes charges log2(255/16) bits/dim too much: the half width follows from the bins."""
    x = -1 + 2 * 8 / 16
    assert bits(8, x, 0.3, bins=17) == pytest.approx(interval_bits(x - 1 / 16, x + 1 / 16, x, 0.3), rel=1e-9)
    wrong = interval_bits(x - 1 / 255, x + 1 / 255, x, 0.3)
    assert wrong - bits(8, x, 0.3, bins=17) == pytest.approx(math.log2(255 / 16), abs=0.02)


def test_L0_variance_clamped_1e_20():
    """diffusers and MONAI clamp the posterior variance at t = 1, which is 0, to 1e-20: a pixel costs 0 or 27.6 nats."""
    middle = -1 + 2 * 128 / 255
    wrong = [-math.log(max(stats.norm.cdf(a) - stats.norm.cdf(b), 1e-12)) for a, b in ((4e7, -4e7), (9e7, 1e7))]
    assert wrong == pytest.approx([0.0, 27.63], abs=0.01)
    model = nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=nelbo.DataDomain((1,), 256))
    variance = model.decoder.variance
    assert variance == pytest.approx(BETAS[1] * (1 - BAR[0]) / (1 - BAR[1]), rel=1e-9)  # 5.4e-5
    ours = bits(128, middle + 2 / 255, math.sqrt(variance)) * math.log(2)
    assert 0.5 < ours < 2.0  # one code off: neither free nor 27.6 nats


def test_fixed_large_has_beta_1_at_the_decoder():
    """improved-diffusion's FIXED_LARGE puts the β̃ number at the first step, whose own number is β_1."""
    first, second = TABLE.at_index(0), TABLE.at_index(1)
    wrong = float(np.append((BETAS * (1 - np.append(1, BAR[:-1])) / (1 - BAR))[1], BETAS[1:])[0])
    assert Beta().of_decoder(first, second) == pytest.approx(1e-4, rel=1e-9)
    assert BetaTilde().of_decoder(first, second) == pytest.approx(wrong, rel=1e-9) and wrong < 0.6e-4


def test_t1_variance_of_the_coarse_chain():
    """Respaced to 25 steps, improved-diffusion takes β̃ of the coarse chain for L_0, which makes it worse and worse."""
    domain = nelbo.DataDomain((1,), 256)
    model = nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=domain)
    coarse = model.with_grid(nelbo.grids.even(25))
    assert coarse.decoder is model.decoder  # fixed when the model is made, from the full table
    levels = coarse.levels()
    bar = levels.alpha.square().numpy()
    wrong = (1 - bar[1] / bar[0]) * (1 - bar[0]) / (1 - bar[1])
    right = model.decoder.variance
    assert wrong == pytest.approx(9.9e-5, rel=0.02) and right == pytest.approx(5.4e-5, rel=0.02)
    x = -1 + 2 * 128 / 255
    costs = {v: bits(128, x, math.sqrt(v)) for v in (wrong, right)}
    assert costs[wrong] > costs[right] + 0.2  # for a good x̂ the wide one wastes bits


def test_learned_range_interpolates_log_variance():
    """MONAI interpolates the variance; Nichol & Dhariwal 2021, eq. 15, its logarithm."""
    s, t = TABLE.at_index(torch.tensor([1])), TABLE.at_index(torch.tensor([2]))
    beta, beta_tilde = BETAS[2], BETAS[2] * (1 - BAR[1]) / (1 - BAR[2])
    raw = torch.zeros(1, 1, dtype=torch.float64)
    ours = float(LearnedRange().of_step(s, t, Prediction(raw, variance=raw)))
    assert ours == pytest.approx(math.sqrt(beta * beta_tilde), rel=1e-9)
    wrong = 0.5 * (beta + beta_tilde)
    assert wrong / ours - 1 > 0.02
    # at the decoder too, where the two ends differ more
    spread = LearnedRange().of_decoder(TABLE.at_index(0), TABLE.at_index(1))
    ends = BETAS[1] * (1 - BAR[0]) / (1 - BAR[1]), BETAS[0]
    assert float(spread.of(Prediction(raw, variance=raw))) == pytest.approx(math.sqrt(ends[0] * ends[1]), rel=1e-9)


def test_pixel_decoder_on_latents():
    """facebookresearch/DiT#52: latents have no bins, and a discretised decoder on them is refused."""
    latents = nelbo.DataDomain((4, 8, 8))
    with pytest.raises(UsageError, match=r"real numbers.*\nhint: latents and other real data need decoder='continuous"):
        nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=latents, decoder="discretized_gaussian")
    model = nelbo.from_callable(lambda z, t: z, schedule=TABLE, domain=latents)
    assert model.decoder.kind == "continuous_gaussian"


def test_dequantization_jacobian():
    """score_sde adds 8 bits to a density on [0, 1] and 7 to one on [−1, 1], by hand (score_sde_pytorch#51: "hack").

    nelbo has no offset: a density is printed as one, and its unit follows from its data.
    """
    wide = nelbo.exact.GaussianData([0.2], [[0.09]])  # on [−1, 1]
    narrow = nelbo.exact.GaussianData([0.6], [[0.0225]])  # the same data on [0, 1]
    x = wide.sample(50)
    lengths = {}
    for data, values, schedule in (
        (wide, x, nelbo.schedules.logsnr_linear(10.0, -10.0)),
        (narrow, (x + 1) / 2, nelbo.schedules.logsnr_linear(10.0 + math.log(4), -10.0 + math.log(4))),
    ):
        model = data.model(schedule.on("ve"), nelbo.grids.continuous())
        bound = nelbo.evaluate(model, values, estimator="stratified", precision="float64")
        assert "bits/dim (density)" in str(bound)
        lengths[data] = bound.bits_per_dim
    assert lengths[wide] - lengths[narrow] == pytest.approx(1.0, abs=1e-6)  # log2 of the width 2: not 8, not 7


@untrained
def test_the_range_of_the_data_is_no_offset():
    """The same network on [0, 1] and on [−1, 1], z and σ moved with it: codes cost the same to 1e-9."""
    bits_per_dim = {}
    codes = torch.arange(12).reshape(4, 3) * 20
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5)):
        scale, middle = (high - low) / 2, (high + low) / 2

        def fn(z, logsnr, scale=scale, middle=middle):
            y = (z - middle) / scale
            gain = 1 / (1 + (-(logsnr + 2 * math.log(scale))).exp())[:, None]
            return middle + scale * torch.tanh(y) * gain

        shift = -2 * math.log(scale)
        model = nelbo.from_callable(
            fn,
            schedule=nelbo.schedules.logsnr_linear(8.0 + shift, -6.0 + shift).on("ve"),
            domain=nelbo.DataDomain((3,), 256, low, high),
            predicts="x0",
            time="logsnr",
            decoder=DiscretizedGaussian((0.05 * scale) ** 2),
            prior=GaussianPrior(middle, 404.0 * scale**2),
            grid=nelbo.grids.even(6),
        )
        bound = nelbo.evaluate(model, codes, estimator="exhaustive", precision="float64")
        bits_per_dim[low, high] = bound.bits_per_dim
    reference = bits_per_dim.pop((-1.0, 1.0))
    assert all(value == pytest.approx(reference, rel=1e-9) for value in bits_per_dim.values())

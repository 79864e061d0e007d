"""Images coded by a model's chain: exact for every kind of part, as short as the bound, whatever the batch size."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.codec import groups
from nelbo.codec.bitswap import Coder
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.header import Header
from nelbo.codec.lattice import MEAN_BITS, LatticeChain
from nelbo.codec.symbols import symbols_of
from nelbo.errors import ArchiveError, NumericalError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import BetaTilde
from tests.codec import checks, models
from tests.folder_cases import CASES, make


@pytest.mark.parametrize("name", models.CODED)
def test_every_kind_of_part_is_coded_exactly(name, tmp_path):
    """Encoded in groups of up to 8, decoded with 1 and with 5 images per call."""
    model = make(name)
    codes = models.images(model, 12)
    compress(model, codes, tmp_path / "x.nelbo", batch_size=8, verify=False, few=True)
    for batch in (1, 5):
        assert torch.equal(decompress(model, tmp_path / "x.nelbo", batch_size=batch), codes), name


@pytest.mark.parametrize("name", sorted(set(CASES) - set(models.CODED)))
def test_what_cannot_be_coded_is_refused_with_a_remedy(name, tmp_path):
    model = make(name)
    data = models.images(model, 12) if model.domain.discrete else torch.zeros(20, *model.domain.shape)
    with pytest.raises(UsageError) as caught:
        compress(model, data, tmp_path / "x.nelbo")
    assert caught.value.hint and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fitted, map", "fitted, hybrid", "fitted, hybrid, coarse first"])
def test_values_of_lattice_points_have_their_coordinates(name):
    """In the basis of every level, also where the next level has another."""
    chain, rng = LatticeChain(make(name), 8.0), np.random.default_rng(0)
    for j in range(1, chain.L + 1):
        k = rng.integers(-50, 50, (3, *chain.shape))
        found = chain.coordinates(chain.values(k, j), j)
        np.testing.assert_allclose(found, k * 2.0**MEAN_BITS, rtol=0, atol=1e-6 * 2**MEAN_BITS)


def test_decoders_without_masses_and_too_many_codes_are_refused():
    with pytest.raises(UsageError, match="no table of masses"):
        symbols_of(ContinuousGaussian(), DataDomain((2,), 4))
    with pytest.raises(UsageError, match="at most 4096"):
        symbols_of(Categorical(), DataDomain((2,), 5000))


@pytest.mark.parametrize(
    "check", [checks.check_path, checks.check_path_in_a_basis, checks.check_draws, checks.check_guard]
)
def test_bits_draws_and_roundings_are_those_of_the_model(check):
    check()


@pytest.mark.slow
def test_the_rate_is_the_bound(tmp_path):
    """Net bits of 400 images against the bound of the same images over five seeds: z < 4, error below 0.6 %."""
    model, codes = models.exact(30), models.codes(400)
    bound = nelbo.evaluate(model, codes, tolerance=0.008, seed=0)
    written = [compress(model, codes, tmp_path / "x.nelbo", batch_size=256, verify=False, seed=s) for s in range(5)]
    nets = np.array([w.net_bits_per_dim for w in written])
    error = math.hypot(nets.std(ddof=1) / math.sqrt(5), bound.standard_error.estimator)
    assert abs(nets.mean() - bound.bits_per_dim) < 4 * error
    assert error < 0.006 * bound.bits_per_dim


class Narrow(BetaTilde):
    """A reverse variance that is 30 % too small."""

    def of_step(self, s, t, prediction):
        return 0.7 * super().of_step(s, t, prediction)


def test_draws_follow_q_even_if_the_model_is_wrong():
    """A reverse variance 30 % too small makes bits that are not uniform; latents made from them follow q nevertheless.

    Without the mask on the popped bits the mean square of the latents' noise exceeds 1 by several standard errors.
    """
    exact = models.exact(30)
    model = dataclasses.replace(exact, reverse=dataclasses.replace(exact.reverse, variance=Narrow()))
    coder = Coder(model.in_precision(torch.float64), 0.25, 600)
    squares = []

    def note(j, x, k_before, k):
        if j > 1:
            u = coder.chain.forward_mean(j, x, k_before) / 2**7
            squares.append((((k - u) * coder.chain.delta[j - 1]) ** 2).mean() / coder.chain.std[j - 1] ** 2)

    checks.watch(coder, note)
    header = Header(model.fingerprint()[:16], 1200, (12,), tuple(coder.fine.widths), r=16, group_size=600)
    with torch.inference_mode(), model.denoiser.inference():
        groups.encode(coder, header, models.codes(1200).long(), None)
    assert abs(np.mean(squares[-29:]) - 1) < 4 * math.sqrt(2 / (29 * 12 * 300))


def with_errors(model, size: float):
    """The model with errors of `size` on every x̂ and every log mass, fresh at every call."""
    exact, calls = model.in_precision(torch.float64).denoiser, itertools.count(1)

    def forward(z, t, condition=None):
        found = exact.forward(z, t, condition)
        generator = torch.Generator().manual_seed(next(calls))
        noise = size * torch.randn(found.x0.shape, generator=generator, dtype=found.x0.dtype)
        log_probs = None if found.log_probs is None else found.log_probs + noise[..., None]
        return dataclasses.replace(found, x0=found.x0 + noise, log_probs=log_probs)

    denoiser = copy.deepcopy(exact)
    denoiser.forward = forward  # type: ignore[method-assign]
    denoiser.in_precision = lambda *_: denoiser  # type: ignore[method-assign]
    other = dataclasses.replace(model)
    object.__setattr__(other, "denoiser", denoiser)
    return other


@pytest.mark.parametrize("size", [1e-13, 1e-11])
def test_errors_within_the_guard_band_are_harmless(size, tmp_path, monkeypatch):
    """In the encoder and in the decoder, with a band of 2^-20 and so with exceptions."""
    model, codes = models.exact(4), models.codes(40)
    monkeypatch.setattr("nelbo.codec.support.guard_band", lambda *_: 20)
    compress(with_errors(model, size), codes, tmp_path / "x.nelbo", batch_size=8, verify=False, few=True)
    for reader, batch in ((with_errors(model, size), 1), (with_errors(model, size), 7), (model, 5)):
        assert torch.equal(decompress(reader, tmp_path / "x.nelbo", batch_size=batch), codes)


def test_errors_beyond_the_guard_band_are_refused(tmp_path):
    """An archive of the clean network, read by one with errors of 1e-3: no images, and an error with the reason."""
    model, codes = models.exact(6), models.codes(200)
    compress(model, codes, tmp_path / "x.nelbo")
    with pytest.raises(ArchiveError, match="do not decode to what was") as caught:
        decompress(with_errors(model, 1e-3), tmp_path / "x.nelbo")
    assert "guard band" in caught.value.hint and caught.value.lost == ((0, 200),)


@pytest.mark.parametrize(("size", "message"), [(1e-6, "depend on the batch size"), (math.nan, "NaN")])
def test_networks_that_cannot_be_repeated_are_refused(size, message, tmp_path):
    """Errors of 1e-6 between calls are beyond every guard band; they are found before anything is coded."""
    with pytest.raises(NumericalError, match=message):
        compress(with_errors(models.exact(6), size), models.codes(50), tmp_path / "x.nelbo")
    assert not list(tmp_path.iterdir())


def test_verification_catches_a_network_that_is_random(tmp_path, monkeypatch):
    monkeypatch.setattr("nelbo.codec.support.guard_band", lambda *_: 26)
    with pytest.raises(ArchiveError, match="nothing was written"):
        compress(with_errors(models.exact(6), 1e-5), models.codes(50), tmp_path / "x.nelbo", few=True)
    assert not list(tmp_path.iterdir())

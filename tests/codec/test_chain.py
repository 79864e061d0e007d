"""The chain of a model on a stack: exact for every kind of part, as short as the bound, whatever the batch size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.codec import bitswap
from nelbo.codec.archive import Chunk
from nelbo.codec.bitswap import Coder, group_sizes
from nelbo.codec.compress import compress
from nelbo.codec.decompress import decompress
from nelbo.codec.header import Header
from nelbo.codec.lattice import Guard
from nelbo.codec.stack import Damaged
from nelbo.errors import ArchiveError, NumericalError, UsageError
from nelbo.model.decoder import Categorical, ContinuousGaussian
from nelbo.model.domain import DataDomain
from nelbo.model.reverse import BetaTilde
from tests.codec import checks, models
from tests.folder_cases import CASES, make


class Narrow(BetaTilde):
    """A reverse variance that is 30 % too small."""

    def of_step(self, s, t, prediction):
        return 0.7 * super().of_step(s, t, prediction)


def header(coder: Coder, n: int, **changes) -> Header:
    model = coder.model
    made = Header(model.fingerprint()[:16], n, model.domain.shape, tuple(coder.fine.widths), group_size=coder.batch)
    return dataclasses.replace(made, **changes)


def encoded(model, codes, batch=8, **changes):
    coder = Coder(model.in_precision(torch.float64), 0.5, batch)
    head = header(coder, len(codes), **changes)
    coder.seed = head.seed
    with torch.inference_mode(), model.denoiser.inference():
        return head, bitswap.encode(coder, head, codes.long(), None)


def decoded(model, head, made, n, batch):
    coder = Coder(model.in_precision(torch.float64), 0.5, batch, head.widths)
    with torch.inference_mode(), model.denoiser.inference():
        return bitswap.decode(coder, head, Chunk.of(made.to_bytes()), n, None)


@pytest.mark.parametrize("name", models.CODED)
def test_every_kind_of_part_is_coded_exactly(name):
    """Encoded in groups of up to 8, decoded with 1 and with 5 images a call."""
    model = models.case(name)
    codes = models.images(model, 12)
    head, made = encoded(model, codes)
    for batch in (1, 5):
        assert torch.equal(decoded(model, head, made, 12, batch), codes), name


@pytest.mark.parametrize("name", sorted(set(CASES) - set(models.CODED)))
def test_what_cannot_be_coded_is_refused_with_a_remedy(name, tmp_path):
    model = make(name)
    data = models.images(model, 12) if model.domain.discrete else torch.zeros(20, *model.domain.shape)
    with pytest.raises(UsageError) as caught:
        compress(model, data, tmp_path / "x.nelbo")
    assert caught.value.hint and not list(tmp_path.iterdir())


def test_a_decoder_without_masses_is_refused(tmp_path):
    class Odd(Categorical):
        pass

    from nelbo.codec.symbols import symbols_of

    with pytest.raises(UsageError, match="no table of masses"):
        symbols_of(ContinuousGaussian(), DataDomain((2,), 4))
    with pytest.raises(UsageError, match="at most 4096"):
        symbols_of(Categorical(), DataDomain((2,), 5000))
    assert symbols_of(Odd(), DataDomain((2,), 4)).K == 4


@pytest.mark.parametrize("check", [checks.check_path, checks.check_path_in_a_basis, checks.check_draws])
def test_bits_and_draws_are_those_of_the_model(check):
    check()


@pytest.mark.slow
def test_the_rate_is_the_bound():
    """Net bits of 400 images against the bound of the same images over five seeds: z < 4, error below 0.6 %."""
    model, codes = models.exact(30), models.codes(400)
    bound = nelbo.evaluate(model, codes, tolerance=0.008, seed=0)
    nets = np.array([encoded(model, codes, 256, seed=s)[1].net_bits / (400 * 12) for s in range(5)])
    error = math.hypot(nets.std(ddof=1) / math.sqrt(5), bound.standard_error.estimator)
    assert abs(nets.mean() - bound.bits_per_dim) < 4 * error
    assert error < 0.006 * bound.bits_per_dim


def test_draws_stay_draws_under_a_model_that_is_wrong():
    """A reverse variance 30 % too small makes bits that are not uniform; latents made of them follow q all the same.

    Without the turning of the popped bits the mean square of the latents' noise exceeds 1 by several standard errors.
    """
    exact = models.exact(30)
    tight = dataclasses.replace(exact.reverse, variance=Narrow())
    model = dataclasses.replace(exact, reverse=tight)
    coder = Coder(model.in_precision(torch.float64), 0.25, 600)
    squares = []

    def note(j, x, k, found):
        if j > 1:
            u = coder.chain.forward_mean(j, x, k) / 2**7
            squares.append((((found - u) * coder.chain.delta[j - 1]) ** 2).mean() / coder.chain.std[j - 1] ** 2)

    checks.watch(coder, note)
    with torch.inference_mode(), model.denoiser.inference():
        bitswap.encode(coder, header(coder, 1200, r=16), models.codes(1200).long(), None)
    groups = [size for size in group_sizes(1200, 255, 600)]
    assert len(groups) > 5
    weight = np.array(squares)
    assert abs(weight[-29:].mean() - 1) < 4 * math.sqrt(2 / (29 * 12 * 300))


@pytest.mark.parametrize("size", [1e-13, 1e-11])
def test_noise_within_the_guard_band_is_harmless(size):
    """Fresh errors on every x̂ and every log mass, in the encoder and in the decoder, of one coarse-guarded chunk."""
    model, codes = models.exact(4), models.codes(40)
    noisy = dataclasses.replace(model)
    object.__setattr__(noisy, "denoiser", _noisy(model, size))
    head, made = encoded(noisy, codes, tau=20)
    for batch in (1, 7):
        assert torch.equal(decoded(noisy, head, made, 40, batch), codes)
    assert torch.equal(decoded(model, head, made, 40, 5), codes)


def test_exceptions_are_what_saves_numbers_near_a_boundary():
    checks.check_guard()


def test_noise_beyond_the_guard_band_is_refused(tmp_path):
    """An archive of the clean network, read by one that errs by 1e-3: an error that says so, and no images."""
    model, codes = models.exact(6), models.codes(200)
    compress(model, codes, tmp_path / "x.nelbo")
    noisy = dataclasses.replace(model)
    object.__setattr__(noisy, "denoiser", _noisy(model, 1e-3))
    with pytest.raises(ArchiveError, match="do not decode to what was") as caught:
        decompress(noisy, tmp_path / "x.nelbo")
    assert "guard band" in caught.value.hint and caught.value.lost == ((0, 200),)


def test_a_network_that_depends_on_the_batch_is_refused(tmp_path):
    """Errors of 1e-6 between calls are beyond every guard band: said before anything is coded."""
    model = models.exact(6)
    object.__setattr__(model, "denoiser", _noisy(model, 1e-6))
    with pytest.raises(NumericalError, match="depend on the batch size"):
        compress(model, models.codes(50), tmp_path / "x.nelbo")
    assert not list(tmp_path.iterdir())


def test_verification_catches_a_network_that_is_random(tmp_path, monkeypatch):
    model = models.exact(6)
    object.__setattr__(model, "denoiser", _noisy(model, 1e-5))
    monkeypatch.setattr("nelbo.codec.support.guard_band", lambda *_: 26)
    with pytest.raises(ArchiveError, match="nothing was written"):
        compress(model, models.codes(50), tmp_path / "x.nelbo", few=True)
    assert not list(tmp_path.iterdir())


def test_nan_is_refused(tmp_path):
    model = models.exact(6)
    object.__setattr__(model, "denoiser", _noisy(model, math.nan))
    with pytest.raises(NumericalError, match="NaN"):
        compress(model, models.codes(50), tmp_path / "x.nelbo")


def test_guard_refuses_what_is_no_number():
    with pytest.raises(NumericalError):
        Guard(1e-8)(np.array([math.inf]), 0)
    with pytest.raises(Damaged):
        Guard(1e-8, [])(np.array([1e30]), 0)


def test_sizes_begin_with_one_and_reach_the_most():
    assert list(group_sizes(40, 100, 8)) == [1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 7, 8, 5]
    assert sum(group_sizes(1000, 255, 64)) == 1000 and max(group_sizes(1000, 255, 64)) == 64


def _noisy(model, size: float):
    """The model's denoiser with errors on what it says."""
    denoiser = model.in_precision(torch.float64).denoiser
    import copy

    other = copy.deepcopy(denoiser)
    other.forward = models.Noisy(denoiser.forward, size)  # type: ignore[method-assign]
    other.in_precision = lambda *_: other  # type: ignore[method-assign]
    return other

"""The result of `compress` says where the file is not at the bound, on either side, and how far the bound is."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import nelbo
from nelbo.codec import compress
from nelbo.codec.bitswap import Coder
from nelbo.codec.lattice import Guard
from nelbo.codec.stack import START, Stack
from nelbo.model.decoder import DiscretizedGaussian
from nelbo.model.prior import GaussianPrior
from tests.codec import models
from tests.expected import early_end, untrained
from tests.folder_cases import make

pytest.importorskip("numba")
pytestmark = [untrained, early_end]


def misfit():
    """From a noisy first level, decoded with a deviation that reaches no code but the nearest to x̂."""
    model = models.DATA.model(nelbo.schedules.logsnr_linear(2.0, -6.0), nelbo.grids.even(30))
    return dataclasses.replace(model, prior=GaussianPrior(), decoder=DiscretizedGaussian(1e-3))


def coarse():
    """A chain of few steps, whose Gaussians are far from some latents."""
    return models.exact(4)


def both():
    """Neither the decoder nor the steps fit."""
    return nelbo.from_callable(
        lambda z, t: 0 * z, schedule=nelbo.schedules.logsnr_linear(6.0, -6.0), predicts="x0", time="logsnr",
        domain=nelbo.DataDomain((12,), bins=4), decoder=DiscretizedGaussian(1e-3), grid=nelbo.grids.even(5),
    )  # fmt: skip


BELOW = {"decoder": (misfit, True, False), "steps": (coarse, False, True), "both": (both, True, True)}


@pytest.mark.parametrize("case", BELOW)
def test_below_the_bound(tmp_path, case):
    """What the model says of the same latents is its bound; the file is smaller, since its tables end."""
    make_model, rare_codes, rare_latents = BELOW[case]
    model, codes = make_model(), models.codes(1500)
    written = compress(model, codes, tmp_path / "x.nelbo", verify=False)
    bound = nelbo.evaluate(model, codes, estimator="exhaustive", seed=1).bits_per_dim
    assert written.model_bits_per_dim == pytest.approx(bound, rel=0.03)
    assert written.net_bits_per_dim < 0.93 * bound
    assert written.off_bound is not None and written.off_bound.startswith("the net bits are below the bound, which is ")
    assert f"which is {written.model_bits_per_dim:.4f} bits/dim" in written.off_bound
    tally = written.tally
    assert (tally.codes, tally.latents) == (1500 * 12, 1500 * 12 * len(model.levels()))
    assert (tally.rare_codes > 0, tally.rare_latents > 0) == (rare_codes, rare_latents)
    for number, every, what in (
        (tally.rare_codes, tally.codes, "codes"),
        (tally.rare_latents, tally.latents, "latents"),
    ):
        assert (f"{number} of {every} {what}" in written.off_bound) == (number > 0)
    assert written.off_bound in str(written)


def test_at_the_bound(tmp_path):
    """A model that fits: the coder's bits are the model's to a thousandth, and nothing is said."""
    written = compress(models.exact(30), models.codes(600), tmp_path / "x.nelbo", verify=False)
    assert written.net_bits_per_dim == pytest.approx(written.model_bits_per_dim, rel=1e-3)
    assert written.off_bound is None and written.tally.rare_codes == 0 and "\n" not in str(written)


def test_above_the_bound(tmp_path):
    """Lattices of two deviations lose bits for good; the bound is where it was."""
    codes = models.codes(600)
    wide, fine = (compress(models.exact(30), codes, tmp_path / "x", verify=False, bin_width=w) for w in (2.0, 0.5))
    assert wide.net_bits_per_dim > 1.02 * fine.net_bits_per_dim
    assert wide.model_bits_per_dim == pytest.approx(fine.model_bits_per_dim, rel=0.015)
    assert wide.off_bound is not None and wide.off_bound.startswith("the net bits are above the bound")


def test_a_code_of_no_probability(tmp_path):
    """The coder gives it 2^-24, the model nothing: the bound is infinite, and JSON has no infinity."""
    log_prior = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64).log()
    model = dataclasses.replace(models.exact(30), decoder=nelbo.decoders.Categorical(log_prior))
    codes = models.codes(100)
    written = compress(model, codes, tmp_path / "x.nelbo", few=True, verify=False)
    document = json.loads(json.dumps(written.to_dict(), allow_nan=False))
    assert math.isinf(written.model_bits_per_dim) and document["model_bits_per_dim"] is None
    assert "the bound, which is infinite" in document["off_bound"]
    assert document["capped"]["codes"] == [int((codes > 1).sum()), codes.numel()]


@pytest.mark.parametrize(
    "name", ["discretised", "context", "categorical head", "code prior", "learned", "mixture head"]
)
def test_the_bits_of_codes_are_the_decoders(name):
    """Every kind of symbols returns −log₂ p of the codes that it pushed, by the decoder's own formula."""
    model = make(name).in_precision(torch.float64, "cpu")
    codes = models.images(model, 5)
    with torch.inference_mode(), model.denoiser.inference():
        coder = Coder(model, 0.5, 2)
        t, z = coder.chain.level(1, 5), model.domain.values(codes) * float(model.levels().alpha[0])
        prediction = model.predict(z, t) if model.decoder.calls_network else None
        bits = coder.symbols.push(Stack(torch.zeros(2048).numpy(), START), codes, z, t, prediction, Guard(0.0), 8)
        nats = model.decoder.nll(codes, z, t, prediction, model.domain)
    torch.testing.assert_close(bits.reshape(5, -1).sum(1), nats / math.log(2), rtol=1e-9, atol=1e-9)
    assert bits.numel() == codes.numel()


def test_an_attempt_that_failed_counts_nothing(tmp_path, monkeypatch):
    """A chunk whose loan was too small is encoded again: each code and latent is counted once."""
    from nelbo.codec import groups

    whole = compress(both(), models.codes(60), tmp_path / "x", few=True, verify=False)
    monkeypatch.setattr(groups, "_FIRST_LOAN", -20)
    again = compress(both(), models.codes(60), tmp_path / "x", few=True, verify=False)
    assert again.tally == whole.tally

"""A pipeline that diffusers trained and saved, scored from its folder, beside the papers' formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from tests.adapters import plain
from tests.adapters.pipelines import BINS, KINDS, TABLE, digits, pipeline
from tests.expected import untrained

diffusers = pytest.importorskip("diffusers")
N = 16


QUICK = ("epsilon", "learned_range")
"""Of KINDS; the conversions of the others are also checked beside diffusers' own in tests/parity."""


@pytest.fixture(scope="module", params=[pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in KINDS])
def trained(request, tmp_path_factory):
    """(folder, nelbo's model of it, diffusers' own pipeline, codes)."""
    folder = pipeline(tmp_path_factory.mktemp(request.param), request.param, steps=60)
    model = nelbo.from_diffusers(folder, bins=BINS)
    return folder, model, diffusers.DDPMPipeline.from_pretrained(folder), digits("test")[:N]


def reference(pipe, chain: plain.Chain, codes: torch.Tensor, seed: int):
    """Noise, and on it the terms of a pipeline by the papers, with diffusers' network called as it documents."""
    said, eps = pipe.scheduler.config, np.random.default_rng(seed).standard_normal((len(chain.beta), *codes.shape))

    def net(z, i):
        with torch.no_grad():
            return pipe.unet(torch.from_numpy(z).float(), i).sample.double().numpy()

    clip = (-said.clip_sample_range, said.clip_sample_range) if said.clip_sample else None
    return eps, plain.terms(net, chain, codes.numpy(), eps, BINS, said.prediction_type, said.variance_type, clip)


def test_exactly_on_shared_noise(trained):
    """Every term of every example, 1e-5 of itself: prior, all 39 KLs, reconstruction."""
    _, model, pipe, codes = trained
    eps, expected = reference(pipe, plain.Chain(np.linspace(2e-3, 0.25, 40)), codes, 1)
    close = {"rtol": 1e-10}, {"rtol": 1e-5, "atol": 1e-7}, {"rtol": 1e-5}
    for mine, theirs, within in zip(plain.terms_of_model(model, codes, eps), expected, close, strict=True):
        np.testing.assert_allclose(mine, theirs, **within)


def test_the_folder_says_it_all(trained):
    """`nelbo.load`, the pipeline, the pair and a second save give the same p_θ; the chain is the scheduler's."""
    folder, model, pipe, _ = trained
    said = pipe.scheduler.config
    assert model.steps == TABLE["num_train_timesteps"] and (model.reverse.clip is not None) == said.clip_sample
    again = [nelbo.from_diffusers(s, bins=BINS) for s in (str(folder), pipe, (pipe.unet, pipe.scheduler))]
    assert {m.fingerprint() for m in again} == {model.fingerprint()}
    assert nelbo.load(folder).domain.bins == 256  # nothing in a folder says how many codes there were
    with pytest.raises(nelbo.NelboError, match="256"):
        nelbo.evaluate(nelbo.load(folder), digits("test")[:2] * 100)


@untrained
@pytest.mark.filterwarnings("ignore:the tolerance 0.02 was not reached")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "learned_range"])
def test_a_minute_of_training(tmp_path, kind):
    """The same on DDPM's own table of 1000 steps, after more training: within 4 standard errors.

    A network that predicts x cannot say the noise of the first levels (σ = 0.01), and pays for it; the others are below
    6 bits.
    """
    folder = pipeline(tmp_path / "pipe", kind, steps=400, table={"num_train_timesteps": 1000})
    model, pipe = nelbo.from_diffusers(folder, bins=BINS), diffusers.DDPMPipeline.from_pretrained(folder)
    codes, chain = digits("test")[: N // 2], plain.Chain(np.linspace(1e-4, 2e-2, 1000))
    passes = []
    for seed in (0, 1):
        _, (prior, steps, first) = reference(pipe, chain, codes, seed)
        passes.append((prior + steps.sum(0) + first) / (64 * np.log(2)))
    a, b = passes
    spread = np.sqrt(np.square(a - b).mean() / 4 / len(codes))  # of the mean of two passes
    bound = nelbo.evaluate(model, codes, tolerance=0.02, max_nfe=9000)
    assert abs(bound.bits_per_dim - np.mean(passes)) < 4 * np.hypot(spread, bound.standard_error.estimator)
    assert kind == "sample" or bound.bits_per_dim < 6

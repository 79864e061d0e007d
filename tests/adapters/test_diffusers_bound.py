"""A pipeline that diffusers trained and saved, scored from its folder, beside the papers' formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound import terms
from nelbo.testing import at_noise
from tests.adapters import plain
from tests.adapters.pipelines import BINS, KINDS, TABLE, digits, pipeline

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("sklearn")
N = 16
CHAIN = plain.Chain(40, 2e-3, 0.25)


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """(folder, nelbo's model of it, diffusers' own pipeline, codes)."""
    folder = pipeline(tmp_path_factory.mktemp(request.param), request.param, steps=60)
    model = nelbo.from_diffusers(folder, bins=BINS)
    return folder, model, diffusers.DDPMPipeline.from_pretrained(folder), digits("test")[:N]


def shared_noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((CHAIN.T, N, 1, 8, 8))


def test_exactly_on_shared_noise(trained):
    """Every term of every example, 1e-5 of itself: prior, all 39 KLs, reconstruction."""
    _, model, pipe, codes = trained
    eps = shared_noise(1)
    prior, steps, reconstruction = plain.terms(pipe.unet, CHAIN, pipe.scheduler.config, codes.numpy(), eps, BINS)
    x, levels, e = model.domain.values(codes), model.levels(), torch.from_numpy(eps)
    with torch.no_grad():
        mine = torch.stack(
            [
                at_noise.diffusion(model, x, e[i], levels[i - 1 : i].expand(N), levels[i : i + 1].expand(N))
                for i in range(1, CHAIN.T)
            ]
        )
        first = at_noise.reconstruction(model, x, codes, e[0], levels[:1].expand(N))
    np.testing.assert_allclose(terms.prior(model, x, levels[-1:]).numpy(), prior, rtol=1e-10)
    np.testing.assert_allclose(mine.numpy(), steps, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(first.numpy(), reconstruction, rtol=1e-5)


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_minute_of_training(tmp_path, kind):
    """The same on DDPM's own table of 1000 steps, after more training: within 4 standard errors.

    A network that predicts x cannot say the noise of the first levels (σ = 0.01), and pays for it; the others are below
    6 bits.
    """
    folder = pipeline(tmp_path / "pipe", kind, steps=700, table={"num_train_timesteps": 1000})
    model, pipe = nelbo.from_diffusers(folder, bins=BINS), diffusers.DDPMPipeline.from_pretrained(folder)
    codes, chain = digits("test")[:16], plain.Chain(1000, 1e-4, 2e-2)
    passes = []
    for seed in (0, 1):
        eps = np.random.default_rng(seed).standard_normal((1000, 16, 1, 8, 8))
        prior, steps, first = plain.terms(pipe.unet, chain, pipe.scheduler.config, codes.numpy(), eps, BINS)
        passes.append((prior + steps.sum(0) + first) / (64 * np.log(2)))
    a, b = passes
    spread = np.sqrt(np.square(a - b).mean() / 4 / 16)  # of the mean of two passes over 16 examples
    bound = nelbo.evaluate(model, codes, tolerance=0.02)
    assert abs(bound.bits_per_dim - np.mean(passes)) < 4 * np.hypot(spread, bound.standard_error.estimator)
    assert kind == "sample" or bound.bits_per_dim < 6

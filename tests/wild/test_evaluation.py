"""Bugs of evaluation loops in the wild: the wrong value, the right one, and that ours is the right one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nelbo
from nelbo.data import read
from nelbo.errors import DomainError, UsageError
from tests.expected import early_end, untrained

TABLE = nelbo.schedules.linear(20, 1e-3, 0.3)
pytestmark = [untrained, early_end]


def lopsided(z, t):
    """A network that can tell left from right."""
    return 0.8 * torch.tanh(z + torch.linspace(-1, 1, z.shape[-1]).to(z))


def model_of(shape=(3, 4, 5), fn=lopsided, bins=256, **options):
    return nelbo.from_callable(fn, schedule=TABLE, domain=nelbo.DataDomain(shape, bins), **options)


CODES = torch.randint(256, (7, 3, 4, 5), generator=torch.Generator().manual_seed(2))
HOW = {"estimator": "exhaustive", "precision": "float64", "per_example": True}


def test_eval_flips_nothing(tmp_path):
    """guided-diffusion's loader flips images at random, in evaluation too: other pictures, another number."""
    np.save(tmp_path / "images.npy", CODES.numpy().astype(np.uint8))
    examples = read(str(tmp_path / "images.npy"))
    assert np.array_equal(examples.data.numpy(), CODES.numpy())
    right = nelbo.evaluate(model_of(), examples, **HOW)
    flipped = nelbo.evaluate(model_of(), CODES.flip(-1), **HOW)
    assert right.data["fingerprint"] == nelbo.Examples(CODES).fingerprint != flipped.data["fingerprint"]
    assert abs(right.bits_per_dim - flipped.bits_per_dim) > 1e-3


WRONG_MEANS = {
    "the last batch is dropped (addtt)": lambda nats: nats[:4].mean() / 60 / math.log(2),
    "the mean of means of batches of 4 and 3": lambda nats: (nats[:4].mean() + nats[4:].mean()) / 2 / 60 / math.log(2),
    "bits a pixel of 3 channels (uqdm: 15.57 for 5.19 bits/dim)": lambda nats: nats.mean() / 20 / math.log(2),
    "nats for bits (MONAI)": lambda nats: nats.mean() / 60,
}


@pytest.mark.parametrize("bug", WRONG_MEANS)
def test_the_mean_is_over_all_examples_and_dimensions_in_bits(bug):
    bound = nelbo.evaluate(model_of(), CODES, batch_size=4, **HOW)
    nats = bound.per_example.nats
    assert bound.examples == 7 == len(nats) and bound.nfe_total == 7 * 20 * 2 + 5 and bound.dimensions == 60
    assert bound.bits_per_dim == pytest.approx(float(nats.mean()) / 60 / math.log(2), rel=1e-12)
    assert abs(float(WRONG_MEANS[bug](nats)) / bound.bits_per_dim - 1) > 1e-5


def test_padding_repeats_no_example():
    """accelerate#226: a last shard padded with repeated examples. The batch size changes no example's number."""
    whole = nelbo.evaluate(model_of(), CODES, batch_size=7, **HOW).per_example.nats
    for size in (1, 2, 5):
        assert torch.allclose(nelbo.evaluate(model_of(), CODES, batch_size=size, **HOW).per_example.nats, whole)


def test_images_in_0_255_floats_are_refused():
    """Float images, of 0..255 or −1..1, where codes are expected: refused with the line that makes codes of them."""
    for wrong in (CODES.float(), CODES / 127.5 - 1):
        with pytest.raises(DomainError, match=r"float32 values where integer codes 0\.\.255.*\nhint: give x = "):
            nelbo.evaluate(model_of(), wrong)
    with pytest.raises(DomainError, match=r"codes from \d+ to 255, but the model has 17 bins.*\nhint: check"):
        nelbo.evaluate(model_of(bins=17), CODES)


def test_each_example_has_its_own_t():
    """diffusers#1784: a scheduler that takes the first t for the whole batch. Each sees its own t, in any batch, and a
    network that takes the first is refused."""
    seen = []

    def fn(z, t):
        seen.append(t)
        return lopsided(z, t) * (1 + t[:, None, None, None])

    def first(z, t):
        return fn(z, t[:1].expand(len(t)))

    options = {"estimator": "pooled", "tolerance": 50.0, "batch_size": 5}
    nelbo.evaluate(model_of(fn=fn), CODES, **options)
    assert any(len(t.unique()) > 1 for t in seen)
    with pytest.raises(UsageError, match="one example's time for all"):
        nelbo.evaluate(model_of(fn=first), CODES, **options)


def test_conditioning_is_not_dropped():
    """improved-diffusion#126: class conditions lost on the way to the network. Each example goes with its own row."""

    def fn(z, t, y):
        return lopsided(z, t) * (1 + y[:, None, None, None])

    y = torch.tensor([0, 1, 0, 1, 2, 2, 0])
    bound = nelbo.evaluate(model_of(fn=fn), CODES, condition={"y": y}, batch_size=3, **HOW).per_example.nats
    dropped = nelbo.evaluate(model_of(), CODES, **HOW).per_example.nats
    assert torch.allclose(bound[y == 0], dropped[y == 0]) and not torch.isclose(bound[y > 0], dropped[y > 0]).any()


def test_the_same_noise_in_any_batch():
    """diffusers#612, #6233: noise drawn as a stream depends on the batch. Keyed noise does not."""
    all_of_them = nelbo.evaluate(model_of(), CODES, **HOW).per_example.nats
    first = nelbo.evaluate(model_of(), CODES[:3], **HOW).per_example.nats
    assert torch.allclose(all_of_them[:3], first, rtol=1e-12)


def test_a_model_is_stateless():
    """diffusers#8711: a scheduler that remembers where it was. Evaluating twice is the same."""
    model = model_of()
    before = nelbo.evaluate(model, CODES, **HOW).bits_per_dim
    nelbo.evaluate(model, CODES.flip(0), **HOW)
    nelbo.sample(model, 2)
    assert nelbo.evaluate(model, CODES, **HOW).bits_per_dim == before

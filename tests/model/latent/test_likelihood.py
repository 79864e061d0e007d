"""Likelihoods of latent models that follow x̂ or read the codes before it: laws over whole images, and their fits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import nelbo
from nelbo.errors import ShapeError, UnknownNameError, UsageError
from nelbo.maths import random
from nelbo.model import folder
from nelbo.model.latent.clipped import ClippedDecoder
from nelbo.model.latent.likelihood import best_local, best_scale
from nelbo.process.prediction import Prediction
from nelbo.tightening.likelihoods import CONTEXT, LOCAL, SCALE, Likelihood, chosen
from tests.bound.latent import linear
from tests.model.latent import nets
from tests.tightening.test_context import random_decoder

LOCAL_WEIGHTS = torch.tensor([[0.3, -0.4, 0.6, -0.2]], dtype=torch.float64)
KINDS = {
    "gaussian": lambda shape: nelbo.latent.ScaledGaussian(0.4),
    "local logistic": lambda shape: nelbo.latent.ScaledLogistic(0.4, LOCAL_WEIGHTS),
    "local gaussian": lambda shape: nelbo.latent.ScaledGaussian(0.4, LOCAL_WEIGHTS),
    "context": lambda shape: ClippedDecoder(random_decoder(shape, 3)),
}


def tiny(kind: str) -> tuple[nelbo.LatentModel, torch.Tensor]:
    """A model of images of 2×3 pixels with 3 codes, and all of them."""
    shape = (2, 3)
    made = linear.model()
    decoder = nelbo.latent.ImageDecoder(lambda z: torch.cat([z, z.sin(), 1 - z], 1).reshape(-1, 2, 3))
    domain = nelbo.DataDomain(shape, bins=3)
    every = torch.tensor(list(itertools.product(range(3), repeat=6))).reshape(-1, *shape)
    return replace(made, decoder=decoder, domain=domain, likelihood=KINDS[kind](shape)), every


@pytest.mark.parametrize("kind", KINDS)
def test_the_masses_of_all_images_given_z_sum_to_one(kind):
    """Σ_x p(x | z) = 1; a decoder that reads what is not said yet, x itself in the place of x̂, has another sum."""
    model, every = tiny(kind)
    z = torch.tensor([[0.3, -0.7]], dtype=torch.float64).expand(len(every), 2)
    log_p = -model.pixels(every, z)
    assert abs(float(log_p.exp().sum()) - 1) < 1e-10 and float(log_p.std()) > 0.1
    x0 = 0.5 * (model.decode(z) + model.domain.values(every))
    known = model.likelihood.nll(every, x0, nelbo.model.latent.model.clean(x0), Prediction(x0), model.domain)
    assert abs(float((-known).exp().sum()) - 1) > 0.05


def pictures(n: int = 24):
    """x̂ (n, 12, 12) with flat and busy parts, and codes about it with errors that are local, and correlated."""
    domain = nelbo.DataDomain((12, 12), bins=64)
    smooth = torch.linspace(-0.8, 0.8, 12).double().expand(n, 12, 12)
    board = 1.0 - 2 * ((torch.arange(12)[:, None] + torch.arange(12)) % 2).double()
    busy = 0.5 * board * random.normal(1, torch.arange(n), 0, 0, (1, 1)).sign()
    x0 = torch.where(torch.arange(12) < 6, smooth, busy)
    noise = random.normal(2, torch.arange(n), 0, 0, (12, 12))
    return domain, x0, noise, torch.where(torch.arange(12) < 6, 0.03, 0.15)


def test_a_local_scale_is_found_and_chosen():
    """Errors five times as large in busy parts: the fitted scale is as large there, in flat ones as small, and is
    chosen; where errors are the same everywhere, it gains nothing."""
    domain, x0, noise, spread = pictures()
    local = domain.codes(x0 + spread * noise)
    found = best_local(nelbo.latent.ScaledGaussian, local, x0, domain)
    scale = found.scale_at(x0, domain)
    assert float(scale[..., 8:].mean()) == pytest.approx(0.15, rel=0.1)
    assert float(scale[..., 1:4].mean()) == pytest.approx(0.03, rel=0.15)
    plain = best_scale(nelbo.latent.ScaledGaussian, local, x0, domain)
    assert float(found.costs(local, x0, domain).mean()) < float(plain.costs(local, x0, domain).mean()) - 0.3
    flat = domain.codes(x0 + 0.1 * noise)
    gain = [
        f(nelbo.latent.ScaledGaussian, flat, x0, domain).costs(flat, x0, domain).mean()
        for f in (best_scale, best_local)
    ]
    assert 0 <= float(gain[0] - gain[1]) < 0.01
    assert chosen(Likelihood(), local, x0, domain).form in (LOCAL, CONTEXT)
    real = nelbo.DataDomain((12, 12))
    assert chosen(Likelihood(), x0 + noise, x0, real).form == SCALE


def test_correlated_errors_are_read_from_the_codes_before():
    """x − x̂ = the error to the left and a little noise: only the context can know, and gains log of the ratio."""
    domain, x0, noise, _ = pictures()
    error = noise.clone()
    for x in range(1, 12):
        error[..., x] = 0.9 * error[..., x - 1] + (1 - 0.81) ** 0.5 * noise[..., x]
    codes = domain.codes(x0 + 0.15 * error)
    wanted = chosen(Likelihood(), codes, x0, domain)
    assert wanted.form == CONTEXT
    fitted = wanted.fitted(codes, x0, domain)
    plain = Likelihood().fitted(codes, x0, domain)
    level = nelbo.model.latent.model.clean(x0)
    cost = [float(f.nll(codes, x0, level, Prediction(x0), domain).mean()) / 144 for f in (plain, fitted)]
    # log(1/√(1 − 0.81)) = 0.83 of every pixel but those of the first column, less what bins and clipping cost
    assert 0.55 < cost[0] - cost[1] < 0.85


def test_fits_by_name_and_what_is_refused(tmp_path):
    model = replace(nets.model(), trained_on=None)
    x = torch.randint(0, 16, (20, *nets.SHAPE), generator=torch.Generator().manual_seed(0))
    for how in ({"kind": "context"}, {"kind": "logistic", "local": True}, {"kind": "gaussian", "per_channel": True}):
        made = nelbo.latent.fit_likelihood(model, x, **how)
        loaded = nelbo.load(folder.save(made, tmp_path / str(len(how)) / str(how["kind"])))
        assert loaded.fingerprint() == made.fingerprint() != model.fingerprint()
        drawn = nelbo.sample(loaded, 2, steps=2, progress=False)
        assert drawn.shape == (2, *nets.SHAPE) and drawn.dtype == torch.int64
    context = nelbo.latent.fit_likelihood(model, x, "context").likelihood
    beyond = 3 * random.normal(3, torch.arange(20), 0, 0, nets.SHAPE)  # x̂ of pixels that are black or white
    level = nelbo.model.latent.model.clean(beyond)
    nats = [context.nll(x, v, level, Prediction(v), model.domain) for v in (beyond, beyond.clamp(-1, 1))]
    assert torch.equal(*nats)
    with pytest.raises(UnknownNameError, match="likelihood"):
        nelbo.latent.fit_likelihood(model, x, "laplace")
    for how in ({"kind": "context", "local": True}, {"local": True, "per_channel": True}):
        with pytest.raises(UsageError, match="one of them alone"):
            nelbo.latent.fit_likelihood(model, x, **how)
    with pytest.raises(UsageError, match="real values"):
        nelbo.latent.fit_likelihood(linear.model(), linear.X, local=True)
    with pytest.raises(UsageError, match="it is of codes"):
        nelbo.latent.fit_likelihood(linear.model(), linear.X, "context")
    with pytest.raises(ShapeError, match="follows x̂"):
        replace(model, likelihood=nelbo.latent.ScaledGaussian(0.1, torch.zeros(2, 4, dtype=torch.float64)))

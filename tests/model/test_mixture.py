"""The mixture head: its posterior against Bayes on a fine line, its decoder against the whole table, its start."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy import stats

from nelbo.errors import ShapeError
from nelbo.model.denoiser import NetworkDenoiser
from nelbo.model.domain import DataDomain
from nelbo.model.mixture import MixtureDenoiser, NetworkMixture, outputs, start_weights
from nelbo.nets import build
from nelbo.process.prediction import Prediction
from tests.model.cases import level, mixture_at, network_model
from tests.process.checks import close
from tests.tables import refusals

DOMAIN = DataDomain((2, 3), 16)
M = 3


def denoiser(domain: DataDomain = DOMAIN, kick: float = 0.3) -> MixtureDenoiser:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        settings = {"width": 8, "embedding": 4, "blocks": 1, "outputs": outputs(M)}
        net = build("mlp", settings, shape=domain.shape, codes=None, logsnr_max=6.0, logsnr_min=-6.0)
        for p in net.parameters():
            p.add_(kick * torch.randn(p.shape))
    return MixtureDenoiser(net, domain, M).double().eval()


def test_posterior_mean():
    """E[x | z] of the belief of `mixture_at` by scipy's densities on a line of 240,001 points, ±1 among them."""
    x = np.linspace(-3, 3, 240_001)
    prior = 0.2 * stats.norm.pdf(x, -0.5, 0.3) + 0.3 * stats.norm.pdf(x, 0.4, 0.02)
    prior *= x[1] - x[0]
    for place, weight in ((-1.0, 0.4), (1.0, 0.1)):
        prior[np.abs(x - place).argmin()] += weight
    for logsnr in (-3.0, 0.0, 3.0, 7.0):
        t = level(logsnr)
        for z in (-1.1, -0.2, 0.41, 0.9):
            joint = prior * stats.norm.pdf(z, float(t.alpha) * x, float(t.sigma))
            ours = mixture_at(1).posterior_mean(torch.tensor([[z]], dtype=torch.float64), t)
            close(float(ours), joint @ x / joint.sum(), 1e-7, 1e-8)


def test_window():
    """The window changes no mass by more than its uniform share: against one that holds every code, K = 64."""
    domain = DataDomain((1,), 64)
    z = torch.linspace(-1.3, 1.2, 9, dtype=torch.float64)[:, None]
    for logsnr in (2.0, 5.0, 9.0):
        t, said = level(logsnr, 9), Prediction(z, mixture=mixture_at(9))
        near = NetworkMixture().log_pmf(z, t, said, domain).exp()
        whole = NetworkMixture(reach=1e4).log_pmf(z, t, said, domain).exp()
        close(near, whole, 0, 1e-12)
        close(near.sum(-1), np.ones((9, 1)), 0, 1e-12)


def test_examples_do_not_see_each_other():
    """Also where the levels of a batch differ, and so the widths of their windows."""
    model, decoder = denoiser(), NetworkMixture()
    z = torch.randn(3, 2, 3, dtype=torch.float64)
    t = level(3.0, 3)
    t = dataclasses.replace(t, logsnr=torch.tensor([8.0, 1.0, -3.0], dtype=torch.float64))
    together = decoder.log_pmf(z, t, model(z, t), DOMAIN)
    for i in range(3):
        alone = decoder.log_pmf(z[i : i + 1], t[i : i + 1], model(z[i : i + 1], t[i : i + 1]), DOMAIN)
        close(alone, together[i : i + 1], 1e-10, 1e-12)


def test_start():
    """A fresh head believes in the end codes as often as the data show them, and for the rest in even bells."""
    codes = torch.tensor([[[0, 0, 15], [3, 0, 7]]])
    net = build(
        "mlp", {"width": 8, "outputs": outputs(M)}, shape=DOMAIN.shape, codes=None, logsnr_max=6.0, logsnr_min=-6.0
    )
    net.head.start_at(start_weights(codes, DOMAIN, M))
    said = MixtureDenoiser(net, DOMAIN, M).eval()(torch.randn(2, 2, 3), level(0.0, 2)).mixture.read()
    assert said is not None
    weight = said.log_weight.detach().exp()
    close(weight[:, M:], np.broadcast_to(np.reshape([0.5, 1 / 6], (1, 2, 1, 1)), (2, 2, 2, 3)), 1e-5)
    close(weight[:, :M], np.full((2, M, 2, 3), 1 / 9), 1e-5)
    assert bool((said.mean[:, M] == -1).all() and (said.mean[:, M + 1] == 1).all())


def test_beside_an_output():
    """x̂ is that of a network which says the first map alone; the decoder is that of the mixture's maps alone."""
    maps = torch.randn(2, 1 + outputs(M), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, t = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 2, 3), level(2.0, 2)
    both = MixtureDenoiser(lambda z, t: maps.flatten(1, 2), DOMAIN, M, output="eps")(z, t)
    plain = NetworkDenoiser(lambda z, t: maps[:, 0], "eps", "logsnr")(z, t)
    alone = MixtureDenoiser(lambda z, t: maps[:, 1:].flatten(1, 2), DOMAIN, M)(z, t)
    close(both.x0, plain.x0, 0)
    assert float((both.x0 - alone.x0).abs().max()) > 0.1
    decoder = NetworkMixture()
    close(decoder.log_pmf(z, t, both, DOMAIN), decoder.log_pmf(z, t, alone, DOMAIN), 0)
    start = start_weights(torch.zeros(1, 2, 3), DOMAIN, M, beside=True)
    assert len(start) == 1 + outputs(M) and start[0] == 0


Z = torch.zeros(1, 2, 3)
test_refused = refusals(
    (lambda: MixtureDenoiser(len, DOMAIN, M, output="velocity"), r"beside the output 'velocity'"),
    (lambda: MixtureDenoiser(len, DataDomain((2,)), M), r"real-valued"),
    (
        lambda: MixtureDenoiser(lambda z, t: z, DOMAIN, M, output="eps")(Z, level(0.0)),
        ShapeError,
        r"beside its eps takes 12 numbers",
    ),
    (lambda: MixtureDenoiser(lambda z, t: z, DOMAIN, M)(Z, level(0.0)), ShapeError, r"3 components takes 11 numbers"),
    (lambda: NetworkMixture().log_pmf(Z, level(0.0), None, DOMAIN), r"mixture head"),
    (lambda: NetworkMixture(reach=0.0), r"window"),
    (lambda: NetworkMixture(uniform=0.0), r"window"),
    (lambda: NetworkMixture(uniform=1.0), r"window"),
    (lambda: network_model(decoder=NetworkMixture()), r"mixture head"),
)

"""The bound of a linear latent model against its closed form, to rounding: no term is random in these tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nelbo
from nelbo.bound.latent.spread import SpreadChain
from nelbo.errors import UsageError
from nelbo.model.latent.units import LatentUnits
from tests.bound.latent import linear
from tests.bound.latent.linear import POSTERIOR, WRONG, X, exactly

pytestmark = pytest.mark.filterwarnings("ignore:the chain does not end at its prior")
CASES = {
    "exact q": (POSTERIOR, 0.0, None),
    "wrong variances": (WRONG, 0.0, None),
    "wrong mean": (POSTERIOR, 0.3, None),
    "network at the first level": (WRONG, 0.1, 0.02),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bound_is_the_closed_form(monkeypatch, case):
    """NLL + KL(q ‖ posterior) + the gap of the chain over z; with the exact q that gap is all."""
    variances, shift, network = CASES[case]
    over = linear.prior(network=network)
    bound = exactly(monkeypatch, linear.model(variances, shift, over))
    expected = linear.nll(X) + linear.divergence(variances, shift) + linear.gap(over, X, variances, shift)
    assert np.allclose(bound.per_example.nats, expected, rtol=1e-10)
    assert linear.divergence(POSTERIOR) == 0 and linear.gap(over, X, POSTERIOR, 0.0).min() > 0
    rows = bound.per_example
    assert torch.allclose(
        rows.pixels + rows.encoder + rows.prior + rows.diffusion + rows.reconstruction, rows.nats, atol=1e-9
    )
    terms = vars(bound.terms)
    assert list(terms) == ["prior", "diffusion", "reconstruction", "pixels", "encoder"]
    assert sum(term.bits_per_dim for term in terms.values()) == pytest.approx(bound.bits_per_dim, abs=1e-9)


def rescaled(c: torch.Tensor, b: torch.Tensor):
    """The same p(x) with latents y = c z + b, which its units bring back to z."""
    encoder = nelbo.latent.GaussianEncoder(lambda x: _moments(x, c, b))
    decoder = nelbo.latent.ImageDecoder(lambda y: (y - b) / c @ linear.W.T + linear.M)
    return replace(linear.model(), encoder=encoder, decoder=decoder, units=LatentUnits(1 / c, b))


def _moments(x, c, b):
    mean = c * linear.posterior_mean(x) + b
    return torch.cat([mean, (c.square() * POSTERIOR).log().expand_as(mean)], 1)


SCALE, SHIFT = (torch.tensor(v, dtype=torch.float64) for v in ([5.5, 0.18], [0.7, -3.0]))


def check_rescaling(monkeypatch) -> None:
    one = exactly(monkeypatch, linear.model()).per_example
    other = exactly(monkeypatch, rescaled(SCALE, SHIFT)).per_example
    for name, values in vars(one).items():
        assert float((values - getattr(other, name)).abs().max()) < 1e-9, name


def test_rescaling_the_latents_changes_nothing(monkeypatch):
    check_rescaling(monkeypatch)


MISTAKES = {
    "the volume is missing": ("spread", lambda self, std: std),
    "the scale is missing": ("to_prior", lambda self, z: z - self.shift),
    "the scale is squared": ("to_prior", lambda self, z: self.scale.square() * (z - self.shift)),
    "the scale is squared on the way back": ("from_prior", lambda self, z: z / self.scale.square() + self.shift),
    "the shift is forgotten": ("to_prior", lambda self, z: self.scale * z),
    "the shift is forgotten on the way back": ("from_prior", lambda self, z: z / self.scale),
    "the shift is scaled": ("to_prior", lambda self, z: self.scale * z - self.shift),
    "the scale is divided by": ("to_prior", lambda self, z: (z - self.shift) / self.scale),
}


@pytest.mark.filterwarnings("ignore:the network is worse than none")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_wrong_scaling_breaks_that_law(monkeypatch, mistake):
    name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(LatentUnits, name, wrong)
    with pytest.raises(AssertionError):
        check_rescaling(monkeypatch)


def test_the_width_of_a_deterministic_encoder_has_its_best_value(monkeypatch):
    """E bound(τ) = c + ½ τ² (tr WᵀW/σ² + 2 tr Q) − D_z log τ is least at τ² = D_z/(tr WᵀW/σ² + 2 tr Q)."""
    Q, _, _ = linear.chain(linear.prior())
    stiffness = float((linear.W.T @ linear.W).trace()) / linear.SIGMA**2 + 2 * float(np.trace(Q))
    best = (2 / stiffness) ** 0.5

    def nats(tau: float) -> float:
        encoder = nelbo.latent.DeterministicEncoder(linear.posterior_mean, tau=tau)
        return float(exactly(monkeypatch, linear.model(encoder=encoder)).per_example.nats.mean())

    at_best = nats(best)
    for factor in (0.8, 1.3):
        excess = 0.5 * best**2 * stiffness * (factor**2 - 1) - 2 * np.log(factor)
        assert nats(factor * best) - at_best == pytest.approx(excess, rel=1e-9)
        assert excess > 0
    with pytest.raises(UsageError, match=r"tau = 0 .*entropy is −∞"):
        nelbo.latent.DeterministicEncoder(linear.posterior_mean, tau=0)


def test_averaging_over_z_saves_draws():
    """A draw of z and then of z_t has the same mean and more variance than a draw of z_t averaged over z."""

    class Drawn(SpreadChain):
        averaged_steps = False

    n = 4096
    mean, std = torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64)
    chains = [kind(linear.prior(), mean, std=std, dtype=torch.float64) for kind in (SpreadChain, Drawn)]
    zero = torch.zeros(n, dtype=torch.long)
    draws = nelbo.bound.problem.Draws(zero, zero + 1, torch.arange(n), zero, torch.zeros(n))
    values = [chain.columns(draws, None, torch.arange(n))[:, 0] for chain in chains]
    spread = (values[0].var() + values[1].var()).div(n).sqrt()
    assert abs(float(values[0].mean() - values[1].mean())) < 4 * float(spread)
    assert float(values[1].var() / values[0].var()) > 3  # draws that the average saves, at little noise

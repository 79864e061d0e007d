"""What a network over symbols may say: logits, probabilities, and the ratios that score entropy learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import nelbo
from nelbo.errors import DomainError, UsageError
from nelbo.model.tokens.denoiser import LEAST, NetworkTokenDenoiser
from nelbo.model.tokens.model import TokenModel
from nelbo.model.tokens.reverse import AllMasked
from nelbo.process.grid import Even
from nelbo.process.tokens import survival
from nelbo.process.tokens.kernel import Absorbing, Rates, Uniform
from nelbo.process.tokens.levels import TokenLevels
from tests.bound.tokens import oracles
from tests.bound.tokens.checks import near
from tests.model.tokens import checks

V, L = 3, 3


def ratios_of_masks(z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """log p_σ(z with y at a hidden place)/p_σ(z), by summing over all sequences; a column for the mask, too, and noise
    at visible places, of which nothing is asked."""
    data = oracles.joint(V, L)
    out = torch.randn(*z.shape, V + 1, dtype=torch.float64)
    for row, (state, s) in enumerate(zip(z, sigma.double(), strict=True)):
        alpha = torch.exp(-s)

        def law(state: torch.Tensor, alpha: torch.Tensor = alpha) -> torch.Tensor:
            each = torch.where(state == V, 1 - alpha, alpha * (data.sequences == state))
            return (data.joint.flatten() * each.prod(1)).sum()

        for i in (state == V).nonzero()[:, 0].tolist():
            for y in range(V):
                other = state.clone()
                other[i] = y
                out[row, i, y] = (law(other) / law(state)).log()
            out[row, i, V] = 0.0
    return out


def test_ratios_of_masks_are_those_of_the_data():
    """The Bayes network, as ratios of p_σ over every state: the bound is −log p(x) of every sequence."""
    data = oracles.joint(V, L)
    for schedule in (survival.Geometric(0.05, 8.0), survival.Linear(1e-3)):
        model = nelbo.tokens.from_callable(
            ratios_of_masks,
            vocabulary=V,
            length=L,
            kernel=nelbo.tokens.absorbing(V),
            time="sigma",
            schedule=schedule,
            grid=Even(2),
            predicts="log_ratios",
            prior="matched",
        )
        z = torch.tensor([[V, 0, V], [2, V, 1]])
        levels = model.levels()[0]
        found = model.predict(z, z == V, levels)
        expected = data.model().predict(z, z == V, None)
        for place in (z == V).nonzero().tolist():
            checks.close(found[tuple(place)], expected[tuple(place)], 1e-10)
        parts = {"schedule": None, "grid": nelbo.grids.full(), "prior": AllMasked()}
        counted = dataclasses.replace(model, denoiser=_untimed(model), **parts)
        for x in data.sequences[::9]:
            near(oracles.by_terms(counted, x.tolist()), -float(data.log_prob(x[None])))


def _untimed(model: TokenModel) -> NetworkTokenDenoiser:
    net = model.denoiser.net  # type: ignore[attr-defined]
    return NetworkTokenDenoiser(lambda z: net(z, torch.full((len(z),), 0.7)), V, predicts="log_ratios")


def uniform(fn, **settings) -> TokenModel:
    given = {"schedule": survival.Linear(0.1), "grid": Even(3), "predicts": "log_ratios", **settings}
    return nelbo.tokens.from_callable(fn, vocabulary=2, length=2, kernel=nelbo.tokens.uniform(), time="unit", **given)


def test_ratios_of_uniform_noise():
    """Of known data the ratios of p_t(z) over all states; the chain is that of the exact network, path by path."""
    data, schedule = oracles.joint(2, 2, seed=3), survival.Linear(0.1)

    def log_ratios(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha = schedule.alpha((t.double() * 3).round() / 3)[:, None]  # it is told t in float32
        same = data.sequences[None] == z[:, None]  # (B, every x, L)
        each = torch.where(same, alpha[..., None] + (1 - alpha[..., None]) / 2, (1 - alpha[..., None]) / 2)
        here = (data.joint.flatten() * each.prod(2)).sum(1)
        out = torch.zeros(*z.shape, 2, dtype=torch.float64)
        for i in range(2):
            other = torch.where(same[..., i], (1 - alpha) / 2, alpha + (1 - alpha) / 2)
            moved = torch.cat([each[..., :i], other[..., None], each[..., i + 1 :]], -1)
            there = (data.joint.flatten() * moved.prod(2)).sum(1)
            out[torch.arange(len(z)), i, 1 - z[:, i]] = (there / here).log()
        return out + 0.7 * torch.nn.functional.one_hot(z, 2)  # what is said of the symbol that is there is not read

    exact = data.model(Uniform(), schedule=schedule, grid=Even(3))
    for rule in ("mixture", "plug_in"):
        found = uniform(log_ratios, reverse=rule)
        for x in ([0, 1], [1, 1]):
            near(oracles.by_terms(found, x), oracles.by_terms(exact, x), 1e-9)
            near(oracles.by_terms(found, x), oracles.by_paths(found, x)[0])
    assert found.denoiser.law.value == "leave_one_out"


def test_ratios_of_no_law():
    """Ratios lower than any law gives are raised to nearly the lowest: the bound stays finite, and a law's are kept."""
    levels = TokenLevels(*(torch.full((1,), v, dtype=torch.float64) for v in (0.5, 0.6, 0.4)))
    for low, expected in ((-9.0, LEAST * 0.2), (math.log(0.5), None)):
        denoiser = uniform(lambda z, t, low=low: torch.full((*z.shape, 2), low, dtype=torch.float64)).denoiser
        law = denoiser(torch.tensor([[0, 1]]), torch.zeros(1, 2).bool(), levels).exp()[0]
        assert bool((law > 0).all()) and torch.equal(law[0], law[1].flip(0))
        if expected is not None:
            near(float(law[0, 1]), expected)
        else:  # m = (2/3, 1/3), less 0.2, over 0.6
            checks.close(law[0], torch.tensor([7 / 9, 2 / 9], dtype=torch.float64))


def test_probabilities():
    data = checks.markov()
    exact = data.denoiser(Absorbing(3))
    given = {"vocabulary": 3, "length": 4, "kernel": nelbo.tokens.absorbing(3)}
    z = torch.tensor([[3, 0, 3, 3]])
    model = nelbo.tokens.from_callable(lambda z: exact(z, z == 3, None).exp(), predicts="probabilities", **given)
    checks.close(model.predict(z, z == 3, None).exp(), data.model().predict(z, z == 3, None).exp())
    with pytest.raises(DomainError, match="probabilities with values down to -1"):
        nelbo.tokens.from_callable(lambda z: -torch.ones(*z.shape, 3), predicts="probabilities", **given).predict(
            z, z == 3, None
        )


def test_log_probabilities_with_rules_are_logits():
    """MDLM's networks return log-probabilities: the mask's is removed, visible symbols are certain. The rules of the
    model are the same, so that nothing changes."""
    data = checks.markov()
    exact = data.denoiser(Absorbing(3))

    def substituted(z: torch.Tensor) -> torch.Tensor:
        log_p = torch.cat([exact(z, z == 3, None), torch.full((*z.shape, 1), -1e6)], -1)
        certain = torch.full_like(log_p, -1e6).scatter(-1, z[..., None], 0.0)
        return log_p.where((z == 3)[..., None], certain)

    given = {"vocabulary": 3, "length": 4, "kernel": nelbo.tokens.absorbing(3)}
    z = torch.tensor([[3, 0, 3, 1]])
    found = nelbo.tokens.from_callable(substituted, **given).predict(z, z == 3, None)
    checks.close(found[z == 3].exp(), data.model().predict(z, z == 3, None)[z == 3].exp())
    assert bool((found[z != 3].exp().amax(-1) > 1 - 1e-9).all())


def test_what_has_no_ratios():
    rates = Rates(torch.tensor([[-1.0, 1.0], [0.5, -0.5]]))
    for kernel, law, words in (
        (rates, "leave_one_out", "read of masks and uniform noise"),
        (Uniform(), "posterior", "'leave_one_out'"),
        (Absorbing(2), "leave_one_out", "'posterior'"),
    ):
        with pytest.raises(UsageError, match=words):
            TokenModel(
                oracles.joint(2, 2).domain,
                kernel,
                NetworkTokenDenoiser(lambda z, t: z, 2, "unit", law=law, predicts="log_ratios"),
                survival.Linear(0.1),
                Even(2),
                prior=uniform(lambda z, t: z).prior,
            )

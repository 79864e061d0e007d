"""Masks and uniform noise together, against dense matrices, and VQ-Diffusion of diffusers against its scheduler."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import nelbo
from nelbo.errors import DomainError, UsageError
from nelbo.process.grid import Even
from nelbo.process.tokens import steps
from nelbo.process.tokens.kernel import Steps
from nelbo.process.tokens.levels import TokenLevels
from nelbo.process.tokens.masks_and_uniform import MasksAndUniform
from nelbo.process.tokens.survival import AlphaTable
from tests.bound.tokens import oracles
from tests.bound.tokens.checks import near
from tests.process.tokens.checks import same

V = 4
"""Three symbols and the mask."""
ALPHA, GAMMA = [1.0, 0.8, 0.35, 0.05], [0.0, 0.1, 0.4, 0.9]


def step(level: int) -> np.ndarray:
    """q(z at the level | z at the one before): kept, any symbol, the mask."""
    a = ALPHA[level] / ALPHA[level - 1]
    c = 1 - (1 - GAMMA[level]) / (1 - GAMMA[level - 1])
    Q = np.zeros((V, V))
    Q[:3, :3] = a * np.eye(3) + (1 - a - c) / 3
    Q[:3, 3], Q[3, 3] = c, 1
    return Q


def cumulative(level: int) -> np.ndarray:
    return np.linalg.multi_dot([np.eye(V), np.eye(V), *(step(k) for k in range(1, level + 1))])


def at(level: int, rows: int) -> TokenLevels:
    alpha, t = (torch.full((rows,), v, dtype=torch.float64) for v in (ALPHA[level], level / 3))
    return TokenLevels(t, alpha, 1 - alpha)


def test_against_matrices():
    """Every level and every step, also over two levels at once; the table says what its matrices do."""
    kernel = MasksAndUniform(torch.tensor(GAMMA[1:], dtype=torch.float64))
    z = torch.arange(V)[:, None]
    w = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(V), (V, 1)))
    for level in (1, 2, 3):
        M = cumulative(level)
        same(kernel.likelihood(z, at(level, V), V)[:, 0], M.T)
        same(kernel.marginal(w, at(level, V))[:, 0], w[:, 0].numpy() @ M)
        for before in range(level):
            between = np.linalg.multi_dot([np.eye(V), np.eye(V), *(step(k) for k in range(before + 1, level + 1))])
            same(kernel.backward(z, at(before, V), at(level, V), V)[:, 0], between.T)


def test_a_chain_is_that_of_its_matrices():
    """The terms of a random network, whole and on a coarser grid, are those of the table of steps."""
    net = oracles.TableNetwork(2, 3, 3, 2)
    matrices = np.stack([_without(step(level)) for level in (1, 2)])
    parts = {"vocabulary": 3, "length": 2, "time": "unit"}
    for grid in (None, Even(1)):
        dense = nelbo.tokens.from_callable(
            net, kernel=Steps(torch.from_numpy(matrices)), grid=grid, prior=[0.2, 0.2, 0.6], **parts
        )
        kernel, schedule = nelbo.tokens.masks_and_uniform(GAMMA[1:3]), AlphaTable(torch.tensor(ALPHA[1:3]))
        found = nelbo.tokens.from_callable(
            net, kernel=kernel, schedule=schedule, grid=grid, prior=[0.2, 0.2, 0.6], **parts
        )
        for x in itertools.product(range(2), repeat=2):
            near(oracles.by_terms(found, list(x)), oracles.by_terms(dense, list(x)), 1e-6)  # α, γ in float32


def _without(Q: np.ndarray) -> np.ndarray:
    """The step of two symbols and the mask with the same α and γ."""
    a, c = Q[0, 0] - Q[0, 1], Q[0, 3]
    out = np.zeros((3, 3))
    out[:2, :2] = a * np.eye(2) + (1 - a - c) / 2
    out[:2, 2], out[2, 2] = c, 1
    return out


def test_tables_are_checked():
    for masked in ([0.5, 0.4], [0.2, 1.0], [[0.1]], []):
        with pytest.raises(DomainError, match="probabilities of the mask"):
            nelbo.tokens.masks_and_uniform(masked)


@pytest.mark.slow
def test_vq_diffusion_of_diffusers():
    """The levels are the scheduler's, and the reverse step is its own; the network is told the index of a level."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.Transformer2DModel(
        2, 4, num_vector_embeds=6, sample_size=2, num_embeds_ada_norm=8, norm_type="ada_norm", num_layers=1,
        cross_attention_dim=8, activation_fn="geglu-approximate",
    ).eval()  # fmt: skip
    scheduler = diffusers.VQDiffusionScheduler(num_vec_classes=6, num_train_timesteps=8)
    model = nelbo.from_diffusers((net, scheduler))
    assert isinstance(model, nelbo.TokenModel) and model.steps == 8 and model.reverse.absent == (5,)
    levels, kernel = model.levels()
    same(levels.alpha.log(), scheduler.log_cumprod_at[:8].double(), 1e-4)
    z = torch.tensor([[0, 5, 3, 5]])
    text = {"encoder_hidden_states": torch.randn(1, 3, 8)}
    for k in (2, 7):
        t, s = levels[k : k + 1], levels[k - 1 : k]
        with torch.no_grad():
            log_p = model.predict(z, torch.zeros_like(z).bool(), t, text)
            theirs = net(z, timestep=torch.tensor(k), **text).sample.log_softmax(1)
        same(log_p[0, :, :5].exp(), theirs[0].T.exp().double(), 1e-6)
        expected = scheduler.q_posterior(theirs.float(), z, torch.tensor(k)).exp()[0].T
        same(steps.mixture(log_p.exp(), z, s, t, kernel)[0], expected.double(), 2e-4)
    rows = {name: v.expand(4, -1, -1) for name, v in text.items()}
    bound = nelbo.evaluate(model, torch.randint(5, (4, 4)), condition=rows, tolerance=0.2)
    assert bound.terms.prior.bits_per_dim < 1e-3
    with pytest.raises(UsageError, match="no network over codes"):
        nelbo.from_diffusers((diffusers.UNet2DModel(8), scheduler))
    with pytest.raises(UsageError, match="a scheduler of 7 classes for a network of 6"):
        nelbo.from_diffusers((net, diffusers.VQDiffusionScheduler(num_vec_classes=7)))

"""Samplers beside diffusers' schedulers: one network, one noise, the same states to float32 rounding.

Each scheduler runs its own loop in float32, as a pipeline does; ours runs on the levels that it visits, from the same
z_L. Compared is the state at every level, in diffusers' coordinates; the last x̂ is that of the network at z_1.
"""

from __future__ import annotations

import pytest
import torch

import nelbo
from nelbo.process import grid as grids
from nelbo.sampling import DDIM, Ancestral, DPMSolver2M, Euler, Heun, SDEDPMSolver2M, sample
from nelbo.sampling.paths import Paths
from tests.expected import arrays

pytestmark = arrays

diffusers = pytest.importorskip("diffusers")
T, N, SHAPE = 1000, 3, (1, 4, 4)
BETAS = {"num_train_timesteps": T, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2}
CLOSE = {"rtol": 2e-4, "atol": 5e-4}
"""Float32 tables cumulated over 1000 steps and as many as 60 float32 states, of size 1."""


def network(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth ε̂, in float32 whatever comes in; it mixes neighbouring pixels and depends on the time."""
    z, u = z.float(), t.float().reshape(-1, 1, 1, 1) / T
    return (0.9 + 0.1 * u) * torch.tanh(z) + 0.2 * torch.roll(z, 1, -1) * torch.cos(3 * u)


def model(indices: list[int], variance: str = "beta_tilde") -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        network, schedule=nelbo.schedules.linear(T), domain=nelbo.DataDomain(SHAPE),
        grid=grids.subset(sorted(indices)), variance=variance,
    )  # fmt: skip


NOISE = torch.randn(64, N, *SHAPE, generator=torch.Generator().manual_seed(1))


class Replayed:
    """A sampler whose k-th noise is `NOISE[k]`, the one that the scheduler is given as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.drawn = 0
        monkeypatch.setattr(Paths, "normal", lambda paths, rows, level: self.next().double())

    def next(self, *_, **__) -> torch.Tensor:
        self.drawn += 1
        return NOISE[self.drawn - 1]


def ours(sampler, indices, start, variance="beta_tilde"):
    told = sample(model(indices, variance), N, sampler=sampler, start=start.double(), codes=False, trajectory=True)
    return told.z, told.logsnr


def theirs(scheduler, start, **options) -> list[torch.Tensor]:
    """The state before every step, and after the last."""
    z, states = start, [start]
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(z, t)
        z = scheduler.step(network(shown, t.expand(N)), t, z, **options).prev_sample
        states.append(z)
    return states


def start() -> torch.Tensor:
    return torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(0))


def positions(scheduler) -> list[int]:
    return [int(t) for t in scheduler.timesteps]


def both(scheduler, steps, sampler, monkeypatch, variance="beta_tilde", **options):
    """The states of ours and of the scheduler, with the same noise, before every step of the scheduler."""
    scheduler.set_timesteps(steps)
    replayed = Replayed(monkeypatch)
    z, _ = ours(sampler, positions(scheduler), start(), variance)
    drawn, replayed.drawn = replayed.drawn, 0
    monkeypatch.setattr(f"{type(scheduler).__module__}.randn_tensor", replayed.next)
    states = theirs(scheduler, start(), **options)
    return z, torch.stack(states[:-1]).double(), drawn


@pytest.mark.parametrize(("name", "variance"), [("fixed_small", "beta_tilde"), ("fixed_large", "beta")])
def test_ddpm(name, variance, monkeypatch):
    scheduler = diffusers.DDPMScheduler(**BETAS, variance_type=name, clip_sample=False)
    z, states, drawn = both(scheduler, 50, Ancestral(variance), monkeypatch, variance)
    assert drawn == 49
    torch.testing.assert_close(states, z, **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(eta, monkeypatch):
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    z, states, _ = both(scheduler, 50, DDIM(eta), monkeypatch, eta=eta)
    torch.testing.assert_close(states, z, **CLOSE)


def test_a_difference_is_seen(monkeypatch):
    """η = 0.6 beside η = 0.5: a hundred times the tolerance."""
    z, states, _ = both(diffusers.DDIMScheduler(**BETAS, clip_sample=False), 50, DDIM(0.5), monkeypatch, eta=0.6)
    assert float((states - z).abs().max()) > 0.05


@pytest.mark.parametrize("kind", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver(kind, monkeypatch):
    """27 of 1000 steps, the last of which ends at z_1 here and goes on to σ = 0 there."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, algorithm_type=kind, solver_order=2)
    sampler = DPMSolver2M() if kind == "dpmsolver++" else SDEDPMSolver2M()
    z, states, _ = both(scheduler, 27, sampler, monkeypatch)
    torch.testing.assert_close(states, z, **CLOSE)


@pytest.mark.parametrize(("name", "sampler", "stride"), [("Euler", Euler(), 1), ("Heun", Heun(), 2)])
def test_samplers_of_z_over_alpha(name, sampler, stride):
    """diffusers' state is y = z/α; every `stride`-th of its states stands at a level of the grid.

    linspace over 28 of 1000 steps falls on whole positions, 37 apart.
    """
    scheduler = getattr(diffusers, f"{name}DiscreteScheduler")(**BETAS, timestep_spacing="linspace")
    scheduler.set_timesteps(28)
    visited = sorted(set(positions(scheduler)))
    y = start() * float(scheduler.sigmas[0])
    first = nelbo.schedules.linear(T).at_index(torch.tensor([visited[-1]]))
    z, logsnr = ours(sampler, visited, y.double() * first.alpha)
    alpha = torch.sigmoid(logsnr).sqrt().reshape(-1, 1, 1, 1, 1)
    states = torch.stack(theirs(scheduler, y)[::stride]).double()
    # relative to 1 + ς: the states begin at 157 and end near 1
    scale = 1 + (-0.5 * logsnr).exp().reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close((states[: len(z)] / scale)[:28], (z / alpha / scale)[:28], **CLOSE)

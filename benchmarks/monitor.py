"""Monitoring a training run: noise of the curve's changes, of a monitor and of a validation loss at random t and ε.

A network is trained in a plain loop, and checkpoints are kept. Every checkpoint is read by monitors of several seeds,
and by as many validation losses of the same number of evaluations, one random t and ε an example, drawn anew each time:
of the bound itself, and of the mean squared error of ε, without weights. What is noise is the deviation of a change
between two checkpoints from that of an estimate of the same quantity with far more evaluations.

    python benchmarks/monitor.py --json monitor.json
    python benchmarks/monitor.py --train FOLDER/train-images-idx3-ubyte.gz --test FOLDER/t10k-images-idx3-ubyte.gz
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn

import nelbo
from nelbo.data import read
from nelbo.maths.units import bits_per_dim
from nelbo.monitoring.monitor import Monitor


class Network(nn.Module):
    """v from z and log-SNR, for images of D pixels."""

    def __init__(self, D: int):
        super().__init__()
        width = max(256, D)
        self.layers = nn.Sequential(
            nn.Linear(D + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, D)
        )
        self.register_buffer("rates", torch.linspace(0.1, 2.0, 16))

    def forward(self, z, t):
        angles = t[:, None].float() * self.rates
        return self.layers(torch.cat([z.flatten(1), angles.sin(), angles.cos()], 1)).reshape(z.shape)


def model_of(network: nn.Module, shape: tuple[int, ...], bins: int) -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        network,
        schedule=nelbo.schedules.logsnr_linear(9.0 if bins < 256 else 13.0, -6.0),  # the codes are decided at the end
        domain=nelbo.DataDomain(shape, bins=bins),
        predicts="v",
        time="logsnr",
        decoder="categorical",
    )


def checkpoints(data: torch.Tensor, bins: int, steps: int, every: int, seed: int) -> list[nn.Module]:
    """Copies of the network of a run, one every so many steps."""
    torch.manual_seed(seed)
    network = Network(data[0].numel())
    model, kept = model_of(network, tuple(data.shape[1:]), bins), []
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(1, steps + 1):
        x = data[torch.randint(len(data), (128,))]
        loss = nelbo.bound_loss(model, x, seed=seed, step=step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0:
            kept.append(copy.deepcopy(network))
    return kept


def random_loss(model: nelbo.DiffusionModel, x: torch.Tensor, evaluations: int, seed: int) -> float:
    """The bound of `evaluations` examples, each at one t and ε of its own, in bits/dim."""
    rows = torch.randint(len(x), (evaluations,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float(nelbo.bound_loss(model, x[rows], times="uniform", reconstruction_share=1.0, seed=seed))


def squared_error(model: nelbo.DiffusionModel, x: torch.Tensor, evaluations: int, seed: int, net: nn.Module) -> float:
    """Mean ‖ε − ε̂‖²/D of `evaluations` examples, each at one t and ε of its own."""
    keyed = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(x), (evaluations,), generator=keyed)
    clean = model.domain.values(x[rows]).float()
    levels = model.schedule.at(torch.rand(evaluations, generator=keyed, dtype=torch.float64))
    alpha, sigma = (a.float().reshape(-1, *[1] * (clean.ndim - 1)) for a in (levels.alpha, levels.sigma))
    eps = torch.randn(clean.shape, generator=keyed)
    z = alpha * clean + sigma * eps
    with torch.no_grad():
        v = net(z, levels.logsnr.float())
    return float((eps - (sigma * z + alpha * v)).square().mean())


def measure(
    data: torch.Tensor, x: torch.Tensor, bins: int, steps: int, every: int, seeds: int, budget: int, precise: int
) -> dict:
    """See the module."""
    networks = checkpoints(data, bins, steps, every, 0)
    live = copy.deepcopy(networks[0])
    model = model_of(live, tuple(x.shape[1:]), bins)
    exactly = Monitor(model, x, budget=precise * budget, seed=10**6)
    monitors = [Monitor(model, x, budget=budget, seed=seed) for seed in range(seeds)]
    losses = {"random": random_loss, "mse": partial(squared_error, net=live)}
    truth, errors, exact = [], [], []
    curves = {name: [] for name in ("monitor", *losses)}
    for k, network in enumerate(networks):
        live.load_state_dict(network.state_dict())
        reading = exactly.update(k)
        truth.append(reading.value)
        errors.append(reading.change_error)
        exact.append(squared_error(model, x, precise * budget, 0, live))
        curves["monitor"].append([monitor.update(k).value for monitor in monitors])
        for name, loss in losses.items():
            curves[name].append(
                [loss(model, x=x, evaluations=budget, seed=1 + seed + seeds * k) for seed in range(seeds)]
            )
    t, of = np.array(truth), {}
    for name, readings in curves.items():
        curve, true = np.array(readings), np.array(exact) if name == "mse" else t
        noise = np.diff(curve, axis=0) - np.diff(true)[:, None]
        picked = curve.argmin(0)
        of[name] = {
            "change_noise": float(np.sqrt((noise**2).mean())),
            "change_noise_late": float(np.sqrt((noise[len(noise) // 2 :] ** 2).mean())),
            "signal_late": float(np.sqrt(np.square(np.diff(true))[len(noise) // 2 :].mean())),
            "right_sign": float((np.sign(np.diff(curve, axis=0)) == np.sign(np.diff(true))[:, None]).mean()),
            "best_picked": float((picked == t.argmin()).mean()),
            "regret": float((t[picked] - t.min()).mean()),
        }
    stated = [[reading.change_error for reading in monitor.readings[1:]] for monitor in monitors]
    return {
        "schema": "nelbo.benchmark.monitor/1",
        "checkpoints": len(networks),
        "steps": steps,
        "budget": budget,
        "seeds": seeds,
        "bound": [round(v, 4) for v in truth],
        "error_of_true_changes": float(np.sqrt(np.nanmean(np.square(errors)))),
        "stated_change_error": float(np.sqrt(np.square(stated).mean())),
        **of,
        "ratio": of["random"]["change_noise"] / of["monitor"]["change_noise"],
        "ratio_late": of["random"]["change_noise_late"] / of["monitor"]["change_noise_late"],
        "unit": f"bits/dim; one is {float(1 / bits_per_dim(1.0, x[0].numel())):.1f} nats an example; of mse, its own",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", metavar="DATA", default="digits:train")
    parser.add_argument("--test", metavar="DATA", default="digits:test")
    parser.add_argument("--bins", type=int, help="256 where the data do not say")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument(
        "--precise", type=int, default=64, help="times the budget, of what the curves are compared with"
    )
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, test = (read(name) for name in (given.train, given.test))
    bins = given.bins or train.bins or 256
    result = measure(train.data, test.data, bins, given.steps, given.every, given.seeds, given.budget, given.precise)
    print(json.dumps(result, indent=1))
    if given.json:
        from nelbo.files import write_atomic

        write_atomic(given.json, json.dumps(result, indent=1) + "\n")

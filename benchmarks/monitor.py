"""Monitoring a training run: noise of the curve's changes, of a monitor and of a validation loss at random t and ε.

A network is trained on the digits in a plain loop, and checkpoints are kept. Every checkpoint is read by monitors of
several seeds, and by as many validation losses of the same number of evaluations, one random t and ε an example, drawn
anew each time. What is noise is the deviation of a change between two checkpoints from that of an estimate with far
more evaluations.

    python benchmarks/monitor.py --json monitor.json
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings

import numpy as np
import torch
from torch import nn

import nelbo
from nelbo.data import read
from nelbo.maths.units import bits_per_dim
from nelbo.monitoring.monitor import Monitor


class Network(nn.Module):
    """x̂'s v from z and log-SNR, for 8 × 8 digits."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64)
        )
        self.register_buffer("rates", torch.linspace(0.1, 2.0, 16))

    def forward(self, z, t):
        angles = t[:, None].float() * self.rates
        return self.layers(torch.cat([z.flatten(1), angles.sin(), angles.cos()], 1)).reshape(z.shape)


def model_of(network: nn.Module) -> nelbo.DiffusionModel:
    return nelbo.from_callable(
        network,
        schedule=nelbo.schedules.logsnr_linear(9.0, -6.0),
        domain=nelbo.DataDomain((8, 8), bins=17),
        predicts="v",
        time="logsnr",
        decoder="categorical",
    )


def checkpoints(steps: int, every: int, seed: int) -> list[nn.Module]:
    """Copies of the network of a run, one every so many steps."""
    torch.manual_seed(seed)
    network = Network()
    model, kept = model_of(network), []
    data = torch.as_tensor(read("digits:train").data)
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
    """The validation loss that is usual: `evaluations` examples, each at one t and ε of its own, in bits/dim; as much
    of the bound as the monitor's value is."""
    rows = torch.randint(len(x), (evaluations,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float(nelbo.bound_loss(model, x[rows], times="uniform", reconstruction_share=1.0, seed=seed))


def measure(steps: int, every: int, seeds: int, budget: int) -> dict:
    """See the module."""
    x = torch.as_tensor(read("digits:test").data)
    networks = checkpoints(steps, every, 0)
    live = copy.deepcopy(networks[0])
    model = model_of(live)
    precise = Monitor(model, x, budget=64 * budget, seed=10**6)
    monitors = [Monitor(model, x, budget=budget, seed=seed) for seed in range(seeds)]
    truth, errors, values, losses = [], [], [], []
    for k, network in enumerate(networks):
        live.load_state_dict(network.state_dict())
        reading = precise.update(k)
        truth.append(reading.value)
        errors.append(reading.change_error)
        values.append([monitor.update(k).value for monitor in monitors])
        losses.append([random_loss(model, x, budget, 1 + seed + seeds * k) for seed in range(seeds)])
    t, m, r = np.array(truth), np.array(values), np.array(losses)
    of = {}
    for name, curve in (("monitor", m), ("random", r)):
        noise = np.diff(curve, axis=0) - np.diff(t)[:, None]
        picked = curve.argmin(0)
        of[name] = {
            "change_noise": float(np.sqrt((noise**2).mean())),
            "change_noise_late": float(np.sqrt((noise[len(noise) // 2 :] ** 2).mean())),
            "right_sign": float((np.sign(np.diff(curve, axis=0)) == np.sign(np.diff(t))[:, None]).mean()),
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
        "unit": f"bits/dim; one is {float(1 / bits_per_dim(1.0, 64)):.1f} nats an example",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = measure(given.steps, given.every, given.seeds, given.budget)
    print(json.dumps(result, indent=1))
    if given.json:
        from nelbo.files import write_atomic

        write_atomic(given.json, json.dumps(result, indent=1) + "\n")

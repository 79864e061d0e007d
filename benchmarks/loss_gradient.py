"""The variance of the gradient of `nelbo.bound_loss`, by how times are drawn, at checkpoints of a training run.

An MLP is trained on the digits. At each checkpoint the loss of batches of 128 is differentiated for many steps, and the
variance is the sum of those of all partial derivatives. "uniform" are independent times; "importance" has learned its
density from losses of 200 steps at the checkpoint.

    python benchmarks/loss_gradient.py --json loss_gradient.json
"""

from __future__ import annotations

import argparse
import json
import warnings

import torch
from monitor import Network, model_of

import nelbo
from nelbo.data import read
from nelbo.files import write_atomic
from nelbo.monitoring import planned_times
from nelbo.training.times import TimeSampler, TimeSampling

BATCH = 128


def variance(model, network, data, times, steps: int, first: int) -> float:
    """The trace of the covariance of the gradient, over `steps` batches at fresh times and noise."""
    total, squares = None, 0.0
    for step in range(first, first + steps):
        x = data[torch.randint(len(data), (BATCH,), generator=torch.Generator().manual_seed(step))]
        grads = torch.autograd.grad(nelbo.bound_loss(model, x, times=times, seed=1, step=step), network.parameters())
        flat = torch.cat([g.flatten() for g in grads]).double()
        total = flat if total is None else total + flat
        squares += float(flat @ flat)
    mean = total / steps
    return (squares / steps - float(mean @ mean)) * steps / (steps - 1)


def learned(model, data, steps: int = 200) -> TimeSampler:
    """A density learned from losses, at the network as it is."""
    from nelbo.training.batches import Batch
    from nelbo.training.criterion import Criterion
    from nelbo.training.objective import BoundObjective
    from nelbo.training.weighting import FLAT

    criterion = Criterion(BoundObjective(FLAT, 0.125), TimeSampler(TimeSampling.IMPORTANCE))
    with torch.no_grad():
        for step in range(steps):
            x = data[torch.randint(len(data), (BATCH,), generator=torch.Generator().manual_seed(step))]
            criterion(model, Batch(model.domain.checked(x), 7, step))
            criterion.after_backward(), criterion.end_of_step()
    return criterion.times


def measure(points: list[int], steps: int) -> dict:
    """See the module."""
    data = read("digits:train").data
    torch.manual_seed(0)
    network = Network(64)
    model = model_of(network, (8, 8), 17)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    planned, rows = planned_times(model, data), []
    for step in range(max(points) + 1):
        if step in points:
            samplers = {"uniform": "uniform", "low_discrepancy": "low_discrepancy", "planned": planned}
            samplers["importance"] = learned(model, data)
            found = {name: variance(model, network, data, times, steps, 10**6) for name, times in samplers.items()}
            rows.append({"step": step, **found, **{f"uniform/{n}": found["uniform"] / v for n, v in found.items()}})
            print(json.dumps(rows[-1]), flush=True)
        loss = nelbo.bound_loss(model, data[torch.randint(len(data), (BATCH,))], seed=0, step=step)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    return {"schema": "nelbo.benchmark.loss_gradient/1", "batch": BATCH, "draws": steps, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[0, 100, 500, 2000])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = measure(given.points, given.steps)
    if given.json:
        write_atomic(given.json, json.dumps(result, indent=1) + "\n")

"""A monitor inside other people's loops: a callback of Lightning, and a metric of torchmetrics.

Each needs its package, which is imported when it is made.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from nelbo.ambient import neutral
from nelbo.arguments import numbers
from nelbo.errors import UsageError
from nelbo.model.diffusion import DiffusionModel
from nelbo.monitoring.loss import bound_loss
from nelbo.monitoring.monitor import Monitor
from nelbo.typing import Condition


@numbers
def lightning_callback(monitor: Monitor, every: int = 500) -> Any:
    """A `lightning.Callback` that reads `monitor` every so many steps of the optimiser.

    Readings go to the trainer's logger under the monitor's prefix, and end the training once `monitor.should_stop`. The
    callback's state, which Lightning's checkpoints hold, is that of the monitor. Errors: UsageError where Lightning is
    not installed.
    """
    if every < 1:
        raise UsageError(f"every={every}", "give a number of steps from 1 on")
    Callback = library("lightning").Callback

    class MonitorCallback(Callback):
        def __init__(self) -> None:
            self.monitor, self.read_at = monitor, -1

        @property
        def state_key(self) -> str:
            return "nelbo.Monitor"

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            step = trainer.global_step
            if step % every or step == self.read_at:  # a step of several batches ends with the last of them
                return
            self.read_at = step
            reading = monitor.update(step)
            if trainer.logger is not None and trainer.is_global_zero:
                trainer.logger.log_metrics(monitor.named(reading), step=step)
            trainer.should_stop = trainer.should_stop or monitor.should_stop

        def state_dict(self) -> dict[str, Any]:
            return {"monitor": monitor.state_dict(), "read_at": self.read_at}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            monitor.load_state_dict(state_dict["monitor"])
            self.read_at = state_dict["read_at"]

    return MonitorCallback()


@numbers
def torchmetrics_metric(model: DiffusionModel, *, seed: int = 0, reconstruction_share: float = 1.0) -> Any:
    """A `torchmetrics.Metric` of the bound of `model` in bits/dim: `update(x)` with batches of examples, `compute()`.

    Every batch is scored by `bound_loss` at noise that is keyed by its number since `reset`, so that an epoch over the
    same batches has the same draws each time. The network is in evaluation mode while it is called, without gradients.
    Errors: UsageError where torchmetrics is not installed.
    """
    Metric = library("torchmetrics").Metric

    class BoundMetric(Metric):
        is_differentiable, higher_is_better, full_state_update = False, False, False
        total: Tensor
        examples: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.batches = 0
            for name in ("total", "examples"):
                self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

        def update(self, x: Tensor, condition: Condition | None = None) -> None:
            """Take a batch of codes or values (B, *shape) into the mean."""
            rank, size = _place()
            step, self.batches = self.batches * size + rank, self.batches + 1
            with neutral(), torch.no_grad(), model.denoiser.inference():
                loss = bound_loss(
                    model, x, condition=condition, reconstruction_share=reconstruction_share, seed=seed, step=step
                )
            self.total += loss.to(self.total) * len(x)
            self.examples += len(x)

        def compute(self) -> Tensor:
            """The mean bound of the examples since the last reset."""
            return self.total / self.examples

        def reset(self) -> None:
            """Begin again, with the noise of the first batch."""
            super().reset()
            self.batches = 0

    return BoundMetric()


def library(name: str) -> Any:
    """The module `name`. Errors: UsageError with the extra that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"this needs {name}, which is not installed", f"pip install 'nelbo[{name}]'") from None


def _place() -> tuple[int, int]:
    """The rank of this process and their number, in a run of torch.distributed."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1

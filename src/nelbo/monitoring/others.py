"""A monitor inside other people's loops: callbacks of Lightning and of transformers, and a metric of torchmetrics.

Each needs its package, which is imported when it is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nelbo.ambient import neutral
from nelbo.arguments import check_function, numbers
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
def transformers_callback(monitor: Monitor, every: int = 500, *, log: Callable[..., Any] | None = None) -> Any:
    """A `transformers.TrainerCallback` that reads `monitor` every so many steps of the optimiser.

    It ends the training once `monitor.should_stop`. log: called with {name: value, …} by the first process, so that
    readings go to the trainer's history and trackers: `callback.log = trainer.log`, once there is a trainer. The
    callback's state, which the trainer's checkpoints hold, is that of the monitor: a run that is resumed with
    `restore_callback_states_from_checkpoint=True` goes on with the same curve. Errors: UsageError where transformers
    is not installed.
    """
    if every < 1:
        raise UsageError(f"every={every}", "give a number of steps from 1 on")
    check_function("log", log, "values")
    transformers = library("transformers")

    to = [log]  # shared with the callback that a trainer which resumes makes in the place of this one

    class MonitorCallback(transformers.TrainerCallback, library("transformers.trainer_callback").ExportableState):
        @property
        def log(self) -> Callable[..., Any] | None:
            return to[0]

        @log.setter
        def log(self, value: Callable[..., Any] | None) -> None:
            to[0] = value

        @property
        def monitor(self) -> Any:
            """The monitor's state, as JSON."""
            return _plain(monitor.state_dict())

        @monitor.setter
        def monitor(self, value: Any) -> None:
            monitor.load_state_dict(value)

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"monitor": self.monitor}}

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every:
                return
            reading = monitor.update(state.global_step)
            if self.log is not None and state.is_world_process_zero:
                self.log(monitor.named(reading))
            control.should_training_stop = control.should_training_stop or monitor.should_stop

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
        extra = name.partition(".")[0]
        raise UsageError(f"this needs {extra}, which is not installed", f"pip install 'nelbo[{extra}]'") from None


def _plain(state: Any) -> Any:
    """The state of a monitor with lists in the place of tensors, as JSON has it."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, Tensor) else state


def _place() -> tuple[int, int]:
    """The rank of this process and their number, in a run of torch.distributed."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1

"""The trainer: network, average, optimiser and step of one run, and what a step does to them."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nelbo import runtime
from nelbo.errors import NumericalError, WorkerError
from nelbo.model.examples import Examples
from nelbo.training.batches import Batch, Loader, batch_parts
from nelbo.training.config import Precision, TrainConfig
from nelbo.training.criterion import Criterion, make_criterion
from nelbo.training.data import AnyModel
from nelbo.training.optimizer import learning_rate_factor, make_optimizer
from nelbo.typing import Json
from nelbo.workers import Alone, Workers


class Trainer:
    """Network, average, optimiser and step. `advance` takes a step; `state` holds all that a step needs."""

    def __init__(self, model: AnyModel, loader: Loader, settings: TrainConfig, workers: Workers):
        self.model, self.loader, self.settings, self.workers = model, loader, settings, workers
        self.net: nn.Module = model.denoiser.to(loader.device)
        if settings.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = settings.ema

        def average(old: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            early = float(count) / (float(count) + 20)  # over the last (count + 20)/20 steps: the start is forgotten
            torch._foreach_lerp_(old, new, 1 - min(decay, early))

        self.ema = AveragedModel(self.net, multi_avg_fn=average)  # type: ignore[arg-type]
        self.ema.eval()
        self.parts = batch_parts(settings.batch_size, workers.rank, workers.size, settings.accumulate)
        self.criterion = make_criterion(settings).to(loader.device)
        self.optimizer = make_optimizer(self.net, self.criterion, settings)
        self.step = 0
        self.seconds = 0.0
        if settings.compile:
            getattr(self.net, "net", self.net).compile()
        self.loss: nn.Module = _Loss(model, self.criterion, settings)
        if isinstance(workers, runtime.Processes):
            self.loss = workers.replicated(self.loss, loader.device)

    @classmethod
    def alone(
        cls,
        model: AnyModel,
        examples: Examples,
        settings: TrainConfig,
        device: torch.device | str = "cpu",
    ) -> Trainer:
        """A trainer on all of `examples` in this process, as benchmarks use it."""
        loader = Loader(examples, torch.arange(len(examples)), settings, torch.device(device), None)
        return cls(model, loader, settings, Alone())

    def advance(self) -> Json:
        """One optimiser step; its record, with the losses where the step is logged.

        Errors: NumericalError, WorkerError, and those of reading the data; the state must then not be saved.
        """
        started = time.perf_counter()
        self.net.train()
        settings = self.settings
        start, length = settings.stage(self.step)
        lr = settings.lr * learning_rate_factor(self.step - start, length, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(self.loader.batches(self.step, self.parts)):
            for name, value in self._backward(number, batch).items():
                totals[name] = totals[name] + value if name in totals else value
        if self.workers.size > 1:  # DDP averages over processes; the sum is needed
            torch._foreach_mul_([p.grad for p in self.net.parameters() if p.grad is not None], self.workers.size)
        self.criterion.end_of_step(self._total)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), settings.gradient_clip)
        if not (math.isfinite(float(norm)) and math.isfinite(float(totals["loss"]))):
            raise NumericalError(
                f"the loss or its gradient is not finite at step {self.step + 1}",
                "give a lower lr=… and continue from the last checkpoint, or start again",
            )
        self.optimizer.step()
        self.ema.update_parameters(self.net)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return self._record(totals)

    def _backward(self, number: int, batch: Batch) -> dict[str, Tensor]:
        """The losses of micro-batch `number`; its gradient is added to those of the others."""
        settings, workers = self.settings, self.workers
        parts = workers.size * settings.accumulate
        key = settings.seed * 1_000_003 + self.step  # dropout is keyed by the step and the part of the batch
        torch.manual_seed((key * parts + workers.rank + workers.size * number) % 2**63)
        last = number == len(self.parts) - 1
        no_sync = getattr(self.loss, "no_sync", contextlib.nullcontext)
        try:
            with contextlib.nullcontext() if last else no_sync():
                losses = self.loss(replace(batch, report=self._logged(self.step + 1)))
                losses["loss"].backward()
            self.criterion.after_backward()
        except RuntimeError as error:
            lost = workers.lost(error) if isinstance(workers, runtime.Processes) else None
            if lost is None:
                raise
            raise lost from None
        return {name: value.detach() for name, value in losses.items()}

    def _total(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes, the same on all of them."""
        if self.workers.size == 1:
            return value
        rows = self.workers.gather(value.detach().double().cpu().reshape(1, -1))
        return torch.stack(rows).sum(0).reshape(value.shape).to(value)

    def _logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0 or step in (1, self.settings.steps)

    def _record(self, losses: dict[str, Tensor]) -> Json:
        record: Json = {"step": self.step, "steps": self.settings.steps}
        if self._logged(self.step):
            values = torch.stack([value.double() for value in losses.values()]).cpu()
            record |= dict(zip(losses, self._total(values).tolist(), strict=True))
            record |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": round(self.seconds, 3)}
        return record

    @property
    def averaged(self) -> AnyModel:
        """The model with the present averaged weights, on the device of the run."""
        return self.with_denoiser(self.ema.module)

    def with_denoiser(self, denoiser: Any, **origin: Any) -> AnyModel:
        """The run's model with another denoiser; origin: `provenance` and `trained_on`."""
        return replace(self.criterion.frozen(self.model).with_networks(denoiser), **origin)

    def state(self) -> dict[str, Any]:
        """All that the next step needs; noise, order and dropout follow from the step."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criterion": self.criterion.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.criterion.load_state_dict(state["criterion"])
        self.step, self.seconds = state["step"], state["seconds"]

    def check_agreement(self) -> None:
        """Check that all processes continue from the same step. Errors: WorkerError where they do not."""
        rows = self.workers.gather(torch.tensor([[float(self.step)]], dtype=torch.float64))
        steps = [int(row[0, 0]) for row in rows]
        if len(set(steps)) > 1:
            raise WorkerError(
                f"the processes have checkpoints of different steps: {', '.join(map(str, steps))}",
                "give out=FOLDER on a file system that they share",
            )

    def finished(self, weights: dict[str, Tensor] | None, provenance: Json, hashes: Tensor) -> AnyModel:
        """The model of the run, on the CPU, with `weights` or, where they are None, the averaged weights."""
        self.net.load_state_dict(self.ema.module.state_dict() if weights is None else weights)
        self.net.eval()
        # a copy is not compiled, so that a batch of another size does not start the compiler again
        denoiser = copy.deepcopy(self.model.denoiser) if self.settings.compile else self.model.denoiser
        denoiser = denoiser.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.with_denoiser(denoiser, provenance=provenance, trained_on=hashes)


class _Loss(nn.Module):
    """The loss as a module whose parameters are the network's: DDP needs one forward pass for each backward pass.

    The criterion's parameters are not DDP's: their gradients are made after the backward pass, and summed by `Trainer`.
    """

    def __init__(self, model: AnyModel, criterion: Criterion, settings: TrainConfig):
        super().__init__()
        self.denoiser = model.denoiser
        self.model, self.precision = model, settings.precision
        self._criterion = (criterion,)  # a module in a tuple is no submodule

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """What is minimised, under `loss`, and its terms; scalars."""
        (criterion,) = self._criterion
        if self.precision is Precision.FLOAT32:
            return criterion(self.model, batch)
        with torch.autocast(batch.target.device.type, torch.bfloat16):
            return criterion(self.model, batch)

"""The state of one run, and what a step does to it."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nelbo import runtime
from nelbo.errors import NumericalError, WorkerError
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training.batches import Places, dealt
from nelbo.training.config import Precision, TrainConfig
from nelbo.training.criterion import Criterion
from nelbo.training.feed import Feed
from nelbo.training.objective_config import make_criterion
from nelbo.training.optimizer import make_optimizer
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Workers


class Run:
    """Network, average, optimiser and step. `advance` takes a step; `state` and `restore` are all that a step needs."""

    def __init__(
        self, model: DiffusionModel, feed: Feed, settings: TrainConfig, device: torch.device, workers: Workers
    ):
        self.model, self.feed, self.settings, self.device, self.workers = model, feed, settings, device, workers
        self.net: nn.Module = model.denoiser.to(device)
        if settings.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = settings.ema

        def average(old: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            warm = float(count) / (float(count) + 20)
            torch._foreach_lerp_(old, new, 1 - min(decay, warm))

        self.ema = AveragedModel(self.net, multi_avg_fn=average)  # type: ignore[arg-type]
        self.ema.eval()
        self.parts = dealt(settings.batch_size, workers.rank, workers.size, settings.accumulate)
        self.criterion = make_criterion(settings).to(device)
        self.optimizer = make_optimizer(self.net, self.criterion, settings)
        self.step = 0
        self.seconds = 0.0
        if settings.compile:
            getattr(self.net, "net", self.net).compile()
        self.objective: nn.Module = _Loss(model, self.criterion, settings)
        if isinstance(workers, runtime.Processes):
            self.objective = workers.replicated(self.objective, device)

    @classmethod
    def of(
        cls, model: DiffusionModel, examples: Examples, settings: TrainConfig, device: torch.device | str = "cpu"
    ) -> Run:
        """A run on all of `examples` in this process, which writes nothing down: to time its steps."""
        place = torch.device(device)
        return cls(model, Feed(examples, torch.arange(len(examples)), settings, place, None), settings, place, Alone())

    def advance(self) -> Json:
        """One optimiser step; its record, with the losses where this is a step that is logged.

        Errors: NumericalError, WorkerError, and those of reading the data; the state is then not to be saved.
        """
        started = time.perf_counter()
        self.net.train()
        settings = self.settings
        lr = settings.lr * learning_rate_factor(self.step, settings.steps, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        batches = self.feed.batches(self.step, self.parts)
        for number, (places, (target, condition)) in enumerate(zip(self.parts, batches, strict=True)):
            for name, value in self._backward(number, places, target, condition).items():
                totals[name] = totals[name] + value if name in totals else value
        if self.workers.size > 1:  # DDP averages over processes what is to be added up
            torch._foreach_mul_([p.grad for p in self.net.parameters() if p.grad is not None], self.workers.size)
        self.criterion.end_of_step(self._total)
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), settings.gradient_clip)
        if not (math.isfinite(float(norm)) and math.isfinite(float(totals["loss"]))):
            raise NumericalError(
                f"the loss or its gradient is not finite at step {self.step + 1}",
                "lower lr (--set lr=…) and continue from the last checkpoint, or start again",
            )
        self.optimizer.step()
        self.ema.update_parameters(self.net)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return self._record(totals)

    def _backward(self, number: int, places: Places, target: Tensor, condition: Condition | None) -> dict[str, Tensor]:
        """The losses of one micro-batch, its gradient added to what is there."""
        settings, workers = self.settings, self.workers
        parts = workers.size * settings.accumulate
        key = settings.seed * 1_000_003 + self.step  # of dropout, which is keyed by the step and the part of the batch
        torch.manual_seed((key * parts + workers.rank + workers.size * number) % 2**63)
        last = number == len(self.parts) - 1
        later = getattr(self.objective, "no_sync", contextlib.nullcontext)
        try:
            with contextlib.nullcontext() if last else later():
                losses = self.objective(target, places, self.step, condition, self._logged(self.step + 1))
                losses["loss"].backward()
            self.criterion.after_backward()
        except RuntimeError as error:
            gone = workers.lost(error) if isinstance(workers, runtime.Processes) else None
            if gone is None:
                raise
            raise gone from None
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
    def averaged(self) -> DiffusionModel:
        """The model with the averaged weights as they are now, on the device of the run."""
        return self.with_denoiser(self.ema.module)

    def with_denoiser(self, denoiser: Any, **known: Any) -> DiffusionModel:
        """The run's model with other weights, and what is `known` of their making."""
        m = self.criterion.frozen(self.model)
        return DiffusionModel(m.domain, m.schedule, m.grid, denoiser, m.reverse, m.decoder, m.prior, **known)

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
        """Go on from a state."""
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.criterion.load_state_dict(state["criterion"])
        self.step, self.seconds = state["step"], state["seconds"]

    def agree(self) -> None:
        """Make sure that all processes go on from the same step. Errors: WorkerError where they do not."""
        told = self.workers.gather(torch.tensor([[float(self.step)]], dtype=torch.float64))
        steps = [int(row[0, 0]) for row in told]
        if len(set(steps)) > 1:
            raise WorkerError(
                f"the processes found checkpoints of different steps: {', '.join(map(str, steps))}",
                "give an --out that all of them see, on a file system that they share",
            )

    def finished(self, weights: dict[str, Tensor] | None, provenance: Json, hashes: Tensor) -> DiffusionModel:
        """The model of the run, on the CPU: with the averaged weights, or with `weights`."""
        self.net.load_state_dict(self.ema.module.state_dict() if weights is None else weights)
        self.net.eval()
        # a copy is not compiled, so that a batch of another size need not wait for the compiler
        denoiser = copy.deepcopy(self.model.denoiser) if self.settings.compile else self.model.denoiser
        denoiser = denoiser.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.with_denoiser(denoiser, provenance=provenance, trained_on=hashes)


class _Loss(nn.Module):
    """The loss as a module of the network alone: one forward pass a backward pass, as DDP wants it.

    What the criterion trains is not DDP's: its gradients are made after the backward pass, and summed by `Run`.
    """

    def __init__(self, model: DiffusionModel, criterion: Criterion, settings: TrainConfig):
        super().__init__()
        self.denoiser = model.denoiser
        self.model, self.settings = model, settings
        self.held = (criterion,)  # in a tuple it is no submodule

    def forward(
        self, target: Tensor, places: Places, step: int, condition: Condition | None, report: bool
    ) -> dict[str, Tensor]:
        """What is minimised, under `loss`, and its parts; scalars. report: somebody will look at them."""
        arguments = (self.model, target, self.settings.seed, step, places, condition, report)
        if self.settings.precision is Precision.FLOAT32:
            return self.held[0](*arguments)
        with torch.autocast(target.device.type, torch.bfloat16):
            return self.held[0](*arguments)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps times a cosine from 1 to 0.01 over the run."""
    return min(1.0, (step + 1) / max(1, warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))

"""`Monitor`: the bound of a network in training, by the same draws each time.

    monitor = nelbo.Monitor(model, held_out, budget=512, out="monitor.jsonl", patience=10)
    for step in range(steps):
        ...                                       # any training loop
        if step % 500 == 0:
            print(monitor.update(step))
            if monitor.should_stop:
                break

A reading leaves the random state, the modes of the modules, gradients and weights as they are.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.ambient import neutral
from nelbo.arguments import check_function, checked_path, numbers
from nelbo.bound.prepare import PRECISIONS, Prepared, prepare
from nelbo.bound.runner import Runner
from nelbo.data import readers
from nelbo.documents.reading import filled
from nelbo.errors import UsageError
from nelbo.maths.units import bits_per_dim
from nelbo.model.diffusion import DiffusionModel
from nelbo.monitoring.design import Design, Rows
from nelbo.monitoring.reading import Reading
from nelbo.typing import Condition, Json
from nelbo.workers import Alone, Run, Workers


class Monitor:
    """Readings of the bound of `model` on `data` while its network is trained.

    model: a DiffusionModel whose network is the one in training, or a function without arguments that returns one (for
    averaged weights, say). data: as of `nelbo.evaluate`, best held out. budget: network evaluations of a reading.
    condition: keywords of the network, one row an example. seed: of the draws.

    out: a JSON-lines file to which every reading is appended. log: called with ({name: value, …}, step=step), such as
    `wandb.log`, `accelerator.log` or `mlflow.log_metrics`; names begin with prefix. prefix: of these names. patience,
    errors: `should_stop` once `patience` readings in a row were not lower than the best before by `errors` standard
    errors of the paired difference. precision: as of `nelbo.evaluate`. device: that of the network where None.
    batch_size: as of `nelbo.evaluate`. workers: the processes that share a reading (`nelbo.runtime.workers()`), each of
    which calls `update`.

    Errors: UsageError, and those of `nelbo.evaluate` for data that do not fit the model.

    >>> import nelbo, torch
    >>> data = nelbo.exact.CategoricalData(torch.full((4, 17), 1 / 17))
    >>> model = data.model(nelbo.schedules.logsnr_linear(8.0, -8.0), nelbo.grids.continuous())
    >>> monitor = nelbo.Monitor(model, data.sample(64), budget=256)
    >>> first, second = monitor.update(0), monitor.update(100)
    >>> second.change, second.change_error          # the model is the same, and so are the draws
    (0.0, 0.0)
    """

    @numbers
    def __init__(
        self,
        model: DiffusionModel | Callable[[], DiffusionModel],
        data: Any,
        *,
        budget: int = 512,
        condition: Condition | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        log: Callable[..., Any] | None = None,
        prefix: str = "nelbo/",
        patience: int | None = None,
        errors: float = 1.0,
        precision: str = "float32",
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        workers: Workers | None = None,
    ):
        if not (isinstance(model, DiffusionModel) or callable(model)):
            raise UsageError(
                f"a monitor of a {type(model).__name__}",
                "give what nelbo.from_callable made, or a function returning it",
            )
        if not isinstance(model, DiffusionModel):
            try:
                inspect.signature(model).bind()
            except TypeError as error:
                raise UsageError(
                    f"the function of a monitor takes arguments: {error}",
                    "give one without arguments that returns a DiffusionModel; a network is wrapped by "
                    "nelbo.from_callable",
                ) from None
        check_function("log", log, "values, step=step")
        if errors < 0:
            raise UsageError(f"errors={errors}", "give a number of standard errors, from 0 on")
        if patience is not None and patience < 1:
            raise UsageError(f"patience={patience}", "give a number of readings from 1 on, or None")
        self.model, self.budget = model, budget
        self.examples = readers.whole(data, "a monitor", "it reads at planned times of whole examples")
        self.condition, self.log, self.prefix = condition, log, prefix
        self.out = None if out is None else checked_path("out", out, file=True)
        self.patience, self.errors = patience, errors
        self.run = Run(device, precision, batch_size, seed, None, workers or Alone())
        self.readings: list[Reading] = []
        self.since = 0
        """Readings in a row that were not lower than the best before by `errors` standard errors."""
        self._prepared: Prepared | None = None
        self._design: Design | None = None
        self._last: Rows | None = None
        self._best: Rows | None = None
        self._reference: Rows | None = None  # of the last reading that was lower by `errors` standard errors

    @property
    def should_stop(self) -> bool:
        """Whether `patience` is used up."""
        return self.patience is not None and self.since >= self.patience

    @property
    def best(self) -> Reading | None:
        """The reading of the lowest value; None before the first."""
        return min(self.readings, key=lambda reading: reading.value, default=None)

    def update(self, step: int) -> Reading:
        """The bound of the network as it is now. Errors: NumericalError where a term is not finite."""
        started = time.perf_counter()
        with neutral(), torch.no_grad():
            rows, evaluations = self._evaluate()
        D = self.examples_dimensions
        reading = Reading(
            step,
            *_in_bits(rows, D),
            *_in_bits(None if self._last is None else rows - self._last, D),
            *_in_bits(None if self._best is None else rows - self._best, D),
            best=self._best is None or rows.mean < self._best.mean,
            evaluations=evaluations,
            seconds=time.perf_counter() - started,
        )
        self._last = rows
        self._best = rows if reading.best else self._best
        lower = self._reference is None or _lower(rows - self._reference, self.errors)
        self._reference, self.since = (rows, 0) if lower else (self._reference, self.since + 1)
        self.readings.append(reading)
        self._tell(reading)
        return reading

    @property
    def examples_dimensions(self) -> int:
        """D, the numbers of an example."""
        assert self._prepared is not None
        return self._prepared.model.domain.dimensions

    def _evaluate(self) -> tuple[Rows, int]:
        model = self.model if isinstance(self.model, DiffusionModel) else self.model()
        if not isinstance(model, DiffusionModel):
            raise UsageError(f"the function of a monitor returned a {type(model).__name__}", "return a DiffusionModel")
        device = _device(model) if self.run.device is None else self.run.device
        run = dataclasses.replace(self.run, device=device)
        if self._prepared is None:
            self._prepared = prepare(model, self.examples, run, condition=self.condition)
            self._prepared.agree("monitor", budget=repr(self.budget))
        runner = Runner(run, model.domain.dimensions)
        # the copy, if one is needed, is of the weights as they are now
        now = model.in_precision(PRECISIONS[run.precision], torch.device(device))
        chain = dataclasses.replace(self._prepared.chain, model=now)
        if self._design is None:
            self._design = Design.of(chain, runner, self.budget)
        with now.denoiser.inference():
            return self._design.evaluate(chain, runner), runner.nfe

    def _tell(self, reading: Reading) -> None:
        if self.run.workers.rank:
            return
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(reading.to_dict(), allow_nan=False) + "\n")
        if self.log is not None:
            self.log(self.named(reading), step=reading.step)

    def named(self, reading: Reading) -> dict[str, float]:
        """The numbers of a reading by their names in a tracker; of the first one without changes."""
        names = {"bits_per_dim": reading.value, "standard_error": reading.standard_error}
        names |= {"change": reading.change, "change_error": reading.change_error}
        return {self.prefix + name: value for name, value in names.items() if not math.isnan(value)}

    def state_dict(self) -> Json:
        """What a checkpoint must keep so that a resumed run goes on with the same curve, changes and patience."""
        rows = {"last": self._last, "best": self._best, "reference": self._reference}
        return {
            "identity": self._identity(),
            "since": self.since,
            "readings": [reading.to_dict() for reading in self.readings],
            "rows": {name: r and dict(vars(r)) for name, r in rows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Errors: UsageError where it is of other draws or data."""
        if state["identity"] != self._identity():
            raise UsageError(
                f"the state is of a monitor with {state['identity']}, and this one has {self._identity()}",
                "make the monitor with the same data, budget and seed",
            )
        self.since = state["since"]
        self.readings = [filled(Reading, reading) for reading in state["readings"]]
        made = {name: r and Rows(_kept(r["diffusion"]), _kept(r["first"])) for name, r in state["rows"].items()}
        self._last, self._best, self._reference = made["last"], made["best"], made["reference"]

    def _identity(self) -> Json:
        return {"data": self.examples.fingerprint, "budget": self.budget, "seed": self.run.seed}


def _in_bits(rows: Rows | None, dimensions: int) -> tuple[float, float]:
    """Mean and standard error in bits/dim; nan where there is nothing to compare with."""
    if rows is None:
        return math.nan, math.nan
    return float(bits_per_dim(rows.mean, dimensions)), float(bits_per_dim(rows.error, dimensions))


def _lower(change: Rows, errors: float) -> bool:
    return change.mean < -errors * change.error


def _device(model: DiffusionModel) -> torch.device:
    """The device of the network's parameters, the CPU where it has none."""
    return next((p.device for p in model.denoiser.parameters()), torch.device("cpu"))


def _kept(values: Tensor | list[Any]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()

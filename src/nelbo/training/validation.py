"""The bound of the averaged weights on examples that are not trained on, now and then along a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nelbo.bound.evaluate import evaluate
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training import checkpoint
from nelbo.training.config import Keep, ValidationConfig
from nelbo.typing import Condition, Json
from nelbo.workers import Workers

BEST = "best.pt"


@dataclass
class Validation:
    """Evaluates every `settings.every` steps with a fixed budget, and remembers which step was best.

    Draws are keyed by the run's seed, so that a run that is resumed finds the same values. `at`: the last step whose
    bound is known; `best`: its record of the least bound; `since`: bounds after it that were no better.
    """

    settings: ValidationConfig
    examples: Examples
    condition: Condition | None
    seed: int
    device: torch.device
    workers: Workers
    folder: Path
    at: int = 0
    since: int = 0
    best: Json | None = None

    def due(self, step: int) -> bool:
        """Whether the bound at `step` is wanted and not known."""
        every = self.settings.every
        return every is not None and step > self.at and step % every == 0

    @property
    def exhausted(self) -> bool:
        """Whether the run is to end early: `patience` bounds in a row were no better than the best."""
        return self.settings.patience is not None and self.since >= self.settings.patience

    def run(self, model: DiffusionModel, step: int, steps: int) -> Json:
        """The bound at `step`, as a record of the log; the best weights are written to best.pt. Errors: OSError."""
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the budget was reached is what a budget is for
            found = evaluate(
                model,
                self.examples,
                tolerance=self.settings.tolerance,
                max_nfe=self.settings.max_nfe,
                condition=self.condition,
                seed=self.seed,
                device=self.device,
                workers=self.workers,
            )
        record: Json = {
            "step": step,
            "steps": steps,
            "bound": found.bits_per_dim,
            "standard_error": found.standard_error.estimator,
            "nfe": found.nfe_total,
            "best": self.best is None or found.bits_per_dim < self.best["bound"],
        }
        if record["best"]:
            self.best = {k: record[k] for k in ("step", "bound", "standard_error")}
            if self.workers.rank == 0:
                weights = {k: v.detach().cpu() for k, v in model.denoiser.state_dict().items()}
                checkpoint.write(self.folder / BEST, {**self.best, "net": weights})
        self.at, self.since = step, 0 if record["best"] else self.since + 1
        return {**record, "validation_seconds": round(time.perf_counter() - started, 3)}

    def state(self) -> Json:
        """What a checkpoint holds of it."""
        return {"at": self.at, "since": self.since, "best": self.best}

    def restore(self, state: Json) -> None:
        """The opposite of `state`."""
        self.at, self.since, self.best = state["at"], state["since"], state["best"]

    def chosen(self, say: Callable[[str], None]) -> dict[str, Tensor] | None:
        """The weights that the finished model gets in the place of the last average; None where it is the last."""
        if self.settings.keep is Keep.LAST or self.best is None:
            return None
        try:
            saved: dict[str, Any] = checkpoint.read(self.folder / BEST)
            if saved["step"] == self.best["step"]:
                return saved["net"]
            problem = f"is of step {saved['step']}"
        except checkpoint.UNREADABLE as error:
            problem = f"cannot be read ({type(error).__name__})"
        say(f"{self.folder / BEST}, the best weights, of step {self.best['step']}, {problem}; keeping the last")
        return None

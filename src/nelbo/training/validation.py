"""Validation: the bound of the averaged weights on held-out examples, at intervals of a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nelbo.bound.evaluate import evaluate
from nelbo.bound.latent.evaluate import evaluate as evaluate_latent
from nelbo.bound.tokens.evaluate import evaluate as evaluate_tokens
from nelbo.model.examples import Examples
from nelbo.model.latent.model import LatentModel
from nelbo.model.tokens.model import TokenModel
from nelbo.training import checkpoint
from nelbo.training.config import Keep, ValidationConfig
from nelbo.training.data import AnyModel
from nelbo.typing import Condition, Json
from nelbo.workers import Run

BEST = "best.pt"


@dataclass
class Validation:
    """Evaluates the bound every `settings.every` steps with a fixed budget, and keeps the best weights.

    Draws are keyed by the seed, so that a resumed run gets the same values. run: device, seed and workers. at: the last
    step whose bound is known; best: the record of the least bound; since: the number of bounds after it, none of which
    was better.
    """

    settings: ValidationConfig
    examples: Examples
    condition: Condition | None
    run: Run
    folder: Path
    at: int = 0
    since: int = 0
    best: Json | None = None

    def due(self, step: int) -> bool:
        """Whether the bound at `step` is to be evaluated and is not known yet."""
        every = self.settings.every
        return every is not None and step > self.at and step % every == 0

    @property
    def exhausted(self) -> bool:
        """Whether the run is to end early: `patience` bounds in a row were no better than the best."""
        return self.settings.patience is not None and self.since >= self.settings.patience

    def evaluate(self, model: AnyModel, net: nn.Module, step: int, steps: int) -> Json:
        """The bound at `step`, as a record of the log; the best weights, of `net`, are written to best.pt. Errors:
        OSError."""
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a budget that is used up is no news here
            score: Any = evaluate
            if isinstance(model, TokenModel):
                score = evaluate_tokens
            elif isinstance(model, LatentModel):
                score = evaluate_latent
            bound = score(
                model,
                self.examples,
                self.run,
                tolerance=self.settings.tolerance,
                max_nfe=self.settings.max_nfe,
                condition=self.condition,
            )
        record: Json = {
            "step": step,
            "steps": steps,
            "bound": bound.bits_per_dim,
            "standard_error": bound.standard_error.estimator,
            "nfe": bound.nfe_total,
            "best": self.best is None or bound.bits_per_dim < self.best["bound"],
        }
        if record["best"]:
            self.best = {k: record[k] for k in ("step", "bound", "standard_error")}
            if self.run.workers.rank == 0:
                weights = {k: v.detach().cpu() for k, v in net.state_dict().items()}
                checkpoint.write(self.folder / BEST, {**self.best, "net": weights})
        self.at, self.since = step, 0 if record["best"] else self.since + 1
        return {**record, "validation_seconds": round(time.perf_counter() - started, 3)}

    def state(self) -> Json:
        """Its state, for a checkpoint."""
        return {"at": self.at, "since": self.since, "best": self.best}

    def restore(self, state: Json) -> None:
        """Continue from a `state`."""
        self.at, self.since, self.best = state["at"], state["since"], state["best"]

    def best_weights(self, message: Callable[[str], None]) -> dict[str, Tensor] | None:
        """The weights of the finished model; None where they are the last average.

        message: called with a line where the best weights cannot be read.
        """
        if self.settings.keep is Keep.LAST or self.best is None:
            return None
        try:
            saved: dict[str, Any] = checkpoint.read(self.folder / BEST, {"step", "net"})
            if saved["step"] == self.best["step"]:
                return saved["net"]
            problem = f"is of step {saved['step']}"
        except checkpoint.UNREADABLE as error:
            problem = f"cannot be read ({type(error).__name__})"
        message(f"{self.folder / BEST}, the best weights, of step {self.best['step']}, {problem}; keeping the last")
        return None

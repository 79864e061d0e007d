"""The training loop: AdamW, warm-up and cosine decay, gradient clipping, EMA, JSONL log, atomic checkpoints."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nelbo._version import __version__
from nelbo.errors import Interrupted, NumericalError, UsageError
from nelbo.maths import random
from nelbo.model import folder as model_folder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training import checkpoint
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig, check_config
from nelbo.training.objective_config import make_criterion
from nelbo.training.recipe import with_recipe
from nelbo.typing import Json

Progress = Callable[[Json], None]


def train(
    examples: Examples,
    out: str | Path,
    config: Json | TrainConfig | None = None,
    *,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    message: Callable[[str], None] | None = None,
) -> DiffusionModel:
    """Train a model on `examples`, write it to the folder `out`, and return it (with the averaged weights).

    config: settings as of `TrainConfig` (a dict may name some of them). resume: continue from the newest checkpoint in
    out/checkpoints, to the same result, bit for bit on the same machine, as a run that was never stopped.
    progress: called with a record a step (step, steps, and every `log_every` steps loss, diffusion, reconstruction,
    prior in bits/dim, lr, seconds). message: called with lines a person should read.

    Ctrl-C or SIGTERM finishes the step, saves a checkpoint and raises Interrupted; a second Ctrl-C does not wait.
    Errors: UsageError, DomainError, NumericalError (a loss that is
    not finite; the last checkpoint stays), OSError.
    """
    out, settings = Path(out), check_config(with_recipe(config, examples))
    say = message or (lambda line: None)
    if (out / "model.json").exists() and not resume:
        raise UsageError(f"{out} already holds a model", "continue it with --resume, or choose another folder")
    place = torch.device(device or "cpu")
    model = build_model(examples, settings)
    data = model.domain.checked(examples.data).to(place)
    run = _Run(model, data, settings, place)
    identity = {"config": settings.model_dump(mode="json"), "data": examples.fingerprint}
    if resume:
        state, passed = checkpoint.newest(out / "checkpoints")
        for line in passed:
            say(line)
        if state is None:
            say(f"no checkpoint in {out / 'checkpoints'}: starting from the beginning")
        else:
            _check_identity(state["identity"], identity, out)
            run.restore(state)
            say(f"continuing after step {run.step} of {settings.steps}")
    out.mkdir(parents=True, exist_ok=True)
    log = _Log(out / "log.jsonl", run.step)
    try:
        with log, _private_generator(), _deferred_interrupt() as asked_to_stop:
            for record in run.steps():
                log.write(record)
                if progress is not None:
                    progress(record)
                if asked_to_stop():
                    raise KeyboardInterrupt
                if run.step % settings.checkpoint_every == 0 and run.step < settings.steps:
                    checkpoint.save(out / "checkpoints", run.state(identity))
    except KeyboardInterrupt:
        checkpoint.save(out / "checkpoints", run.state(identity))
        raise Interrupted(
            f"training was stopped after step {run.step} of {settings.steps}; a checkpoint is in {out / 'checkpoints'}",
            "the same command with --resume continues it",
        ) from None
    checkpoint.save(out / "checkpoints", run.state(identity))
    finished = run.finished(_provenance(examples, settings, run), examples.hashes)
    model_folder.save(finished, out)
    return finished


class _Run:
    """Network, average, optimiser and step of one run; `steps` yields a record after each step."""

    def __init__(self, model: DiffusionModel, data: Tensor, settings: TrainConfig, device: torch.device):
        self.model, self.data, self.settings = model, data, settings
        self.net: nn.Module = model.denoiser.to(device)
        decay = settings.ema

        def average(old: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            warm = float(count) / (float(count) + 20)
            torch._foreach_lerp_(old, new, 1 - min(decay, warm))

        self.ema = AveragedModel(self.net, multi_avg_fn=average)  # type: ignore[arg-type]
        self.criterion = make_criterion(settings).to(device)
        groups = [*_decayed(self.net, settings.weight_decay), *_undecayed(self.criterion)]
        self.optimizer = torch.optim.AdamW(groups, settings.lr, fused=True)
        self.step = 0
        self.seconds = 0.0

    def steps(self) -> Iterator[Json]:
        settings = self.settings
        self.net.train()
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        n, B = len(self.data), settings.batch_size
        while self.step < settings.steps:
            started = time.perf_counter()
            places = torch.arange(self.step * B, (self.step + 1) * B)
            rows = []
            for lap in torch.unique(places // n).tolist():
                if lap != epoch:
                    epoch, order = lap, random.permutation(settings.seed, n, level=lap)
                rows.append(order[places[places // n == lap] % n])
            losses = self._one(self.data[torch.cat(rows).to(self.data.device)])
            self.step += 1
            self.seconds += time.perf_counter() - started
            yield self._record(losses)

    def _one(self, target: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        lr = settings.lr * learning_rate_factor(self.step, settings.steps, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed((settings.seed * 1_000_003 + self.step) % 2**63)  # dropout, keyed by the step
        losses = self._losses(target)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.criterion.after_backward()
        self.criterion.end_of_step()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), settings.gradient_clip)
        if not math.isfinite(float(norm)) or not math.isfinite(float(losses["loss"].detach())):
            raise NumericalError(
                f"the loss or its gradient is not finite at step {self.step + 1}",
                "lower lr (--set lr=…) and continue from the last checkpoint, or start again",
            )
        self.optimizer.step()
        self.ema.update_parameters(self.net)
        return losses

    def _losses(self, target: Tensor) -> dict[str, Tensor]:
        """What is minimised, under `loss`, and its parts where it has parts."""
        return self.criterion(self.model, target, self.settings.seed, self.step)

    def _record(self, losses: dict[str, Tensor]) -> Json:
        settings = self.settings
        record: Json = {"step": self.step, "steps": settings.steps}
        if self.step % settings.log_every == 0 or self.step in (1, settings.steps):
            record |= {name: float(value.detach()) for name, value in losses.items()}
            record |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": round(self.seconds, 3)}
        return record

    def state(self, identity: Json) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "criterion": self.criterion.state_dict(),
            "identity": identity,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.criterion.load_state_dict(state["criterion"])
        self.step, self.seconds = state["step"], state["seconds"]

    def finished(self, provenance: Json, hashes: Tensor) -> DiffusionModel:
        self.net.load_state_dict(self.ema.module.state_dict())
        self.net.eval()
        m = self.criterion.frozen(self.model)
        return DiffusionModel(
            m.domain, m.schedule, m.grid, m.denoiser.cpu(), m.reverse, m.decoder, m.prior, provenance, hashes
        )


def _decayed(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and biases, norms and tables of biases, which do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in net.named_parameters():
        groups[parameter.ndim > 1 and not name.endswith("bias")].append(parameter)
    return [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}]


def _undecayed(module: nn.Module) -> list[dict[str, Any]]:
    """One group without decay, or none where nothing in `module` is trained."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [{"params": trained, "weight_decay": 0.0}] if trained else []


class _Log:
    """log.jsonl: one record a line; on resume the lines after the checkpoint's step are dropped."""

    def __init__(self, path: Path, step: int):
        kept = []
        if step and path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut off by a crash
        path.write_text("".join(kept))
        self.file = path.open("a")

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, record: Json) -> None:
        if "loss" in record:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps times a cosine from 1 to 0.01 over the run."""
    return min(1.0, (step + 1) / max(1, warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let SIGINT and SIGTERM wait for the end of a step, so that a checkpoint never holds half an update."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _private_generator() -> Iterator[None]:
    """Leave the caller's global random generator as it was."""
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def _check_identity(saved: Json, current: Json, out: Path) -> None:
    if saved["data"] != current["data"]:
        raise UsageError(
            f"the checkpoints in {out} are of a run on other data", "give the same --data, or another --out"
        )
    changed = [k for k in current["config"] if saved["config"].get(k) != current["config"][k]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"the checkpoints in {out} are of a run with {key} = {saved['config'].get(key)!r}, "
            f"not {current['config'][key]!r}",
            "give the same configuration, or another --out",
        )


def _provenance(examples: Examples, settings: TrainConfig, run: _Run) -> Json:
    return {
        "trained_by": f"nelbo {__version__}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {"name": examples.name, "fingerprint": examples.fingerprint, "examples": len(examples)},
        "config": settings.model_dump(mode="json"),
        "seconds": round(run.seconds, 1),
    }

"""The training loop: steps, validation, checkpoints, and how a run ends."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from nelbo import runtime
from nelbo._version import __version__
from nelbo.arguments import check_function, checked_path
from nelbo.bound import units
from nelbo.errors import Interrupted, UsageError
from nelbo.files import alone_in, sweep, write_atomic
from nelbo.model import folder as model_folder
from nelbo.model.examples import Examples
from nelbo.nets.build import TOKEN_NETS
from nelbo.training import checkpoint
from nelbo.training.batches import Loader
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig
from nelbo.training.data import AnyModel, TrainingData, split, with_zeros
from nelbo.training.log import Log, SilentLog
from nelbo.training.recipe import with_recipe
from nelbo.training.settings import check_config
from nelbo.training.summary import summary
from nelbo.training.trainer import Trainer
from nelbo.training.validation import Validation
from nelbo.typing import Json
from nelbo.workers import Run, Workers, agree

Progress = Callable[[Json], None]
Message = Callable[[str], None]


def train(
    examples: Examples,
    out: str | Path,
    config: Json | TrainConfig | None = None,
    run: Run | None = None,
    *,
    validation: Examples | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    message: Message | None = None,
) -> AnyModel:
    """Train a model on `examples`, write it to the folder `out`, and return it (with the averaged weights).

    config: settings as of `TrainConfig` (a dict may name some of them). validation: examples to bound along the way, in
    the place of a part of `examples`. resume: continue from the newest checkpoint in out/checkpoints, to the same
    result, bit for bit on the same machine, as a run that was never stopped. progress: called with a record a step
    (step, steps, unit, and every `log_every` steps loss, diffusion, reconstruction, prior in that unit, lr, seconds; or
    bound, standard_error, nfe, best). message: called with lines for a person to read. run: its device, and the workers
    that share the run (`nelbo.runtime.workers()`), each of which calls this with the same arguments; seed, batch size
    and precision are settings of `config`.

    Ctrl-C or SIGTERM finishes the step, saves a checkpoint and raises Interrupted; a second Ctrl-C does not wait.
    Errors: UsageError, DomainError, NumericalError (a loss that is not finite), DataError, WorkerError, OSError (no
    space left); the last checkpoint is kept.
    """
    check_function("progress", progress, "record")
    check_function("message", message, "line")
    out, settings, run = checked_path("out", out), check_config(with_recipe(config, examples)), run or Run()
    device, workers = torch.device(run.device or "cpu"), run.workers
    if message is None or workers.rank != 0:
        message = _silent
    model_folder.check_target(out)
    if (out / "model.json").exists() and not resume:
        raise UsageError(f"{out} already holds a model", "continue it with resume=True, or choose another folder")
    if settings.net.name not in TOKEN_NETS:
        examples = with_zeros(examples)
    data = split(examples, validation, settings)
    model = build_model(examples, settings, data.rows)
    if settings.latent is not None and settings.latent.stages == 2 and workers.size > 1:
        raise UsageError(
            f"two stages on {workers.size} processes, which all train all weights at every step",
            "use latent.stages=1, or a single process",
        )
    identity = {"config": settings.model_dump(mode="json"), **data.fingerprints}
    agree(workers, {**identity, "resume": resume}, "train")
    for line in [] if resume else summary(data, model, settings):
        message(line)
    loader = Loader(data.checked(model), data.rows, settings, device, data.condition)
    try:
        trainer = Trainer(model, loader, settings, workers)
        watch = Validation(
            settings.validation, data.held_out, data.held_out_condition,
            Run(device=device, seed=settings.seed, workers=workers), out / "checkpoints",
        )  # fmt: skip
        with _private_generator(), _alone(out, workers):
            if resume:
                _restore(trainer, watch, identity, out, message)
            unit = units.unit(model.describe(), data.examples.facts)
            told = None if progress is None else _in_unit(progress, unit)
            return _run(trainer, watch, data, identity, out, told, message)
    finally:
        loader.close()


def _in_unit(progress: Progress, unit: str) -> Progress:
    """`progress` with records that say what their bits are of."""
    return lambda record: progress({**record, "unit": unit})


def _run(
    trainer: Trainer,
    watch: Validation,
    data: TrainingData,
    identity: Json,
    out: Path,
    progress: Progress | None,
    message: Message,
) -> AnyModel:
    """All steps from where the trainer is, with bounds and checkpoints on the way; then the model is saved."""
    settings, workers = trainer.settings, trainer.workers
    checkpoints = out / "checkpoints"

    def save() -> None:
        if workers.rank == 0:
            checkpoint.save(checkpoints, {**trainer.state(), "validation": watch.state(), "identity": identity})

    with _log(trainer, watch, out) as log, deferred_signals(workers) as stop:
        try:
            while not watch.exhausted:
                if watch.due(trainer.step):
                    record = watch.evaluate(trainer.averaged, trainer.ema.module, trainer.step, settings.steps)
                elif trainer.step < settings.steps:
                    record = trainer.advance()
                else:
                    break
                log.write(record)
                if progress is not None and workers.rank == 0:
                    progress(record)
                if stop():
                    raise KeyboardInterrupt
                due = trainer.step % settings.checkpoint_every == 0 and trainer.step < settings.steps
                if due and "bound" not in record:
                    save()
        except KeyboardInterrupt:
            save()
            _wait(workers)
            raise Interrupted(
                f"training was stopped after step {trainer.step} of {settings.steps}; a checkpoint is in {checkpoints}",
                "the same again with resume=True continues it",
            ) from None
        if watch.exhausted:
            message(f"stopped early after step {trainer.step} of {settings.steps}: {watch.since} bounds were no better")
        save()
        _wait(workers)
        model = trainer.finished(watch.best_weights(message), _provenance(trainer, watch, data), data.hashes)
        if workers.rank == 0:
            model_folder.save(model, out)
    return model


def _wait(workers: Workers) -> None:
    """Until all processes are here: a launcher ends the others where one has left."""
    workers.gather(torch.empty(0, 1, dtype=torch.float64))


def _silent(line: str) -> None:
    pass


def _restore(trainer: Trainer, watch: Validation, identity: Json, out: Path, message: Message) -> None:
    """Continue from the newest checkpoint that can be read, where there is one."""
    state, unreadable = checkpoint.newest(out / "checkpoints")
    for line in unreadable:
        message(line)
    if state is None:
        message(f"no checkpoint in {out / 'checkpoints'}: starting from the beginning")
        trainer.check_agreement()
        return
    try:
        checkpoint.check_identity(state["identity"], identity, out)
        trainer.restore(state)
        watch.restore(state["validation"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the checkpoint of step {state['step']} in {out} does not fit the run: {str(error).splitlines()[0][:200]}",
            "it was altered, or another version of nelbo wrote it: give another out=FOLDER",
        ) from None
    trainer.check_agreement()
    message(f"continuing after step {trainer.step} of {trainer.settings.steps}")


def _log(trainer: Trainer, watch: Validation, out: Path) -> Log:
    """The log of this process; rank 0 prepares the folder."""
    if trainer.workers.rank != 0:
        return SilentLog()
    out.mkdir(parents=True, exist_ok=True)
    sweep(out / "checkpoints", again=True)
    sweep(out, again=True)
    resolved = trainer.settings.model_dump(mode="json")
    write_atomic(out / "config.json", json.dumps(resolved, indent=1) + "\n")
    name = trainer.settings.tracker
    tracker = None if name is None else runtime.tracker(name, out, resolved)
    return Log(out / "log.jsonl", trainer.step, watch.at, tracker)


def _provenance(trainer: Trainer, watch: Validation, data: TrainingData) -> Json:
    settings = trainer.settings
    provenance: Json = {
        "trained_by": f"nelbo {__version__}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data.describe(),
        "config": settings.model_dump(mode="json"),
        "seconds": round(trainer.seconds, 1),
    }
    if settings.condition is not None and data.examples.classes:
        provenance["classes"] = {settings.condition: list(data.examples.classes)}
    if trainer.step < settings.steps:
        provenance["stopped_after"] = trainer.step
    if watch.best is not None:
        provenance["validation"] = {**watch.best, "keep": settings.validation.keep.value}
    if settings.augment:
        provenance["augmentation"] = [change.value for change in settings.augment]
    if trainer.workers.size > 1:
        provenance["processes"] = trainer.workers.size
    return provenance


@contextmanager
def _alone(out: Path, workers: Workers) -> Iterator[None]:
    """Errors: UsageError where another run writes its checkpoints to the same folder."""
    if workers.rank != 0:
        yield
        return
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    with alone_in(out / "checkpoints", wait=False) as alone:
        if not alone:
            raise UsageError(f"another run is training in {out}", "wait for it, or give another out=FOLDER")
        yield


@contextmanager
def _private_generator() -> Iterator[None]:
    """Leave the caller's global random generator as it was."""
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def deferred_signals(workers: Workers) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM wait for the end of a step. Yields a function that says whether to stop, after the same step
    on every process; all of them call it, or none.

    In a single process a second signal does not wait. Of several processes none stops before the others know: a
    launcher may pass one Ctrl-C on more than once. Errors (of the function): WorkerError where a process has ended.
    """
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if received and workers.size == 1:
            raise KeyboardInterrupt
        received.append(number)

    def stop() -> bool:
        if workers.size == 1:
            return bool(received)
        rows = workers.gather(torch.tensor([[float(bool(received))]], dtype=torch.float64))
        return any(bool(row[0, 0]) for row in rows)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

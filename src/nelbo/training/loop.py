"""The training loop: steps, bounds on held-out examples, checkpoints, and how a run ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch

from nelbo import runtime
from nelbo._version import __version__
from nelbo.errors import Interrupted, UsageError
from nelbo.files import write_atomic
from nelbo.model import folder as model_folder
from nelbo.model.diffusion import DiffusionModel
from nelbo.model.examples import Examples
from nelbo.training import checkpoint
from nelbo.training.build import build_model
from nelbo.training.config import TrainConfig, check_config
from nelbo.training.feed import Feed
from nelbo.training.interrupt import deferred
from nelbo.training.recipe import with_recipe
from nelbo.training.record import Log, Silent
from nelbo.training.run import Run
from nelbo.training.split import Split, split
from nelbo.training.validation import Validation
from nelbo.typing import Json
from nelbo.workers import Alone, Workers

Progress = Callable[[Json], None]


def train(
    examples: Examples,
    out: str | Path,
    config: Json | TrainConfig | None = None,
    *,
    validation: Examples | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    message: Callable[[str], None] | None = None,
    workers: Workers | None = None,
) -> DiffusionModel:
    """Train a model on `examples`, write it to the folder `out`, and return it (with the averaged weights).

    config: settings as of `TrainConfig` (a dict may name some of them). validation: examples to bound along the way, in
    the place of a part of `examples`. resume: continue from the newest checkpoint in out/checkpoints, to the same
    result, bit for bit on the same machine, as a run that was never stopped. progress: called with a record a step
    (step, steps, and every `log_every` steps loss, diffusion, reconstruction, prior in bits/dim, lr, seconds; or bound,
    standard_error, nfe, best). message: called with lines a person should read. workers: the processes that share the
    run (`nelbo.runtime.workers()`), each of which calls this with the same arguments.

    Ctrl-C or SIGTERM finishes the step, saves a checkpoint and raises Interrupted; a second Ctrl-C does not wait.
    Errors: UsageError, DomainError, NumericalError (a loss that is not finite), DataError, WorkerError, OSError (no
    space left); the last checkpoint stays.
    """
    out, settings, workers = Path(out), check_config(with_recipe(config, examples)), workers or Alone()
    say = message if message is not None and workers.rank == 0 else (lambda line: None)
    if (out / "model.json").exists() and not resume:
        raise UsageError(f"{out} already holds a model", "continue it with --resume, or choose another folder")
    place = torch.device(device or "cpu")
    parts = split(examples, validation, settings)
    model = build_model(examples, settings, parts.rows)
    feed = Feed(parts.checked(model), parts.rows, settings, place, parts.condition)
    try:
        run = Run(model, feed, settings, place, workers)
        watch = Validation(
            settings.validation, parts.held_out, parts.held_out_condition, settings.seed, place, workers,
            out / "checkpoints",
        )  # fmt: skip
        identity = {"config": settings.model_dump(mode="json"), **parts.fingerprints}
        with _private_generator():
            return _trained(run, watch, parts, identity, out, resume, progress, say)
    finally:
        feed.close()


def _trained(
    run: Run,
    watch: Validation,
    parts: Split,
    identity: Json,
    out: Path,
    resume: bool,
    progress: Progress | None,
    say: Callable[[str], None],
) -> DiffusionModel:
    settings, workers = run.settings, run.workers
    checkpoints = out / "checkpoints"
    if resume:
        _restore(run, watch, identity, out, say)

    def save() -> None:
        if workers.rank == 0:
            checkpoint.save(checkpoints, {**run.state(), "validation": watch.state(), "identity": identity})

    with _log(run, watch, out) as log, deferred(workers) as stop:
        try:
            while not watch.exhausted:
                if watch.due(run.step):
                    record = watch.run(run.averaged, run.step, settings.steps)
                elif run.step < settings.steps:
                    record = run.advance()
                else:
                    break
                log.write(record)
                if progress is not None and workers.rank == 0:
                    progress(record)
                if stop():
                    raise KeyboardInterrupt
                if "bound" not in record and run.step % settings.checkpoint_every == 0 and run.step < settings.steps:
                    save()
        except KeyboardInterrupt:
            save()
            workers.gather(torch.empty(0, 1, dtype=torch.float64))  # a launcher ends all where one has left
            raise Interrupted(
                f"training was stopped after step {run.step} of {settings.steps}; a checkpoint is in {checkpoints}",
                "the same command with --resume continues it",
            ) from None
        if watch.exhausted:
            say(f"stopped early after step {run.step} of {settings.steps}: {watch.since} bounds were no better")
        save()
        workers.gather(torch.empty(0, 1, dtype=torch.float64))
        finished = run.finished(watch.chosen(say), _provenance(run, watch, parts), parts.hashes)
        if workers.rank == 0:
            model_folder.save(finished, out)
    return finished


def _restore(run: Run, watch: Validation, identity: Json, out: Path, say: Callable[[str], None]) -> None:
    """Go on from the newest checkpoint that is whole, where there is one."""
    state, passed = checkpoint.newest(out / "checkpoints")
    for line in passed:
        say(line)
    if state is None:
        say(f"no checkpoint in {out / 'checkpoints'}: starting from the beginning")
        run.agree()
        return
    _check_identity(state["identity"], identity, out)
    run.restore(state)
    watch.restore(state["validation"])
    run.agree()
    say(f"continuing after step {run.step} of {run.settings.steps}")


def _log(run: Run, watch: Validation, out: Path) -> Log:
    """The log of this process, in a folder that is made ready for it."""
    if run.workers.rank != 0:
        return Silent()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(out / "checkpoints")
    checkpoint.tidy(out)
    resolved = run.settings.model_dump(mode="json")
    write_atomic(out / "config.json", json.dumps(resolved, indent=1) + "\n")
    name = run.settings.tracker
    tracker = None if name is None else runtime.tracker(name, out, resolved)
    return Log(out / "log.jsonl", run.step, watch.at, tracker)


@contextmanager
def _private_generator() -> Iterator[None]:
    """Leave the caller's global random generator as it was."""
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


FREE = ("log_every", "checkpoint_every", "tracker")
"""Settings that a run may be continued with other values of: they do not change its weights."""


def _check_identity(saved: Json, current: Json, out: Path) -> None:
    what = {"data": "other data", "validation": "other validation data"}
    for part, words in what.items():
        if saved[part] != current[part]:
            raise UsageError(
                f"the checkpoints in {out} are of a run on {words}", "give the same --data, or another --out"
            )
    changed = [k for k in current["config"] if k not in FREE and saved["config"].get(k) != current["config"][k]]
    if changed:
        key = changed[0]
        raise UsageError(
            f"the checkpoints in {out} are of a run with {key} = {saved['config'].get(key)!r}, "
            f"not {current['config'][key]!r}",
            "give the same configuration, or another --out",
        )


def _provenance(run: Run, watch: Validation, parts: Split) -> Json:
    settings = run.settings
    said: Json = {
        "trained_by": f"nelbo {__version__}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": parts.describe(),
        "config": settings.model_dump(mode="json"),
        "seconds": round(run.seconds, 1),
    }
    if run.step < settings.steps:
        said["stopped_after"] = run.step
    if watch.best is not None:
        said["validation"] = {**watch.best, "keep": settings.validation.keep.value}
    if settings.augment:
        said["augmentation"] = [change.value for change in settings.augment]
    if run.workers.size > 1:
        said["processes"] = run.workers.size
    return said

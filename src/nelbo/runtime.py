"""Several processes that share one evaluation or one training run, as `torchrun` or `accelerate launch` start them.

    torchrun --nproc-per-node 4 -m nelbo evaluate …          accelerate launch --num-processes 4 -m nelbo evaluate …

Values travel between processes as float64 rows on the CPU (gloo), whatever device the networks run on; gradients of
training by DDP, between GPUs over NCCL. Of the processes one speaks: rank 0 prints and writes the result, and a failure
is told once, by the process that met it first. A process that dies ends the others with `WorkerError`: they learn of it
from the launcher (SIGTERM), from the connection that broke, or at last from a timeout. Ctrl-C is agreed on: all stop
after the same round of batches, or the same step.

This is the only module that knows accelerate.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from nelbo.errors import UnknownNameError, UsageError, WorkerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nelbo.typing import Json
    from nelbo.workers import Workers

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for a peer that is alive but says nothing."""
_CLAIM = timedelta(seconds=5)


class Processes:
    """`Workers` of a distributed run: rank, size, and gathering over gloo. Made by `workers`, once a process."""

    def __init__(self) -> None:
        import torch.distributed as dist
        from accelerate import PartialState

        try:
            # the networks run where --device says; the processes talk through the CPU, hence gloo
            state = PartialState(cpu=True, timeout=TIMEOUT)
            self._group: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)
            self._store = _store()
        except (RuntimeError, KeyError, ValueError) as error:
            raise _lost(f"the processes did not find each other ({_first_line(error)})") from None
        self.rank: int = state.process_index
        self.size: int = state.num_processes
        self.stopping: bool = False
        """Whether all processes know that the user wants to stop; the same on every rank after a `gather`."""
        self._asked = False
        self._failed = False
        """Whether the end of the others is no news any more."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_interrupt)
            signal.signal(signal.SIGTERM, self._on_end)

    def gather(self, values: Tensor) -> list[Tensor]:
        """Every rank's rows (n_r, …), in the order of ranks, on every rank; n_r may differ, and may be 0.

        Errors: WorkerError where a peer has died or is silent for `TIMEOUT`.
        """
        import torch
        import torch.distributed as dist

        mine = torch.tensor([len(values), int(self._asked)])
        heads = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(heads, mine, group=self._group)
            rows = [int(head[0]) for head in heads]
            # gloo exchanges equal shapes only; what fills them up is cut off again
            block = torch.full((max(rows), *values.shape[1:]), math.nan, dtype=torch.float64)
            block[: len(values)] = values
            blocks = [torch.empty_like(block) for _ in range(self.size)]
            if block.numel():
                dist.all_gather(blocks, block, group=self._group)
        except (RuntimeError, ValueError) as error:
            raise _lost(f"another of the {self.size} processes of this run ended ({_first_line(error)})") from None
        self.stopping = any(bool(head[1]) for head in heads)
        return [b[:n] for b, n in zip(blocks, rows, strict=True)]

    def replicated(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` as one of equal copies, whose gradients are averaged over the processes in every backward pass."""
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        group = self._group
        if device.type == "cuda" and dist.is_nccl_available():
            group = dist.new_group(backend="nccl", timeout=TIMEOUT)
        try:
            return DistributedDataParallel(module, process_group=group, broadcast_buffers=False)
        except RuntimeError as error:
            raise self.lost(error) or error from None

    def lost(self, error: RuntimeError) -> WorkerError | None:
        """The error that stands for `error`, where that says that a peer is gone; None where it says something else."""
        text = str(error).lower()
        if not any(word in text for word in ("gloo", "nccl", "connection", "broken pipe", "recvvalue", "socket")):
            return None
        return _lost(f"another of the {self.size} processes of this run ended ({_first_line(error)})")

    def finish(self) -> None:
        """Wait until every process is here, so that none that leaves early takes the others with it."""
        import torch

        if self.rank == 0:
            self._failed = True  # its work is done and delivered; what becomes of the others does not change it
        try:
            self.gather(torch.empty(0, 1, dtype=torch.float64))
        except WorkerError:
            if self.rank != 0:
                raise

    def claim(self) -> bool:
        """Whether this process is the one that tells of the run's failure: the first that asks."""
        self._failed = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return _first_to_fail(self._store)

    def _on_interrupt(self, *_: Any) -> None:
        self._asked = True  # a launcher sends it again; the next gather tells the others

    def _on_end(self, *_: Any) -> None:
        if not self._failed:
            raise _lost(f"another of the {self.size} processes of this run ended, or the launcher was stopped")


_here: Processes | None = None


def launched() -> bool:
    """Whether a launcher started this process together with others."""
    return _number("WORLD_SIZE", 1) > 1


def workers() -> Workers:
    """The processes that share the work of `nelbo.evaluate(…, workers=…)`: those a launcher started, else this one.

    Errors: UsageError where accelerate is missing; WorkerError where the processes do not find each other.
    """
    global _here
    if not launched():
        from nelbo.workers import Alone

        return Alone()
    if _here is None:
        try:
            import accelerate  # noqa: F401
        except ImportError:
            raise UsageError(
                f"{os.environ['WORLD_SIZE']} processes were launched, and accelerate, which joins them, is missing",
                "install it with `pip install 'nelbo[train]'`, or run one process without a launcher",
            ) from None
        _here = Processes()
    return _here


def leads() -> bool:
    """Whether this process prints and writes results: rank 0, or the only one."""
    return not launched() or _number("RANK", 0) == 0


def tells() -> bool:
    """Whether this process tells of the failure that ends it; asked once, when it fails."""
    if _here is not None:
        return _here.claim()
    return leads() and (not launched() or _first_to_fail())


def finish() -> None:
    """Wait for the other processes, where there are any, before leaving. Errors: WorkerError."""
    if _here is not None:
        _here.finish()


def leave(status: int) -> NoReturn:
    """End this process with an exit status; of several, without the tidying up that gloo's threads do not survive."""
    if _here is None:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def device(name: str | None) -> str | None:
    """The device of this process where the user said `name`: "cuda" is one GPU a process, everything else as it is.

    Errors: UsageError where a machine has fewer GPUs than processes.
    """
    if name != "cuda" or not launched():
        return name
    import torch

    local, present = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= present:
        raise UsageError(
            f"process {local} of this machine has no GPU of its own: there are {present}",
            f"launch {present} processes, or give --device cuda:0 for all of them to share one",
        )
    return f"cuda:{local}"


class Tracker(Protocol):
    """Where the numbers of a run are shown while it goes on, such as tensorboard."""

    def log(self, values: Json, step: int) -> None:
        """The values of one step."""
        ...

    def finish(self) -> None:
        """Nothing more will come."""
        ...


def tracker(name: str, folder: Path, config: Json) -> Tracker:
    """accelerate's tracker called `name`, of a run called as the folder is; where it writes files, below `folder`.

    Errors: UsageError where accelerate or the tracker's own package is missing, UnknownNameError listing the names.
    """
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError:
        raise UsageError(
            f"the tracker {name!r} comes with accelerate, which is not installed",
            "pip install 'nelbo[train]', or leave tracker out: log.jsonl is always written",
        ) from None
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UnknownNameError.of("tracker", name, LOGGER_TYPE_TO_CLASS)
    PartialState(cpu=True)
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    place = (str(folder / "tracker"),) if kind.requires_logging_directory else ()
    try:
        found = kind(folder.resolve().name, *place)
        getattr(found, "start", lambda: None)()  # older ones start when they are made
    except ImportError as error:
        raise UsageError(
            f"the tracker {name!r} needs a package that is not installed: {error}",
            "install it, or leave tracker out: log.jsonl is always written",
        ) from None
    found.store_init_configuration(_flat(config))
    return found


def _flat(config: Json, prefix: str = "") -> Json:
    """The settings as one level of names (net.width) and plain values, which is all that trackers take."""
    flat: Json = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def _store() -> Any:
    """The launcher's store of keys and values, which outlives the connections between the processes."""
    import torch.distributed as dist

    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_CLAIM)


def _first_to_fail(store: Any = None) -> bool:
    """Whether no other process of this run has claimed the failure; this one has from now on.

    Without a `store` this process failed while it was looking for the others, perhaps because one had just left.
    """
    try:
        store = store or _store()
        return store.add(f"nelbo/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True  # the launcher is gone as well: better said twice than never


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise


def _lost(what: str) -> WorkerError:
    return WorkerError(
        what,
        "the launcher says which, and by what; run the same command again (evaluate goes on with --state FILE, train "
        "with --resume)",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]

"""Several processes that share one evaluation or one training run, as `torchrun` or `accelerate launch` start them.

    torchrun --nproc-per-node 4 -m nelbo evaluate …          accelerate launch --num-processes 4 -m nelbo evaluate …

Values are exchanged as float64 rows on the CPU (gloo), whatever device the networks run on; gradients of training by
DDP, between GPUs over NCCL. Only rank 0 prints and writes the result, and a failure is reported once, by the process in
which it happens first. When a process dies the others end with `WorkerError`: they learn of it from the launcher
(SIGTERM), from a broken connection, or at last from a timeout. After Ctrl-C all processes stop after the same round of
batches, or the same step.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from nelbo.errors import UsageError, WorkerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nelbo.workers import Workers

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for a peer that is alive: a round of batches of a large network may take minutes."""
_STORE_TIMEOUT = timedelta(seconds=5)
"""How long a process that has failed waits for the launcher's store, which answers at once where it is alive."""


class Processes:
    """`Workers` of a distributed run: rank, size, and gathering over gloo. Made by `workers`, once a process."""

    def __init__(self, signals: bool = True) -> None:
        import torch.distributed as dist
        from accelerate import PartialState

        try:
            # the networks run on --device; the processes exchange values on the CPU, hence gloo
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
        """Whether this process has failed or is done, so that the end of the others is no error of its own."""
        if signals and threading.current_thread() is threading.main_thread():
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
            # gloo exchanges equal shapes only: shorter blocks are padded, and the padding is cut off again
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
        """`module` as one of equal replicas, whose gradients are averaged over the processes in every backward pass."""
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
        """The WorkerError for an `error` that means that another process has ended; None for any other."""
        text = str(error).lower()
        if not any(word in text for word in ("gloo", "nccl", "connection", "broken pipe", "recvvalue", "socket")):
            return None
        return _lost(f"another of the {self.size} processes of this run ended ({_first_line(error)})")

    def finish(self) -> None:
        """Wait for all processes, because a launcher ends the others when one leaves early."""
        import torch

        if self.rank == 0:
            self._failed = True  # its result is written: a failure of the others does not change it
        try:
            self.gather(torch.empty(0, 1, dtype=torch.float64))
        except WorkerError:
            if self.rank != 0:
                raise

    def claim(self) -> bool:
        """Whether this process reports the failure of the run: the first that asks."""
        self._failed = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return _first_to_fail(self._store)

    def _on_interrupt(self, *_: Any) -> None:
        self._asked = True  # a launcher may send it again; the others learn of it by the next gather

    def _on_end(self, *_: Any) -> None:
        if not self._failed:
            raise _lost(f"another of the {self.size} processes of this run ended, or the launcher was stopped")


_here: Processes | None = None


def launched() -> bool:
    """Whether a launcher started this process together with others."""
    return _number("WORLD_SIZE", 1) > 1


def workers(signals: bool = True) -> Workers:
    """The processes that share the work of `nelbo.evaluate(…, workers=…)`: those a launcher started, else this one.

    They may have been joined by an `accelerate.Accelerator` before. signals: whether Ctrl-C and SIGTERM are caught from
    now on, so that all processes stop together; False leaves them to a script that trains and only reads a monitor.
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
        _here = Processes(signals)
    return _here


def check_first(verb: str) -> None:
    """That this process is the first of those that a launcher started, or the only one, before it begins work that
    processes do not share. Errors: UsageError on every other one."""
    if launched() and not leads():
        raise UsageError(
            f"nelbo.{verb} was called in process {_number('RANK', 0)} of {_number('WORLD_SIZE', 1)}, and each would do "
            "all of its work",
            "call it in the process of rank 0 alone, or without a launcher; processes share the work of evaluate, "
            "compare, ode_likelihood, sample and train, by workers=nelbo.runtime.workers()",
        )


def leads() -> bool:
    """Whether this process prints and writes results: rank 0, or the only one."""
    return not launched() or _number("RANK", 0) == 0


def reports_failure() -> bool:
    """Whether this process reports the failure that ends it; asked once, when it fails."""
    if _here is not None:
        return _here.claim()
    return leads() and (not launched() or _first_to_fail())


def finish() -> None:
    """Wait for the other processes, if any, before leaving. Errors: WorkerError."""
    if _here is not None:
        _here.finish()


def leave(status: int) -> NoReturn:
    """End this process with an exit status; one of several without Python's clean-up, in which gloo's threads crash."""
    if _here is None:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def device(name: str | None) -> str | None:
    """The device of this process for the user's `name`: "cuda" is one GPU for each process, anything else is itself.

    Errors: UsageError where a machine has fewer GPUs than processes.
    """
    if name != "cuda" or not launched():
        return name
    import torch

    local, present = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= present:
        raise UsageError(
            f"process {local} of this machine has no GPU of its own: there are {present}",
            f"launch {present} processes, or give device='cuda:0' for all of them to share one",
        )
    return f"cuda:{local}"


def _store() -> Any:
    """The launcher's store of keys and values, which outlives the connections between the processes."""
    import torch.distributed as dist

    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_STORE_TIMEOUT)


def _first_to_fail(store: Any = None) -> bool:
    """Whether no other process of this run has reported a failure yet; from now on this one has.

    store: None where this process failed while it was connecting to the others, perhaps because one had just ended.
    """
    try:
        store = store or _store()
        return store.add(f"nelbo/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True  # the launcher has ended as well: a second report is better than none


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise


def _lost(what: str) -> WorkerError:
    return WorkerError(
        what,
        "the launcher says which, and by what; run the same command again (an evaluation goes on with state=FILE, "
        "training with resume=True)",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]
